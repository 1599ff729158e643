"""LAMBADA: the last word of a passage that only the whole passage gives away (Paperno et al. 2016).

Two readings are in use, and reports seldom say which. *Last word*: every token of the last word must be the
network's first choice (lm-evaluation-harness; Megatron's --strict-lambada). *Last token*: only the final token of
the passage, with the word's earlier tokens given (the GPT-2 paper's code; Megatron's default). The second is easier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gptwo.errors import DataError
from gptwo.evaluate.report import Example, Report
from gptwo.evaluate.statistics import Interval, bootstrap_mean
from gptwo.evaluate.suites.base import Subject, SuiteOptions, field_of, judge_pairs, records_of, suite_report

WORST = 8  # passages shown


def lambada(subject: Subject, data: Sequence[str | Path], options: SuiteOptions) -> Report:
    """Accuracy and perplexity of LAMBADA's last words, in both readings.

    Args:
        data: records with "text": the whole passage, its last word parted by a space.
    """
    records, rejects = records_of(data, options.limit)
    pairs = []
    for record in records:
        passage, space, word = str(field_of(record, "text")).strip().rpartition(" ")
        if not space:
            raise DataError("A passage has no last word: it is a single word.", where=record.place())
        pairs.append((passage, " " + word))
    judged = judge_pairs(subject.engine, pairs)

    words_right = [all(one.likeliest) for one in judged]
    tokens_right = [one.likeliest[-1] for one in judged]

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap_mean(values, resamples=options.resamples, seed=options.seed)

    metrics = {
        "accuracy/last word": mean(words_right),
        "accuracy/last token": mean(tokens_right),
        "perplexity/last word": _exponential(mean([-one.total for one in judged])),
        "perplexity/last token": _exponential(mean([-one.logprobs[-1] for one in judged])),
    }
    protocol = {
        "last word": "right where every token of the word is the first choice; perplexity is exp of its mean nats",
        "last token": "right where the passage's final token is the first choice, the tokens before it given",
        "normaliser": f"{len(judged):,} passages",
        "de-tokenizer": "none: the text as it stands, the word with the space before it",
    }
    worst = [
        Example(passage, word.strip(), f"{one.total:.1f} nats", file=record.file, row=record.row)
        for (passage, word), one, record, right in sorted(
            zip(pairs, judged, records, words_right, strict=True), key=lambda row: row[1].total
        )[:WORST]
        if not right
    ]
    return suite_report(
        subject,
        "lambada",
        "LAMBADA",
        metrics,
        protocol,
        primary="accuracy/last word",
        records=len(judged),
        files=[(path, len(judged)) for path in data[:1]],
        worst=worst,
        notes=_notes(sum(one.truncated > 0 for one in judged), rejects.total),
    )


def _exponential(value: Interval) -> Interval:
    """exp of an interval; infinite above what a float holds."""

    def exp(x: float | None) -> float | None:
        return x if x is None else math.exp(x) if x < 700 else math.inf

    return Interval(exp(value.value) or 0.0, exp(value.low), exp(value.high), value.level)


def _notes(truncated: int, rejected: int) -> list[str]:
    notes = []
    if truncated:
        notes.append(f"{truncated} passages were longer than the context and lost tokens on the left")
    if rejected:
        notes.append(f"{rejected} rows could not be used")
    return notes
