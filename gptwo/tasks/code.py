"""Code from a description, or going on where other code ends.

Judged by its tests where running it is asked for, else by its likeness to the solution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess_text import Counted, mean_of
from gptwo.evaluate.sandbox import Limits, pass_at_k, run_programs
from gptwo.evaluate.text_metrics import chrf_counts, chrf_of_sums
from gptwo.recipe import TaskSection
from gptwo.tasks.indentation import indented
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import Written, write
from gptwo.tasks.write import Write
from gptwo.tokenizer import Tokenizer

KS = (1, 5, 10, 100)  # of pass@k, as far as there are so many tries
COMPLETION = "{prompt}"  # the prompt that is nothing but the code before
# what ends a function that is being completed, as in the evaluation of Codex and after it
OUTSIDE = ("\ndef ", "\nclass ", "\n#", "\nif ", "\nprint", "\nassert", "\n@", "\nimport ", "\nfrom ")
# what ends a program, where no training program has it: what follows a solution in the text of the Web
BEHIND = (*OUTSIDE, '\n"""', "\n'''", "\n```", "\n<")
BLANKS = {" ": 8, "\t": 8, "\n": 2}  # so many in a row may stand in any program


class Code(Write):
    """Learn to write the code of a description.

    A record holds `prompt`, `code`, and for running it `tests`: statements, or a list of them, that fail where the
    code is wrong; and perhaps `setup`, statements that stand before the code.

    Programs in Python are learned with a tab for each level of indentation, and given out with four spaces (see
    `gptwo.tasks.indentation`). A program ends where it goes over into what no training program has: a test, a second
    description, or a longer run of blanks.

    With the prompt "{prompt}" alone the code goes on where the prompt ends, as in HumanEval (Chen et al. 2021,
    https://arxiv.org/abs/2107.03374): its white space is kept, and it ends with its function. A record then has an
    `entry_point`, the name of that function: the program that is run begins with the prompt, and where the tests
    define `check`, it is called with the function.

    Args:
        execute: run what was written, with its tests, in a process with limits (see `gptwo.evaluate.sandbox`).
        tries: programs written for each description; above 1 they are drawn.
        others: as in `Write`.
    """

    name = "code"
    source, target = "prompt", "code"
    columns = ("prompt", "code")
    inputs = ("prompt",)
    optional = ("tests", "test_list", "setup", "entry_point")
    template = '"""{prompt}"""\n'
    decoding: ClassVar[dict[str, Any]] = {"num_beams": 1, "temperature": 0.0}
    worst_by = "chrf"

    def __init__(self, prompt: str | None = None, *, execute: bool = False, tries: int = 1, **settings: Any):
        if tries > 1 and not settings.get("decode"):
            settings["decode"] = {"temperature": 0.8, "top_p": 0.95}
        super().__init__(prompt, **settings)
        if tries > 1 and not self.decode.get("temperature"):
            raise UsageError(
                f"{tries} tries of the likeliest tokens would all be the same.",
                where="task.decode",
                fix="task.decode = { temperature = 0.8 }",
            )
        self.tries, self.was_run = tries, False
        self.completes = self.prompt == COMPLETION
        self.tabs = not self.completes
        self.stops: tuple[str, ...] = OUTSIDE if self.completes else ()
        self.run(execute)

    @classmethod
    def of(cls, section: TaskSection, **own: Any) -> Self:
        return super().of(section, execute=section.execute, tries=section.tries, **own)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        """The task of a saved model; it runs nothing, whatever the folder says, until `run` allows it."""
        task = cls(
            info.get("prompt"),
            tries=info.get("tries", 1),
            decode=info.get("decode"),
            max_target=info.get("max_target"),
        )
        task.single_line, task.was_run = info.get("single_line", True), bool(info.get("execute"))
        task.tabs, task.stops = bool(info.get("tabs")), tuple(info.get("stops", task.stops))
        return task

    def describe(self) -> dict[str, Any]:
        own = {"execute": self.execute, "tries": self.tries, "tabs": self.tabs, "stops": list(self.stops)}
        return {**super().describe(), **own}

    def run(self, execute: bool) -> None:
        """Whether programs are run, which decides what is measured."""
        self.execute = execute
        self.measures = (*((f"pass_{k}" for k in KS if k <= self.tries) if execute else ()), "chrf", "exact_match")

    def fit(self, records: Sequence[Record]) -> None:
        super().fit(records)
        known = [self.as_learned(text) for record in records for text in self.targets_of(record)]
        self._longest = [self.as_learned(text) for text in self._longest]
        ends = OUTSIDE if self.completes else [end for end in BEHIND if not any(end in text for text in known)]
        self.stops = (*ends, *longer_runs(known))

    def as_learned(self, text: str) -> str:
        """A program as the network reads and writes it."""
        return indented(text, "\t") if self.tabs else text

    def target_ids(self, text: str, tokenizer: Tokenizer) -> tuple[list[int], int]:
        return super().target_ids(self.as_learned(text), tokenizer)

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> Written:
        """`tries` programs for each record; the first is the text."""
        examples = self.encode_all(runner, records, target=False)
        prompts = [example.ids for example in examples for _ in range(self.tries)]
        found = write(runner.model, runner.tokenizer, prompts, self.options(runner.max_length))
        texts = [self.finish(text) for text, _ in found]
        tries = [texts[start : start + self.tries] for start in range(0, len(texts), self.tries)]
        ended = [end for _, end in found[:: self.tries]]
        return Written([each[0] for each in tries], None, [e.truncated for e in examples], ended, tries=tries)

    def finish(self, text: str) -> str:
        text = text.strip("\n").rstrip()
        return indented(text, "    ") if self.tabs else text

    def options(self, max_length: int) -> dict[str, Any]:
        """As in `Write`, with what ends a program."""
        options = super().options(max_length)
        if "stop" not in self.decode:
            line = () if self.completes else options.get("stop", ())
            options["stop"] = (*line, *self.stops)
        return options

    def field_of(self, record: Record, name: str) -> str:
        return str(record.fields[name]) if self.completes else super().field_of(record, name)

    def references_of(self, record: Record) -> list[str]:
        """The right programs, with the white space before their first line; otherwise as in `Write`."""
        super().references_of(record)
        value = record.fields[self.target]
        found = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        return list(dict.fromkeys(self.finish(one) for one in found))

    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        known = [self.references_of(record) for record in records]
        pairs = zip(said.texts, known, strict=True)
        figures: dict[str, Counted | float] = {}
        if self.execute:
            tries = said.tries or [[text] for text in said.texts]
            programs = [program_of(record, text) for record, each in zip(records, tries, strict=True) for text in each]
            passed = iter([outcome.passed for outcome in run_programs(programs, Limits())])
            right = np.array([[next(passed) for _ in each] for each in tries]).sum(1)
            for k in KS:
                if k <= len(tries[0]):
                    values = [pass_at_k(len(tries[0]), int(count), k) for count in right]
                    figures[f"pass_{k}"] = mean_of(values, right=k == 1 == len(tries[0]))
        figures["chrf"] = Counted(chrf_counts(said.texts, known), chrf_of_sums)
        figures["exact_match"] = mean_of([float(text in references) for text, references in pairs], right=True)
        return figures

    def notes(self, records: Sequence[Record]) -> list[str]:
        if not self.execute:
            why = "task.execute is off"
            if self.was_run:
                why = "the run that tuned the model did so, gptwo evaluate does with --execute"
            return [f"The code was not run: {why}. chrF and exact match compare it with the solution."]
        limits = Limits()
        return [
            f"pass@k: {self.tries} programs of each description were run with its tests, at most {limits.seconds:g} "
            f"seconds and {limits.memory:,} MiB each; the unbiased estimator."
        ]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=r"\w+|[^\w\s]")
        known = vectorizer.fit_transform([self.source_of(record) for record in train])
        nearest = (vectorizer.transform([self.source_of(record) for record in test]) @ known.T).toarray().argmax(1)
        return {"Nearest solution (TF-IDF)": Written([self.targets_of(train[place])[0] for place in nearest])}


def longer_runs(texts: Sequence[str]) -> list[str]:
    r"""Runs of blanks that none of the texts has.

    >>> longer_runs(["a\n\n\n\nb"])
    ['         ', '\t\t\t\t\t\t\t\t\t', '\n\n\n\n\n']
    """
    return [
        blank * (1 + max([least, *(len(run) for text in texts for run in re.findall(f"{blank}+", text))]))
        for blank, least in BLANKS.items()
    ]


def program_of(record: Record, code: str) -> str:
    """A program with the setup before it and the tests of its record after it; of a record with an entry point, with
    its prompt before the code, and `check` called where the tests define it.

    Raises:
        DataError: the record has no tests; names file and row.
    """
    tests = record.fields.get("tests") or record.fields.get("test_list")
    if not tests:
        raise DataError("The record has no tests to run.", where=record.place(), fix="task.execute = false")
    parts = [str(record.fields.get("setup") or ""), code, *([tests] if isinstance(tests, str) else map(str, tests))]
    entry = record.fields.get("entry_point")
    if entry:
        parts[1] = f"{str(record.fields['prompt']).rstrip(chr(10))}\n{code}"
        if any(re.search(r"^def check\(", part, re.MULTILINE) for part in parts[2:]):
            parts.append(f"check({entry})")
    return "\n".join(part for part in parts if part)
