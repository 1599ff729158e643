"""From predictions to a `Report`: metrics with intervals, comparisons, tables, calibration and worst examples.

    >>> report = assess_classification(
    ...     title="Film reviews", gold=["pos", "neg"], texts=["a good film", "a bad film"],
    ...     predictions={
    ...         "Before tuning": Predictions(["pos", "pos"]),
    ...         "Tuned": Predictions(["pos", "neg"]),
    ...         "Majority class": Predictions(["pos", "pos"]),
    ...     },
    ... )
    >>> report.tuned.value("accuracy")
    1.0

The keys of `predictions` are the names that the reader sees, in the order of the columns. The system named by `tuned`
is the one the report is about, the one named by `before` is the same before tuning, all others are cheap baselines.
Everything else that a `Report` holds (data, events, recipe, machine, notes, …) is passed on by keyword.

Axis legend: N records, K classes, U distinct outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gptwo.errors import UsageError, did_you_mean
from gptwo.evaluate import metrics, statistics, tagging
from gptwo.evaluate.compression import Compression
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.report import Report, System
from gptwo.evaluate.slices import Slices, cut_up
from gptwo.evaluate.statistics import Comparison, Interval
from gptwo.evaluate.worst import confidences, worst_examples, worst_tagged

TUNED, BEFORE = "Tuned", "Before tuning"


@dataclass(frozen=True)
class Sampling:
    """How intervals are computed: number of resamples, and the seed."""

    resamples: int = statistics.RESAMPLES
    seed: int = 0

    def bootstrap(self, rows: np.ndarray, statistic: Callable, weights: np.ndarray | None = None) -> Interval:
        return statistics.bootstrap(rows, statistic, weights=weights, resamples=self.resamples, seed=self.seed)

    def mean(self, values: Sequence[float] | np.ndarray) -> Interval:
        return statistics.bootstrap_mean(values, resamples=self.resamples, seed=self.seed)

    def paired(
        self, rows: np.ndarray, statistic: Callable, other: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[Interval, float]:
        return statistics.paired_bootstrap(
            rows, statistic, other, weights=weights, resamples=self.resamples, seed=self.seed
        )


def assess_classification(
    *,
    title: str,
    gold: Sequence[str],
    texts: Sequence[str],
    predictions: dict[str, Predictions],
    labels: Sequence[str] | None = None,
    positive: str | None = None,
    primary: str = "accuracy",
    sources: Sequence[tuple[str, int]] | None = None,
    tuned: str = TUNED,
    before: str = BEFORE,
    sampling: Sampling = Sampling(),
    **fields: Any,
) -> Report:
    """Report on a task with one label for each record.

    Args:
        gold: N labels; `texts`: N texts, for the worst examples.
        predictions: system name to predictions.
        labels: order of the classes; default sorted. Classes that never occur are left out.
        positive: for two classes, the one whose F1 and ROC AUC are reported; default the last of the labels.
        sources: (file, row) of each record.
        fields: further fields of `Report`.
    """
    check_systems(predictions, tuned)
    occurring = set(gold).union(*(said.labels for said in predictions.values()))
    names = [name for name in labels or [] if name in occurring]
    names += sorted(occurring - set(names))
    binary = len(labels or names) == 2
    positive = positive if positive is not None else (list(labels or names) or [""])[-1]
    _, (truth,) = metrics.encode_labels(gold, labels=names)
    guesses = {name: metrics.encode_labels(said.labels, labels=names)[1][0] for name, said in predictions.items()}

    systems = []
    for name, said in predictions.items():
        measured: dict[str, Any] = {"accuracy": sampling.mean(truth == guesses[name])}
        distinct, weights = statistics.collapse(truth * len(names) + guesses[name])
        rows = class_rows(distinct // len(names), distinct % len(names), len(names))
        measured["macro_f1"] = sampling.bootstrap(rows, statistics.macro_f1_of_sums, weights)
        if binary:
            row = next((r for r in metrics.class_table(gold, said.labels).classes if r.name == str(positive)), None)
            measured["f1"] = row.f1 if row else 0.0
        if said.probabilities is not None:
            if binary and positive in said.classes:
                column = np.asarray(said.probabilities)[:, said.classes.index(positive)]
                measured["roc_auc"] = metrics.binary_scores(gold, column, positive=positive)["roc_auc"]
            measured["log_loss"] = sampling.mean(metrics.log_losses(gold, said.probabilities, said.classes))
        sure = confidences(said)
        if sure is not None:
            measured["ece"] = metrics.calibration(sure, truth == guesses[name]).ece
        systems.append(System(name, measured, role_of(name, tuned, before), list(said.labels)))

    comparisons = []
    for name in predictions:
        if name != tuned:
            comparisons.append(
                compare_right(tuned, name, "accuracy", truth == guesses[tuned], truth == guesses[name], sampling)
            )
            code = (truth * len(names) + guesses[tuned]) * len(names) + guesses[name]
            distinct, weights = statistics.collapse(code)
            g, a, b = distinct // len(names) ** 2, distinct // len(names) % len(names), distinct % len(names)
            difference, p_value = sampling.paired(
                class_rows(g, a, len(names)), statistics.macro_f1_of_sums, class_rows(g, b, len(names)), weights
            )
            comparisons.append(Comparison(tuned, name, "macro_f1", difference, p_value, "paired bootstrap"))

    said = predictions[tuned]
    sure = confidences(said)
    if binary:
        fields["notes"] = [f"F1 and ROC AUC: the positive class is {positive!r}.", *fields.get("notes", [])]
    return Report(
        **{
            "title": title,
            "task": "classify",
            "primary": primary,
            "systems": systems,
            "records": len(gold),
            "comparisons": comparisons,
            "tables": {"Classes": metrics.class_table(gold, said.labels, labels=names)},
            "confusion": metrics.confusion_matrix(gold, said.labels, labels=names),
            "calibration": metrics.calibration(sure, truth == guesses[tuned]) if sure is not None else None,
            "worst": worst_examples(texts, gold, said, sources=sources),
            "slices": _right_slices("accuracy", {name: truth == guess for name, guess in guesses.items()}, texts, gold),
            **fields,
        }
    )


def assess_multilabel(
    *,
    title: str,
    gold: Sequence[Sequence[str]],
    texts: Sequence[str],
    predictions: dict[str, Predictions],
    labels: Sequence[str] | None = None,
    primary: str = "micro_f1",
    sources: Sequence[tuple[str, int]] | None = None,
    tuned: str = TUNED,
    before: str = BEFORE,
    sampling: Sampling = Sampling(),
    **fields: Any,
) -> Report:
    """Report on a task with any number of labels for each record; arguments as in `assess_classification`."""
    check_systems(predictions, tuned)
    names = (
        list(labels)
        if labels is not None
        else sorted(set().union(*gold, *(chosen for said in predictions.values() for chosen in said.labels)))
    )
    truth = metrics.indicator(gold, names)
    guesses = {name: metrics.indicator(said.labels, names) for name, said in predictions.items()}
    rows = {
        name: np.stack([truth & guess, guess, truth], axis=2).reshape(len(truth), -1)  # (N, K, 3) -> (N, 3 K)
        for name, guess in guesses.items()
    }
    right = {name: (truth == guess).all(1) for name, guess in guesses.items()}

    systems, comparisons = [], []
    for name, said in predictions.items():
        measured: dict[str, Any] = {
            "micro_f1": sampling.bootstrap(rows[name], statistics.f1_of_sums),
            "macro_f1": sampling.bootstrap(rows[name], statistics.macro_f1_of_sums),
            "subset_accuracy": sampling.mean(right[name]),
        }
        if said.probabilities is not None:
            table = _reorder(said, names)
            measured["log_loss"] = sampling.mean(metrics.multilabel_log_losses(gold, table, names))
            measured["ece"] = metrics.calibration(table.ravel(), truth.ravel()).ece
        systems.append(System(name, measured, role_of(name, tuned, before), [list(chosen) for chosen in said.labels]))
        if name != tuned:
            for key, statistic in (("micro_f1", statistics.f1_of_sums), ("macro_f1", statistics.macro_f1_of_sums)):
                difference, p_value = sampling.paired(rows[tuned], statistic, rows[name])
                comparisons.append(Comparison(tuned, name, key, difference, p_value, "paired bootstrap"))
            comparisons.append(compare_right(tuned, name, "subset_accuracy", right[tuned], right[name], sampling))

    said = predictions[tuned]
    calibration = None
    if said.probabilities is not None:
        calibration = metrics.calibration(_reorder(said, names).ravel(), truth.ravel())
        note = "Calibration is over all labels of all records: how often a record has a label, by its probability."
        fields["notes"] = [note, *fields.get("notes", [])]
    return Report(
        **{
            "title": title,
            "task": "classify",
            "primary": primary,
            "systems": systems,
            "records": len(gold),
            "comparisons": comparisons,
            "tables": {"Labels": metrics.multilabel_table(gold, said.labels, labels=names)},
            "calibration": calibration,
            "worst": worst_examples(texts, gold, said, sources=sources),
            "slices": _right_slices("subset_accuracy", right, texts),
            **fields,
        }
    )


def assess_tagging(
    *,
    title: str,
    gold: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
    predictions: dict[str, Predictions],
    scheme: str | None = None,
    primary: str | None = None,
    sources: Sequence[tuple[str, int]] | None = None,
    tuned: str = TUNED,
    before: str = BEFORE,
    sampling: Sampling = Sampling(),
    **fields: Any,
) -> Report:
    """Report on tagged sentences: entities where the gold tags mark any, and tokens.

    Args:
        gold: a list of tags for each of the N sentences; `texts`: a list of tokens for each.
        scheme: None reads entities leniently (conlleval), a name of `tagging.SCHEMES` strictly.
        primary: default "entity_f1", or "token_accuracy" for tags that mark no entities.
        Other arguments as in `assess_classification`. Intervals resample whole sentences.
    """
    check_systems(predictions, tuned)
    marks_entities = tagging.detect_scheme(gold) is not None
    primary = primary or ("entity_f1" if marks_entities else "token_accuracy")
    systems, rows = [], {}
    for name, said in predictions.items():
        tagging.check_sequences(gold, said.labels)
        hits = [
            sum(a == b for a, b in zip(truth, guess, strict=True))
            for truth, guess in zip(gold, said.labels, strict=True)
        ]
        rows[name, "token_accuracy"] = np.array([hits, [len(tags) for tags in gold]]).T
        measured: dict[str, Any] = {}
        if marks_entities:
            _, counts = tagging.entity_counts(gold, said.labels, scheme=scheme)
            correct, predicted, support = np.moveaxis(counts.sum(1), 1, 0)
            rows[name, "entity_f1"] = counts.sum(1)
            measured = {
                "entity_f1": sampling.bootstrap(counts.sum(1), statistics.f1_of_sums),
                "entity_precision": sampling.bootstrap(np.stack([correct, predicted], 1), statistics.share_of_sums),
                "entity_recall": sampling.bootstrap(np.stack([correct, support], 1), statistics.share_of_sums),
            }
        measured["token_accuracy"] = sampling.bootstrap(rows[name, "token_accuracy"], statistics.share_of_sums)
        measured["token_macro_f1"] = tagging.token_table(gold, said.labels).average("macro").f1
        systems.append(System(name, measured, role_of(name, tuned, before), [list(tags) for tags in said.labels]))

    comparisons = []
    for key, statistic in (("entity_f1", statistics.f1_of_sums), ("token_accuracy", statistics.share_of_sums)):
        for name in predictions:
            if name != tuned and (name, key) in rows:
                difference, p_value = sampling.paired(rows[tuned, key], statistic, rows[name, key])
                comparisons.append(Comparison(tuned, name, key, difference, p_value, "paired bootstrap"))

    said = predictions[tuned]
    tables = {"Entities": tagging.entity_table(gold, said.labels, scheme=scheme)} if marks_entities else {}
    tables["Tokens"] = tagging.token_table(gold, said.labels)
    flat = [list(chain.from_iterable(column)) for column in (gold, said.labels)]
    return Report(
        **{
            "title": title,
            "task": "tag",
            "primary": primary,
            "systems": systems,
            "records": len(gold),
            "comparisons": comparisons,
            "tables": tables,
            "confusion": metrics.confusion_matrix(*flat),
            "worst": worst_tagged(texts, gold, said, sources=sources, marks_entities=marks_entities),
            "slices": cut_up(
                "entity_f1" if marks_entities else "token_accuracy",
                {name: rows[name, "entity_f1" if marks_entities else "token_accuracy"] for name in predictions},
                statistics.f1_of_sums if marks_entities else statistics.share_of_sums,
                texts=texts,
            ),
            **fields,
        }
    )


def assess_language(
    *,
    title: str,
    measured: dict[str, dict[str, float]],
    opponents: Sequence[Compression] = (),
    documents: dict[str, tuple[Sequence[float], Sequence[int]]] | None = None,
    primary: str = "bits_per_byte",
    tuned: str = TUNED,
    before: str = BEFORE,
    sampling: Sampling = Sampling(),
    **fields: Any,
) -> Report:
    """Report on language modelling.

    Args:
        measured: system name to figures, e.g. `TextScore.metrics()`.
        opponents: of `compression`; they stand as baselines by their bits per byte.
        documents: for systems with scores of each held-out document, (bits, bytes) of the documents; gives
            bits_per_byte an interval, and a paired comparison with the tuned system.
        fields: further fields of `Report`, above all `samples` and `events`.
    """
    check_systems(measured, tuned)
    rows = {name: np.array(columns, dtype=float).T for name, columns in (documents or {}).items()}
    systems = []
    for name, values in measured.items():
        figures: dict[str, Any] = dict(values)
        if name in rows:
            figures["bits_per_byte"] = sampling.bootstrap(rows[name], statistics.share_of_sums)
        systems.append(System(name, figures, role_of(name, tuned, before)))
    systems += [System(o.name, {"bits_per_byte": o.bits_per_byte}, "baseline", note=o.note) for o in opponents]
    comparisons = []
    for name in rows:
        if name != tuned and tuned in rows:
            difference, p_value = sampling.paired(rows[tuned], statistics.share_of_sums, rows[name])
            comparisons.append(Comparison(tuned, name, "bits_per_byte", difference, p_value, "paired bootstrap"))
    return Report(
        **{
            "title": title,
            "task": "language",
            "primary": primary,
            "systems": systems,
            "comparisons": comparisons,
            **fields,
        }
    )


def class_rows(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """(U, 3 classes): for each class whether the outcome is correct, predicted, gold."""
    eye = np.eye(classes)
    gold, said = eye[truth], eye[guess]
    return np.stack([gold * said, said, gold], axis=2).reshape(len(truth), -1)


def _right_slices(
    metric: str, right: Mapping[str, np.ndarray], texts: Sequence[str], labels: Sequence[str] | None = None
) -> Slices | None:
    """The share of right records on parts of the test set."""
    rows = {name: np.stack([values, np.ones(len(values))], axis=1) for name, values in right.items()}
    return cut_up(metric, rows, statistics.share_of_sums, texts=texts, labels=labels)


def compare_right(
    name: str, other: str, key: str, right: np.ndarray, other_right: np.ndarray, sampling: Sampling
) -> Comparison:
    """Two systems by the records they get right: paired bootstrap of the difference, exact McNemar test."""
    distinct, weights = statistics.collapse(right * 2 + other_right)
    difference, _ = sampling.paired((distinct // 2)[:, None], _mean_of(len(right)), (distinct % 2)[:, None], weights)
    only, only_other, p_value = statistics.mcnemar(right, other_right)
    return Comparison(name, other, key, difference, p_value, "exact McNemar", only, only_other)


def _mean_of(records: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: sums[:, 0] / records


def _reorder(said: Predictions, names: Sequence[str]) -> np.ndarray:
    """Probabilities with their columns in the order of `names`; 0 for a label the system does not know."""
    given = np.asarray(said.probabilities, dtype=float)
    table = np.zeros((len(given), len(names)))
    for column, name in enumerate(names):
        if name in said.classes:
            table[:, column] = given[:, said.classes.index(name)]
    return table


def role_of(name: str, tuned: str, before: str) -> str:
    """The role of a system in a report, by its name."""
    return {tuned: "tuned", before: "before"}.get(name, "baseline")


def check_systems(systems: Mapping[str, Any], tuned: str) -> None:
    """Raise `UsageError` unless the system that the report is about is among them."""
    if tuned not in systems:
        raise UsageError(f"No system is called {tuned!r}.", fix=did_you_mean(tuned, systems))
