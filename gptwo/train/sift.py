"""Which written texts are worth keeping: finished, new, and of the label they were written for.

What a small model writes is often a text that it has read, or one of another label; both would do harm as training
data. A classifier judges the label, and nearly equal texts are found as `gptwo doctor data` finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptwo import runtime
from gptwo.data.duplicates import near_pairs, normalised
from gptwo.evaluate.baselines import TfidfLogisticRegression
from gptwo.evaluate.metrics import Predictions
from gptwo.tasks import judges

Judge = Callable[[Sequence[str]], Predictions]


@dataclass
class Candidate:
    """A text that was written for a label.

    Args:
        seed, place: of the draw that wrote it, and its place among the texts of that draw.
        ended: it came to its end by itself.
        confidence: what the judge makes of its label, 0 to 1; None where it was not asked.
        refused: why it is not kept; empty where it is.
    """

    text: str
    label: str
    seed: int
    place: int
    ended: bool = True
    confidence: float | None = None
    refused: str = ""


def sift(
    candidates: Sequence[Candidate],
    *,
    judge: Judge,
    confidence: float,
    known: Sequence[str],
    held_out: Sequence[str] = (),
) -> list[Candidate]:
    """The candidates worth keeping, the surest first; every other one is told why not (`refused`).

    Args:
        judge: gives labels and probabilities of texts.
        confidence: least probability of the label that a text was written for.
        known: texts that are there: the given ones, and those kept before.
        held_out: texts that nobody may learn from, such as the test data.
    """
    seen, secret = (dict.fromkeys(map(normalised, texts)) for texts in (known, held_out))  # in their order
    fresh: dict[str, Candidate] = {}
    for one in candidates:
        key = normalised(one.text)
        if not key:
            one.refused = "empty"
        elif not one.ended:
            one.refused = "unfinished"
        elif key in secret:
            one.refused = "in the test data"
        elif key in seen:
            one.refused = "a copy of a text that is there"
        elif fresh.setdefault(key, one) is not one:
            one.refused = "written twice"
    _judge(list(fresh.values()), judge, confidence)
    sure = {key: one for key, one in fresh.items() if not one.refused}
    order = sorted(sure, key=lambda key: -(sure[key].confidence or 0.0))
    taken = [*seen, *secret]
    pairs, _ = near_pairs([*taken, *order])
    for a, b in sorted((max(pair), min(pair)) for pair in pairs):
        if a >= len(taken) and (b < len(taken) or not sure[order[b - len(taken)]].refused):
            sure[order[a - len(taken)]].refused = "nearly a text that is there"
    return [sure[key] for key in order if not sure[key].refused]


def _judge(candidates: list[Candidate], judge: Judge, confidence: float) -> None:
    """Ask the judge; refuse what it finds to be of another label, or is not sure of."""
    if not candidates:
        return
    said = judge([one.text for one in candidates])
    for one, label, shares in zip(candidates, said.labels, said.probabilities, strict=True):
        one.confidence = float(shares[said.classes.index(one.label)])
        if label != one.label:
            one.refused = "judged to be of another label"
        elif one.confidence < confidence:
            one.refused = "not sure enough"


def reasons(candidates: Sequence[Candidate]) -> dict[str, int]:
    """How many were refused for what, the commonest first."""
    return dict(Counter(one.refused for one in candidates if one.refused).most_common())


def judge_of_texts(texts: Sequence[str], labels: Sequence[str]) -> Judge:
    """TF-IDF and logistic regression, learned from these records."""
    return lambda asked: TfidfLogisticRegression().fit_predict(texts, list(labels), list(asked))


def judge_of_model(model: str | Path, labels: Sequence[str], device: str = "auto") -> Judge:
    """A tuned classifier.

    Args:
        labels: that it will be asked about.

    Raises:
        UsageError: it gives no single label, or has not all of these.
    """
    place = runtime.pick_device(device).value
    precision = runtime.pick_precision("auto", place).value
    return judges.Judge(model, labels, where="--judge", device=place, precision=precision)
