"""The test records a system fails on most clearly, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptwo.evaluate import metrics, tagging
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.report import Example

WORST = 30


def confidences(said: Predictions) -> np.ndarray | None:
    """(N,) probability of what was predicted (single label), or None where a system gives none."""
    if said.confidences is not None:
        return np.asarray(said.confidences, dtype=float)
    if said.probabilities is None:
        return None
    _, (column,) = metrics.encode_labels(said.labels, labels=said.classes)
    table = np.asarray(said.probabilities, dtype=float)
    return np.where(column >= 0, table[np.arange(len(column)), column], 0.0)


def worst_examples(
    texts: Sequence[str],
    gold: Sequence,
    said: Predictions,
    *,
    sources: Sequence[tuple[str, int]] | None = None,
    count: int = WORST,
) -> list[Example]:
    """The wrong predictions, the surest first. For label sets: those with the highest loss first."""
    wrong = [n for n, label in enumerate(gold) if metrics.accuracy([label], [said.labels[n]]) == 0]
    several = bool(gold) and isinstance(gold[0], (list, tuple, set, frozenset))
    sure = None if several else confidences(said)
    if several and said.probabilities is not None:
        rank = metrics.multilabel_log_losses(gold, said.probabilities, said.classes)
    else:
        rank = sure if sure is not None else np.zeros(len(gold))
    wrong.sort(key=lambda n: -rank[n])
    return [
        Example(
            texts[n],
            _label_text(gold[n]),
            _label_text(said.labels[n]),
            None if sure is None else float(sure[n]),
            *(sources[n] if sources else ("", n + 1)),
        )
        for n in wrong[:count]
    ]


def worst_tagged(
    texts: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    said: Predictions,
    *,
    sources: Sequence[tuple[str, int]] | None = None,
    marks_entities: bool = True,
    count: int = WORST,
) -> list[Example]:
    """The sentences with most errors first.

    Shown are the gold entities that were missed and the predicted ones that are not there; where tags mark no
    entities, the tokens whose tags differ.
    """
    errors, shown = [], []
    for tokens, truth, guess in zip(texts, gold, said.labels, strict=True):
        if marks_entities:
            sides = [set(tagging.entities(tags)) for tags in (truth, guess)]
            missed, invented = (sorted(a - b, key=lambda e: e.start) for a, b in (sides, sides[::-1]))
            errors.append(len(missed) + len(invented))
            shown.append((_entity_text(tokens, missed), _entity_text(tokens, invented)))
        else:
            differing = [n for n in range(len(truth)) if truth[n] != guess[n]]
            errors.append(len(differing))
            shown.append(tuple("; ".join(f"{tokens[n]} [{tags[n]}]" for n in differing) for tags in (truth, guess)))
    order = sorted((n for n in range(len(gold)) if errors[n]), key=lambda n: -errors[n])
    sure = said.confidences
    return [
        Example(
            join_tokens(texts[n]),
            *shown[n],
            None if sure is None else float(sure[n]),
            *(sources[n] if sources else ("", n + 1)),
        )
        for n in order[:count]
    ]


def _label_text(label: Any) -> str:
    return ", ".join(map(str, label)) or "(none)" if isinstance(label, (list, tuple, set, frozenset)) else str(label)


def _entity_text(tokens: Sequence[str], found: Sequence[tagging.Entity]) -> str:
    return "; ".join(f"{join_tokens(tokens[e.start : e.end])} [{e.type}]" for e in found) or "nothing"


def join_tokens(tokens: Sequence[str]) -> str:
    """Tokens as text: a space between them, but none between two Chinese or Japanese characters."""
    text = ""
    for token in tokens:
        joined = text[-1:] > "\u2e7f" and token[:1] > "\u2e7f"
        text += token if joined or not text else f" {token}"
    return text
