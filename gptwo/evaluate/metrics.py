"""Metrics of classification: precision, recall and F1 tables, multi-label and binary scores, calibration.

Conventions follow scikit-learn: a ratio with denominator 0 is 0, labels are the sorted union of what occurs in gold
and predicted unless given, and the printed table is that of `sklearn.metrics.classification_report`.

Axis legend: N records, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gptwo.errors import DataError


@dataclass
class Predictions:
    """What a system said about N records.

    Args:
        labels: N predictions: a label each; for multi-label a list of labels each; for tagging a list of tags each.
        probabilities: (N, K) over `classes` (multi-label: independent probabilities), or None. For tagging, N arrays
            (tokens, K).
        classes: the K class names of the columns of `probabilities`.
        confidences: N probabilities of what was predicted, where `probabilities` are not given.
    """

    labels: list
    probabilities: Any = None
    classes: list[str] = field(default_factory=list)
    confidences: list[float] | None = None


@dataclass
class ClassScore:
    """Precision, recall and F1 (0..1) of one class or one average; counts are records, tokens or entities."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass
class ClassTable:
    """The table of `classification_report`: a row for each class, then averages.

    `accuracy` is set where the micro average is the accuracy (single-label, all labels); scikit-learn then prints one
    "accuracy" row in place of the "micro avg" row.
    """

    classes: list[ClassScore]
    averages: list[ClassScore]
    accuracy: float | None = None

    def average(self, name: str) -> ClassScore:
        """The average called "micro", "macro", "weighted" (or "samples" for multi-label)."""
        return next(row for row in self.averages if row.name == f"{name} avg")

    def text(self, digits: int = 2, *, accuracy_row: bool = True) -> str:
        """The table as scikit-learn prints it; `accuracy_row=False` keeps "micro avg" in any case."""
        width = max([len(row.name) for row in self.classes] + [len("weighted avg"), digits])
        head = "{:>{width}s} " + " {:>9}" * 4 + "\n\n"
        line = "{:>{width}s} " + " {:>9.{digits}f}" * 3 + " {:>9}\n"
        short = "{:>{width}s} " + " {:>9}" * 2 + " {:>9.{digits}f}" + " {:>9}\n"

        out = head.format("", "precision", "recall", "f1-score", "support", width=width)
        for row in self.classes:
            out += line.format(row.name, row.precision, row.recall, row.f1, row.support, width=width, digits=digits)
        out += "\n"
        for row in self.averages:
            if row.name == "micro avg" and accuracy_row and self.accuracy is not None:
                out += short.format("accuracy", "", "", self.accuracy, row.support, width=width, digits=digits)
            else:
                out += line.format(row.name, row.precision, row.recall, row.f1, row.support, width=width, digits=digits)
        return out

    def to_dict(self) -> dict:
        """Plain JSON values, keys as the field names."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> ClassTable:
        """The inverse of `to_dict`."""
        rows = {key: [ClassScore(**row) for row in value[key]] for key in ("classes", "averages")}
        return cls(**rows, accuracy=value.get("accuracy"))


@dataclass
class ConfusionMatrix:
    """`counts[i][j]` records of gold class `labels[i]` were predicted as `labels[j]`."""

    labels: list[str]
    counts: list[list[int]]

    def confusions(self, count: int = 10) -> list[tuple[str, str, int, int]]:
        """The most frequent errors: (gold, predicted, how often, support of gold), most frequent first."""
        counts = np.asarray(self.counts)
        support = counts.sum(1)
        wrong = counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [divmod(int(cell), len(self.labels)) for cell in order]
        return [(self.labels[i], self.labels[j], int(wrong[i, j]), int(support[i])) for i, j in pairs if wrong[i, j]]

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)


@dataclass
class CalibrationBin:
    """Predictions whose confidence lies in (lower, upper]: how many, their mean confidence, the share correct."""

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


@dataclass
class Calibration:
    """Reliability bins and the expected calibration error (0..1, less is better).

    Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
    """

    ece: float
    bins: list[CalibrationBin]

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> Calibration:
        """The inverse of `to_dict`."""
        return cls(value["ece"], [CalibrationBin(**row) for row in value["bins"]])


def check_lengths(gold: Sequence, predicted: Sequence) -> None:
    """Raise `DataError` unless there is one prediction for each gold label."""
    if len(gold) != len(predicted):
        raise DataError(f"{len(predicted)} predictions for {len(gold)} gold labels.", why="One is needed for each.")


def accuracy(gold: Sequence, predicted: Sequence) -> float:
    """Share of equal pairs, 0..1; 0 for no records. Multi-label: subset accuracy (the label sets are equal)."""
    check_lengths(gold, predicted)
    return sum(_plain(a) == _plain(b) for a, b in zip(gold, predicted, strict=True)) / max(1, len(gold))


def _plain(label: Any) -> Any:
    return frozenset(label) if isinstance(label, (list, tuple, set, frozenset)) else label


def encode_labels(*columns: Iterable, labels: Sequence | None = None) -> tuple[list, list[np.ndarray]]:
    """Labels as indices: (label list, one int array for each column). Labels outside a given list become -1."""
    values = [list(column) for column in columns]
    names = list(labels) if labels is not None else sorted(set().union(*values))
    index = {name: number for number, name in enumerate(names)}
    return names, [np.array([index.get(value, -1) for value in column], dtype=np.int64) for column in values]


def ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """Element-wise division where 0 / 0 is 0."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(
        numerator, denominator, out=np.zeros(np.broadcast(numerator, denominator).shape), where=denominator != 0
    )


def table_from_counts(
    names: Sequence,
    correct: Any,
    predicted: Any,
    support: Any,
    *,
    accuracy: float | None = None,
    samples: ClassScore | None = None,
) -> ClassTable:
    """A `ClassTable` from the K counts of correct, predicted and gold items of each class."""
    correct, predicted, support = (np.asarray(counts, dtype=np.int64) for counts in (correct, predicted, support))
    precision, recall = ratio(correct, predicted), ratio(correct, support)
    f1 = ratio(2 * correct, predicted + support)
    classes = [
        ClassScore(str(name), float(p), float(r), float(f), int(s), int(n))
        for name, p, r, f, s, n in zip(names, precision, recall, f1, support, predicted, strict=True)
    ]

    totals = int(support.sum()), int(predicted.sum())
    hits, columns = correct.sum(), (precision, recall, f1)
    micro = [ratio(hits, totals[1]), ratio(hits, totals[0]), ratio(2 * hits, sum(totals))]
    macro = [ratio(column.sum(), len(names)) for column in columns]
    weighted = [ratio((column * support).sum(), totals[0]) for column in columns]
    averages = [
        ClassScore(f"{name} avg", float(p), float(r), float(f), *totals)
        for name, (p, r, f) in (("micro", micro), ("macro", macro), ("weighted", weighted))
    ]
    return ClassTable(classes, averages + ([samples] if samples else []), accuracy)


def class_table(gold: Sequence, predicted: Sequence, *, labels: Sequence | None = None) -> ClassTable:
    """Precision, recall and F1 of each class and their averages, for single-label predictions.

    Args:
        gold, predicted: N labels each.
        labels: the rows, in order; default the sorted union. A list that leaves labels out gives a micro average in
            place of the accuracy, as in scikit-learn.
    """
    check_lengths(gold, predicted)
    names, (truth, guess) = encode_labels(gold, predicted, labels=labels)
    size = len(names)
    correct = np.bincount(truth[(truth == guess) & (truth >= 0)], minlength=size)
    support, said = (np.bincount(column[column >= 0], minlength=size) for column in (truth, guess))
    complete = bool((truth >= 0).all() and (guess >= 0).all())
    return table_from_counts(
        names, correct, said, support, accuracy=float(ratio(correct.sum(), len(truth))) if complete else None
    )


def indicator(label_sets: Iterable[Iterable], labels: Sequence) -> np.ndarray:
    """Label sets as an (N, K) boolean matrix. Raises `DataError` for a label that is not in `labels`."""
    index = {name: number for number, name in enumerate(labels)}
    label_sets = list(label_sets)
    matrix = np.zeros((len(label_sets), len(labels)), dtype=bool)
    for row, chosen in enumerate(label_sets):
        for label in chosen:
            if label not in index:
                raise DataError(f"Unknown label {label!r}.", where=f"record {row + 1}", fix=f"Known: {list(labels)}")
            matrix[row, index[label]] = True
    return matrix


def multilabel_table(
    gold: Sequence[Iterable], predicted: Sequence[Iterable], *, labels: Sequence | None = None
) -> ClassTable:
    """The table for label sets, with scikit-learn's fourth average, "samples avg"."""
    check_lengths(gold, predicted)
    names = list(labels) if labels is not None else sorted(set().union(*gold, *predicted))
    truth, guess = indicator(gold, names), indicator(predicted, names)
    both = truth & guess
    shares = [
        ratio(both.sum(1), guess.sum(1)),
        ratio(both.sum(1), truth.sum(1)),
        ratio(2 * both.sum(1), truth.sum(1) + guess.sum(1)),
    ]
    p, r, f = (float(ratio(column.sum(), len(truth))) for column in shares)
    samples = ClassScore("samples avg", p, r, f, int(truth.sum()), int(guess.sum()))
    return table_from_counts(names, both.sum(0), guess.sum(0), truth.sum(0), samples=samples)


def binary_scores(gold: Sequence, probability: Sequence[float], *, positive: Any, threshold: float = 0.5) -> dict:
    """Scores of the positive class: precision, recall, f1 at `threshold`, roc_auc, average_precision (all 0..1).

    Args:
        gold: N labels; every label other than `positive` is negative.
        probability: N probabilities of the positive class.
    The areas are NaN where only one class occurs in gold.
    """
    check_lengths(gold, probability)
    truth = np.array([label == positive for label in gold], dtype=bool)
    score = np.asarray(probability, dtype=float)
    guess = score >= threshold
    row = table_from_counts(["positive"], [(truth & guess).sum()], [guess.sum()], [truth.sum()]).classes[0]
    areas = {"roc_auc": float("nan"), "average_precision": float("nan")}
    if truth.any() and not truth.all():
        from sklearn.metrics import average_precision_score, roc_auc_score

        areas = {
            "roc_auc": float(roc_auc_score(truth, score)),
            "average_precision": float(average_precision_score(truth, score)),
        }
    return {"precision": row.precision, "recall": row.recall, "f1": row.f1, **areas}


def log_losses(gold: Sequence, probabilities: Any, classes: Sequence) -> np.ndarray:
    """(N,) negative log-likelihoods in nats of the gold label; probabilities are clipped to 1e-12..1."""
    table = _probability_table(gold, probabilities, classes)
    _, (truth,) = encode_labels(gold, labels=classes)
    chosen = np.where(truth >= 0, table[np.arange(len(truth)), truth], 0.0)
    return -np.log(np.clip(chosen, 1e-12, 1.0))


def log_loss(gold: Sequence, probabilities: Any, classes: Sequence) -> float:
    """Mean of `log_losses`, in nats for each record."""
    return float(log_losses(gold, probabilities, classes).mean()) if len(gold) else 0.0


def multilabel_log_losses(gold: Sequence[Iterable], probabilities: Any, classes: Sequence) -> np.ndarray:
    """(N,) binary cross-entropies in nats, each the mean over the K labels; probabilities clipped by 1e-12."""
    table = np.clip(_probability_table(gold, probabilities, classes), 1e-12, 1 - 1e-12)
    truth = indicator(gold, classes)
    return -np.where(truth, np.log(table), np.log1p(-table)).mean(1)


def _probability_table(gold: Sequence, probabilities: Any, classes: Sequence) -> np.ndarray:
    table = np.asarray(probabilities, dtype=float)
    if table.shape != (len(gold), len(classes)):
        raise DataError(
            f"Probabilities have shape {table.shape}, expected {(len(gold), len(classes))}.",
            why="One row for each record, one column for each class.",
        )
    return table


def calibration(confidence: Sequence[float], correct: Sequence[bool], *, bins: int = 15) -> Calibration:
    """Reliability bins of equal width and the expected calibration error.

    Args:
        confidence: N probabilities of what was predicted, 0..1.
        correct: N booleans: was it right.
    """
    check_lengths(confidence, correct)
    sure, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    mean_sure = ratio(np.bincount(place, weights=sure, minlength=bins), count)
    mean_right = ratio(np.bincount(place, weights=right, minlength=bins), count)
    ece = float(ratio((count * np.abs(mean_sure - mean_right)).sum(), count.sum()))
    rows = [
        CalibrationBin(b / bins, (b + 1) / bins, int(count[b]), float(mean_sure[b]), float(mean_right[b]))
        for b in range(bins)
    ]
    return Calibration(ece, rows)


def confusion_matrix(gold: Sequence, predicted: Sequence, *, labels: Sequence | None = None) -> ConfusionMatrix:
    """Counts of (gold, predicted); pairs with a label outside a given `labels` are not counted."""
    check_lengths(gold, predicted)
    names, (truth, guess) = encode_labels(gold, predicted, labels=labels)
    known = (truth >= 0) & (guess >= 0)
    size = len(names)
    counts = np.bincount(truth[known] * size + guess[known], minlength=size * size).reshape(size, size)
    return ConfusionMatrix([str(name) for name in names], counts.tolist())
