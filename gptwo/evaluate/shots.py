"""Few examples in the prompt instead of tuning: in-context classification, calibrated, over several draws.

    Review: a warm, funny film          one shot: a training record written by the pattern, its label as a word
    Sentiment: good

    Review: two hours of nothing        the query: the label whose word is likeliest is the prediction
    Sentiment:

Contextual calibration (Zhao et al. 2021, "Calibrate Before Use"): the probabilities of the labels after an input
that says nothing ("N/A", "[MASK]", "") show what the prompt favours by itself; dividing by them takes it out.

N test records    K labels    k shots
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.evaluate import metrics
from gptwo.evaluate.baselines import Majority
from gptwo.evaluate.report import Report, System
from gptwo.evaluate.statistics import Interval, bootstrap_mean
from gptwo.evaluate.suites.base import Subject, judge_pairs, suite_report
from gptwo.evaluate.suites.choices import spaced

PATTERN = "{text}\nLabel: {label}"
SEPARATOR = "\n\n"
CONTENT_FREE = ("N/A", "[MASK]", "")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Shots:
    """How records are written into a prompt, and how often it is tried.

    Args:
        count: examples in the prompt, as evenly over the labels as they go; 0 is zero-shot.
        seeds: of the draw and order of the examples, one run each.
        pattern: a record, its fields in braces; "{label}" stands at the end.
        words: label to the word the model shall write; default the label itself.
        separator: between records.
    """

    count: int
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    pattern: str = PATTERN
    words: Mapping[str, str] = field(default_factory=dict)
    separator: str = SEPARATOR

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError(f"There cannot be {self.count} shots.", where="--shots")
        if not self.seeds:
            raise UsageError("At least one draw is needed.", where="--seeds")
        if self.pattern.count("{label}") != 1 or not self.pattern.endswith("{label}"):
            raise UsageError(
                "The prompt must end with {label}, once.", where="--prompt", fix='--prompt "{text}\\nLabel: {label}"'
            )

    def query(self, record: Record) -> str:
        """A record up to its label.

        Raises:
            DataError: it lacks a field of the pattern.
        """

        def value(match: re.Match[str]) -> str:
            if match.group(1) not in record.fields:
                raise DataError(
                    f"The record has no {match.group(1)!r}.",
                    where=record.place(),
                    fix=did_you_mean(match.group(1), record.fields),
                )
            return str(record.fields[match.group(1)])

        return _FIELD.sub(value, self.pattern.removesuffix("{label}")).rstrip(" ")

    def free(self, content: str) -> str:
        """The query with `content` in place of every field."""
        return _FIELD.sub(lambda match: content, self.pattern.removesuffix("{label}")).rstrip(" ")

    def word(self, label: str) -> str:
        """A label as it follows its record."""
        return spaced(self.words.get(label, label))

    def prompt(self, examples: Sequence[Record]) -> str:
        """The examples with their labels, before a query."""
        return "".join(self.query(one) + self.word(label_of(one)) + self.separator for one in examples)


def label_of(record: Record) -> str:
    """The record's one label.

    Raises:
        DataError: it has none.
    """
    label = record.fields.get("label")
    if label is None:
        raise DataError("The record has no label.", where=record.place(), fix="--columns label=…")
    return str(label)


def draw(train: Sequence[Record], count: int, seed: int) -> list[Record]:
    """`count` records, as many of each label as it goes, in random order.

    Raises:
        DataError: there are fewer.
    """
    if len(train) < count:
        raise DataError(f"{count} examples are to be drawn from {len(train)} training records.")
    generator = np.random.default_rng(seed)
    by_label: dict[str, list[Record]] = {}
    for place in generator.permutation(len(train)):
        by_label.setdefault(label_of(train[place]), []).append(train[place])
    labels = [sorted(by_label)[i] for i in generator.permutation(len(by_label))]
    chosen: list[Record] = []
    while len(chosen) < count:
        for label in labels:
            if by_label[label] and len(chosen) < count:
                chosen.append(by_label[label].pop())
    return [chosen[i] for i in generator.permutation(count)]


def label_table(
    subject: Subject, shots: Shots, examples: Sequence[Record], queries: Sequence[str], labels: Sequence[str]
) -> tuple[np.ndarray, int]:
    """(N, K) log-probabilities of the labels' words after each query, and how many prompts were cut to fit."""
    before = shots.prompt(examples)
    judged = judge_pairs(subject.engine, [(before + query, shots.word(label)) for query in queries for label in labels])
    table = np.array([one.total for one in judged]).reshape(len(queries), len(labels))
    return table, sum(one.truncated > 0 for one in judged) // max(1, len(labels))


def probabilities(table: np.ndarray) -> np.ndarray:
    """(N, K) log-probabilities of words to probabilities among the labels."""
    shifted = np.exp(table - table.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def calibrate(shares: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Contextual calibration: (N, K) probabilities, and (F, K) those after inputs that say nothing.

    >>> calibrate(np.array([[0.6, 0.4]]), np.array([[0.75, 0.25]])).round(3).tolist()
    [[0.333, 0.667]]
    """
    divided = shares / np.maximum(free.mean(0), 1e-12)
    return divided / divided.sum(1, keepdims=True)


def few_shot(
    subject: Subject, train: Sequence[Record], test: Sequence[Record], shots: Shots, *, resamples: int = 2000
) -> Report:
    """Classify test records with examples in the prompt; mean and spread over the draws.

    Args:
        train: where examples are drawn from; may be empty with 0 shots.
        test: records with labels.

    Raises:
        DataError: a record without a label or a field of the pattern, too few training records.
        UsageError: a word for a label that does not occur, two labels with the same word.
    """
    gold = [label_of(record) for record in test]
    labels = sorted({*gold, *(label_of(record) for record in train)})
    _check(shots, labels)
    queries = [shots.query(record) for record in test]
    free = [shots.free(content) for content in CONTENT_FREE]

    runs: dict[str, list[dict[str, float]]] = {}
    zero: dict[str, list[str]] = {}
    cut = 0
    counts = [0] if shots.count == 0 else [0, shots.count]
    for count in counts:
        for seed in shots.seeds if count else shots.seeds[:1]:
            examples = draw(train, count, seed) if count else []
            table, shortened = label_table(subject, shots, examples, queries + free, labels)
            cut = max(cut, shortened)
            shares = probabilities(table)
            both = {"": shares[: len(test)], ", calibrated": calibrate(shares[: len(test)], shares[len(test) :])}
            for kind, one in both.items():
                said = [labels[i] for i in one.argmax(1)]
                name = f"{count} shots{kind}"
                runs.setdefault(name, []).append(
                    {
                        "accuracy": metrics.accuracy(gold, said),
                        "macro_f1": metrics.class_table(gold, said).average("macro").f1,
                    }
                )
                if count == 0:
                    zero[name] = said
    systems = [
        System(name, _summary(found, zero.get(name), gold, resamples), note=_note(found))
        for name, found in runs.items()
    ]
    about = systems.pop()
    if train:
        majority = Majority()
        said = majority.fit_predict([""] * len(train), [label_of(one) for one in train], [""] * len(test)).labels
        figures = {
            "accuracy": metrics.accuracy(gold, said),
            "macro_f1": metrics.class_table(gold, said).average("macro").f1,
        }
        systems.append(System(majority.name, figures, "baseline"))
    protocol = {
        "prompt": repr(shots.pattern),
        "words": ", ".join(f"{label} = {shots.word(label)!r}" for label in labels),
        "normaliser": "none: log-probability of the whole word, compared among the labels",
        "calibration": f"contextual, content-free inputs {', '.join(map(repr, CONTENT_FREE))} (Zhao et al. 2021)",
        "examples": f"{shots.count}, as evenly over the labels as they go; seeds {', '.join(map(str, shots.seeds))}"
        if shots.count
        else "none",
    }
    report = suite_report(
        subject,
        "few-shot",
        f"{shots.count} shots in the prompt",
        about.metrics,
        protocol,
        primary="accuracy",
        baselines=systems,
        records=len(test),
        notes=[f"{cut:,} prompts were longer than the context and lost their beginning"] if cut else [],
        recipe={"shots": shots.count, "seeds": list(shots.seeds), "runs": runs},
    )
    report.systems[0].name, report.systems[0].note = about.name, about.note
    return report


def _check(shots: Shots, labels: Sequence[str]) -> None:
    for label in shots.words:
        if label not in labels:
            raise UsageError(f"There is no label {label!r}.", where="--words", fix=did_you_mean(label, labels))
    words = [shots.word(label) for label in labels]
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise UsageError(f"Two labels are written {twice[0].strip()!r}.", where="--words", fix="give each its own word")


def _summary(
    found: Sequence[dict[str, float]], said: Sequence[str] | None, gold: Sequence[str], resamples: int
) -> dict[str, Interval | float]:
    """Means over the draws and their spread; a single run has an interval over the test records instead."""
    if said is not None:
        right = [a == b for a, b in zip(gold, said, strict=True)]
        return {"accuracy": bootstrap_mean(right, resamples=resamples), "macro_f1": found[0]["macro_f1"]}
    summary: dict[str, Interval | float] = {}
    for key in ("accuracy", "macro_f1"):
        values = np.array([run[key] for run in found])
        summary[key] = float(values.mean())
        if len(values) > 1:
            summary[f"{key}_spread"] = float(values.std(ddof=1))
    return summary


def _note(found: Sequence[dict[str, float]]) -> str:
    if len(found) < 2:
        return ""
    values = [run["accuracy"] for run in found]
    return f"{len(found)} draws, accuracy {100 * min(values):.1f} to {100 * max(values):.1f}"
