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
    """The sentences with most errors first (entities missed or invented; tokens where tags mark no entities)."""
    errors, shown = [], []
    for tokens, truth, guess in zip(texts, gold, said.labels, strict=True):
        if marks_entities:
            a, b = set(tagging.entities(truth)), set(tagging.entities(guess))
            errors.append(len(a ^ b))
            shown.append(
                tuple(
                    "; ".join(
                        f"{' '.join(tokens[e.start : e.end])} [{e.type}]" for e in sorted(found, key=lambda e: e.start)
                    )
                    or "nothing"
                    for found in (a, b)
                )
            )
        else:
            differing = [n for n in range(len(truth)) if truth[n] != guess[n]]
            errors.append(len(differing))
            shown.append(tuple("; ".join(f"{tokens[n]} [{tags[n]}]" for n in differing) for tags in (truth, guess)))
    order = sorted((n for n in range(len(gold)) if errors[n]), key=lambda n: -errors[n])
    sure = said.confidences
    return [
        Example(
            " ".join(texts[n]),
            *shown[n],
            None if sure is None else float(sure[n]),
            *(sources[n] if sources else ("", n + 1)),
        )
        for n in order[:count]
    ]


def _label_text(label: Any) -> str:
    return ", ".join(map(str, label)) or "(none)" if isinstance(label, (list, tuple, set, frozenset)) else str(label)
