"""Choosing by likelihood: HellaSwag, COPA, Winograd schemas, cloze, and any question with given answers.

Each answer is scored by log P(answer | question). What the sum is divided by changes who wins, so every customary
normaliser is reported under its name:

    sum             nothing (lm-evaluation-harness: acc)
    token           tokens of the answer
    character       characters of the answer (lm-evaluation-harness: acc_norm)
    unconditional   minus log P(answer | a neutral question), as in Brown et al. 2020, section 2.4

Winograd schemas are scored by what follows the name that is put into the blank ("partial", Trinh & Le 2018) or by the
whole sentence ("full"); a cloze by its whole sentence after the context (Radford et al. 2019, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.data.sources import Record
from gptwo.errors import DataError, did_you_mean
from gptwo.evaluate.report import Example, Report, System
from gptwo.evaluate.statistics import bootstrap_mean
from gptwo.evaluate.suites.base import (
    Judged,
    Subject,
    SuiteOptions,
    field_of,
    judge_pairs,
    records_of,
    suite_report,
)

BLANKS = ("XXXXX", "_____", "___", "_")
NEUTRAL = "Answer:"
WORST = 8  # questions shown


@dataclass(frozen=True)
class Question:
    """A question whose answers are to be compared.

    Args:
        readings: name of a reading to (context, continuation) of each answer.
        answers: as the reader shall see them, and what "character" divides by.
        right: index of the right one.
        text: the question.
    """

    readings: dict[str, list[tuple[str, str]]]
    answers: list[str]
    right: int
    text: str


# --- from records to questions


def plain_choice(record: Record) -> Question:
    """{"question" or "context", "choices", "answer"}."""
    context = str(field_of(record, "question", "context", "query", "stem", "prompt")).rstrip()
    answers = answers_of(record, "choices", "endings", "options")
    return Question({"": [(context, spaced(a)) for a in answers]}, answers, right_of(record, answers), context)


def hellaswag(record: Record) -> Question:
    """{"activity_label", "ctx_a", "ctx_b" (or "ctx"), "endings", "label"}, with wikiHow's brackets taken out."""
    if "ctx_a" in record.fields:
        context = f"{record.fields['ctx_a']} {str(record.fields.get('ctx_b') or '').capitalize()}"
    else:
        context = str(field_of(record, "ctx"))
    if record.fields.get("activity_label"):
        context = f"{record.fields['activity_label']}: {context}"
    context = _without_brackets(context)
    answers = [_without_brackets(ending) for ending in answers_of(record, "endings")]
    return Question({"": [(context, spaced(a)) for a in answers]}, answers, right_of(record, answers), context)


def copa(record: Record) -> Question:
    """{"premise", "choice1", "choice2", "question": "cause" or "effect", "label"}: "because" or "so" joins them."""
    kind = str(field_of(record, "question"))
    if kind not in ("cause", "effect"):
        raise DataError(f"The question is {kind!r}, neither 'cause' nor 'effect'.", where=record.place())
    context = str(field_of(record, "premise")).strip().rstrip(".") + {"cause": " because", "effect": " so"}[kind]
    answers = [str(field_of(record, name)).strip() for name in ("choice1", "choice2")]
    written = [answer[:1].lower() + answer[1:] for answer in answers]
    return Question({"": [(context, spaced(a)) for a in written]}, answers, right_of(record, answers), context)


def winograd(record: Record) -> Question:
    """{"sentence" with a blank "_", "option1", "option2" (or "options"), "answer"}; option1 may be answered by 1."""
    sentence = str(field_of(record, "sentence", "text", "question"))
    if "option1" in record.fields:
        answers = [str(field_of(record, name)) for name in ("option1", "option2")]
        right = right_of(record, answers, first=1)
    else:
        answers = answers_of(record, "options", "choices")
        right = right_of(record, answers)
    before, after = blank_of(record, sentence)
    partial = [(before + answer, after) for answer in answers]
    full = [("", before + answer + after) for answer in answers]
    if not after.strip():
        partial = [(before, answer) for answer in answers]
    return Question({"partial": partial, "full": full}, answers, right, sentence)


def cloze(record: Record) -> Question:
    """{"context", "question" with a blank "XXXXX" or "_", "choices", "answer"}, as in the Children's Book Test."""
    question = str(field_of(record, "question", "sentence"))
    context = record.fields.get("context") or ""
    context = " ".join(map(str, context)) if isinstance(context, list) else str(context)
    before, after = blank_of(record, question)
    answers = answers_of(record, "choices", "options", "candidates")
    begun = (context.rstrip() + spaced(before)).strip()
    apart = begun and (not before or before[-1:].isspace())
    pairs = [(begun, (spaced(answer) if apart else answer) + after) for answer in answers]
    return Question({"": pairs}, answers, right_of(record, answers), question)


def spaced(text: str) -> str:
    """A text as it follows another: after a space, unless it begins with a Chinese or Japanese character."""
    return text if ord(text[:1] or " ") > 0x2E7F else " " + text


def answers_of(record: Record, *names: str) -> list[str]:
    """The answers to choose from, at least two."""
    found = field_of(record, *names)
    if isinstance(found, dict):  # {"text": […], "label": […]}
        found = found.get("text")
    if not isinstance(found, list) or len(found) < 2:
        raise DataError(f"{found!r} is no list of two or more answers.", where=record.place())
    return [str(answer).strip() for answer in found]


def right_of(record: Record, answers: Sequence[str], first: int = 0) -> int:
    """Index of the right answer, given as a number from `first` on, as a letter, or word for word.

    Raises:
        DataError: it is none of the answers.
    """
    given: Any = field_of(record, "answer", "label", "gold", "answerKey")
    text = str(given).strip()
    if text in answers:
        return list(answers).index(text)
    place = int(text) - first if re.fullmatch(r"-?\d+", text) else ord(text) - ord("A") if len(text) == 1 else -1
    if not 0 <= place < len(answers):
        raise DataError(
            f"The answer {text!r} is none of the {len(answers)} choices.",
            where=record.place(),
            fix=f"a number from {first} on, a letter from A on, or the choice itself. {did_you_mean(text, answers)}",
        )
    return place


def blank_of(record: Record, sentence: str) -> tuple[str, str]:
    """What stands before and after the blank."""
    for blank in BLANKS:
        if sentence.count(blank) == 1:
            before, _, after = sentence.partition(blank)
            return before, after
    raise DataError("The sentence has no blank, or several.", where=record.place(), fix="mark it once, with _ or XXXXX")


def _without_brackets(text: str) -> str:
    """HellaSwag's wikiHow passages without their "[title]" and "[step]"."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ").strip()


# --- the suites

NORMALISERS: dict[str, Callable[[Judged, str], float]] = {
    "sum": lambda judged, answer: judged.total,
    "token": lambda judged, answer: judged.total / max(1, len(judged.logprobs)),
    "character": lambda judged, answer: judged.total / max(1, len(answer)),
}


@dataclass(frozen=True)
class Kind:
    """A suite of questions: how a record is read, and which figures are customary.

    Args:
        title: of the report.
        read: a record as a question.
        normalisers: keys of `NORMALISERS`, or "unconditional".
        primary: the figure that decides: a normaliser, or a reading.
    """

    title: str
    read: Callable[[Record], Question]
    normalisers: tuple[str, ...]
    primary: str


KINDS = {
    "choice": Kind("choice by likelihood", plain_choice, ("sum", "token", "character", "unconditional"), "token"),
    "hellaswag": Kind("HellaSwag", hellaswag, ("sum", "token", "character"), "character"),
    "copa": Kind("COPA", copa, ("sum", "token", "unconditional"), "sum"),
    "winograd": Kind("Winograd schemas", winograd, ("sum",), "partial"),
    "cloze": Kind("cloze", cloze, ("sum", "token"), "sum"),
}
SAID = {
    "sum": "log P(answer | question), not divided (lm-evaluation-harness: acc)",
    "token": "the same, divided by the answer's tokens",
    "character": "the same, divided by the answer's characters (lm-evaluation-harness: acc_norm)",
    "unconditional": f"log P(answer | question) − log P(answer | {NEUTRAL!r})",
    "partial": "log P(what follows the blank | what precedes it, with the answer in it) (Trinh & Le 2018)",
    "full": "log P(the whole sentence with the answer in it)",
}


def choose(suite: str, subject: Subject, data: Sequence[str | Path], options: SuiteOptions) -> Report:
    """Accuracy of choosing by likelihood, under each customary normaliser.

    Args:
        suite: a key of `KINDS`.
    """
    kind = KINDS[suite]
    records, rejects = records_of(data, options.limit)
    questions = [kind.read(record) for record in records]
    tables, truncated = _scores(subject, questions, kind)
    right = np.array([question.right for question in questions])
    chosen = {name: np.array([row.argmax() for row in rows]) for name, rows in tables.items()}
    metrics = {
        f"accuracy/{name}": bootstrap_mean(picks == right, resamples=options.resamples, seed=options.seed)
        for name, picks in chosen.items()
    }
    main = kind.primary if kind.primary in chosen else next(iter(chosen))
    chance = float(np.mean([1 / len(question.answers) for question in questions]))
    notes = [f"{truncated:,} answers had a question cut on the left to fit the context"] if truncated else []
    if rejects.total:
        notes.append(f"{rejects.summary()}")
    wrong = [i for i in range(len(questions)) if chosen[main][i] != right[i]]
    margin = {i: tables[main][i].max() - tables[main][i][right[i]] for i in wrong}
    worst = [
        Example(
            questions[i].text,
            questions[i].answers[right[i]],
            questions[i].answers[chosen[main][i]],
            file=records[i].file,
            row=records[i].row,
        )
        for i in sorted(wrong, key=lambda i: -margin[i])[:WORST]
    ]
    return suite_report(
        subject,
        suite,
        kind.title,
        metrics,
        {name: SAID[name] for name in chosen} | {"de-tokenizer": "none"},
        primary=f"accuracy/{main}",
        baselines=[System("Chance", {f"accuracy/{main}": chance}, "baseline", note="one answer drawn at random")],
        records=len(questions),
        files=[(path, len(questions)) for path in data[:1]],
        worst=worst,
        notes=notes,
    )


def _scores(subject: Subject, questions: Sequence[Question], kind: Kind) -> tuple[dict[str, list[np.ndarray]], int]:
    """Reading or normaliser to the scores of each question's answers; how many pairs were cut."""
    tables: dict[str, list[np.ndarray]] = {}
    cut = 0
    for reading in questions[0].readings:
        pairs = [pair for question in questions for pair in question.readings[reading]]
        judged = judge_pairs(subject.engine, pairs)
        cut += sum(one.truncated > 0 for one in judged)
        neutral = None
        if "unconditional" in kind.normalisers:
            neutral = judge_pairs(subject.engine, [(NEUTRAL, continuation) for _, continuation in pairs])
        answers = [answer for question in questions for answer in question.answers]
        borders = np.cumsum([len(question.answers) for question in questions])[:-1]
        for name in kind.normalisers:
            if neutral is not None and name == "unconditional":
                values = [one.total - other.total for one, other in zip(judged, neutral, strict=True)]
            else:
                values = [NORMALISERS[name](one, answer) for one, answer in zip(judged, answers, strict=True)]
            tables[reading or name] = np.split(np.array(values), borders)
    return tables, cut
