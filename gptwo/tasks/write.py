"""Tasks that write a text: a source goes in, a target comes out; the base of translation, summaries and answers.

The network reads the prompt, a template with the source in it, and goes on with the target and the end token; only
these carry loss. Tuning and writing give it the same prompt, token for token: the target has `max_target` tokens of
the context to itself, and a source that does not fit beside them loses its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess_text import Counted, assess_texts, perplexity_of
from gptwo.evaluate.language import TextScore, language_loss
from gptwo.evaluate.report import Report
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.recipe import TaskSection
from gptwo.tasks.base import Predictor
from gptwo.tasks.language import template_fields
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import Written, costs_of, cut_to_fit, decode_options, evenly, plain_text, value_of, write
from gptwo.tokenizer import Tokenizer

LONGEST = 200  # training targets, the longest in characters, whose tokens decide max_target


class Write(Predictor):
    """Learn to write a target for a source.

    Args:
        prompt: template of what stands before the target, with fields in braces; None: the task's own.
        decode: options of generation over the task's own, e.g. {"num_beams": 1}. Without beams and without a
            temperature the likeliest token is taken.
        max_target: tokens of a target at most, its end included; None: the longest of the training data, at most
            half of the context.
        evaluate_texts: validation records, evenly spread, that are written at an evaluation for the task's figures;
            0: loss and perplexity only.

    Attributes:
        source, target: fields; of the prompt's fields the source is the one that is cut where it is too long.
        output: what `gptwo predict` calls the text; as the target where it is empty.
        template: the task's own prompt.
        decoding: the task's own options of generation.
        measures: what `measured` gives for texts; the first is the report's primary metric.
        worst_by: what finds the worst texts.
    """

    head = "language"
    labels: list[str]
    source: ClassVar[str]
    target: ClassVar[str]
    output: ClassVar[str] = ""
    template: ClassVar[str]
    decoding: ClassVar[dict[str, Any]] = {"num_beams": 4, "length_penalty": 1.0}
    measures: tuple[str, ...]
    worst_by: str

    def __init__(
        self,
        prompt: str | None = None,
        *,
        decode: Mapping[str, Any] | None = None,
        max_target: int | None = None,
        evaluate_texts: int = 32,
    ):
        self.labels = []
        self.prompt = prompt or self.template
        self.decode = decode_options(self.decoding, decode or {})
        self.max_target = max_target
        self.evaluate_texts = evaluate_texts
        self.single_line = True
        self._longest: list[str] = []
        inputs = template_fields(self.prompt)
        if not inputs or self.target in inputs:
            raise UsageError(
                f"The prompt {self.prompt!r} must have a field of the source, and not {self.target!r}.",
                where="task.prompt",
                fix=f"for example {self.template!r}",
            )
        self.inputs = tuple(inputs)
        self.columns = (*inputs, self.target)
        self.cut_field = self.source if self.source in inputs else inputs[0]

    @property
    def figures(self) -> tuple[str, ...]:
        """Loss, and the task's own where texts are written at an evaluation."""
        return ("loss", "perplexity", *(self.measures if self.evaluate_texts else ()))

    @classmethod
    def of(cls, section: TaskSection, **own: Any) -> Self:
        """The task of a recipe; `own` are arguments of a task beside those of all."""
        return cls(
            section.prompt,
            decode=section.decode,
            max_target=section.max_target,
            evaluate_texts=section.evaluate_texts,
            **own,
        )

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        task = cls(info.get("prompt"), decode=info.get("decode"), max_target=info.get("max_target"))
        task.single_line = info.get("single_line", True)
        return task

    # --- learning

    def fit(self, records: Sequence[Record]) -> None:
        if not records:
            raise DataError("There is nothing to learn from.")
        targets = [text for record in records for text in self.targets_of(record)]
        self.single_line = not any("\n" in text for text in targets)
        self._longest = sorted(set(targets), key=len, reverse=True)[:LONGEST]

    def check(self, record: Record) -> None:
        self.targets_of(record)
        if not plain_text(record.fields[self.cut_field]):
            raise self._empty(self.cut_field, record)

    def fit_tokens(self, tokenizer: Tokenizer, max_length: int) -> None:
        if self.max_target is None:
            longest = max((len(ids) for ids in tokenizer.encode_batch(self._longest)), default=1)
            self.max_target = max(1, min(longest + 1, max_length // 2))
        if self.max_target >= max_length:
            raise UsageError(
                f"Of {max_length} tokens {self.max_target} are for the target; nothing is left for the source.",
                where="task.max_target",
                fix="lower it, or raise data.max_length",
            )

    def room(self, max_length: int) -> str:
        return f"{max_length:,} tokens, of which {self.target_room(max_length):,} are for the {self.target}"

    def references_of(self, record: Record) -> list[str]:
        """The right texts of a record, each once, in their order; a list in the target's field is several of them.

        Raises:
            DataError: there is none, or one is empty; names file and row.
        """
        value = record.fields[self.target]
        found = [plain_text(one) for one in value] if isinstance(value, list | tuple) else [plain_text(value)]
        if not found or not all(found):
            raise self._empty(self.target, record)
        return list(dict.fromkeys(found))

    @staticmethod
    def _empty(name: str, record: Record) -> DataError:
        return DataError(f"The {name} is empty.", where=record.place(), fix="correct or remove the row")

    def targets_of(self, record: Record) -> list[str]:
        """What is to be written for a record, each of several references."""
        return self.references_of(record)

    def field_of(self, record: Record, name: str) -> str:
        """A field as the prompt has it."""
        return plain_text(record.fields[name])

    def source_of(self, record: Record) -> str:
        """The text that a reader knows a record by."""
        return plain_text(record.fields[self.cut_field])

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        prompt, cut = self.prompt_ids(record, tokenizer, max_length)
        if not target:
            return [Example(prompt, index=index, truncated=cut)]
        examples = []
        for text in self.targets_of(record):
            ids, over = self.target_ids(text, tokenizer)
            whole = prompt + ids
            labels = [IGNORE] * (len(prompt) - 1) + ids
            examples.append(Example(whole[:-1], labels, index=index, truncated=cut + over))
        return examples

    def prompt_ids(self, record: Record, tokenizer: Tokenizer, max_length: int) -> tuple[list[int], int]:
        """What stands before the target, and how many tokens of the source were cut off.

        Raises:
            DataError: a source without text, or no room for any of it; names file and row.
        """
        fields = {name: self.field_of(record, name) for name in self.inputs}
        if not fields[self.cut_field]:
            raise self._empty(self.cut_field, record)
        start = [] if tokenizer.start_id is None else [tokenizer.start_id]
        room = max_length + 1 - self.target_room(max_length) - len(start)
        text = fields[self.cut_field]
        found = cut_to_fit(tokenizer, text, lambda kept: self.prompt.format(**{**fields, self.cut_field: kept}), room)
        if found is None:
            raise DataError(
                f"Of {max_length} tokens {self.max_target} are for the {self.target}, and the rest of the prompt "
                f"leaves none for the {self.cut_field}.",
                where=record.place(),
                fix="shorten the other fields or task.prompt, lower task.max_target, or raise data.max_length",
            )
        ids, cut = found
        return start + ids, cut

    def target_room(self, max_length: int) -> int:
        """Tokens that a target has at most; half of the context for a task that has learned nothing yet."""
        return min(self.max_target or max_length // 2, max_length - 1)

    def target_ids(self, text: str, tokenizer: Tokenizer) -> tuple[list[int], int]:
        """A target with its end, and how many of its tokens were cut off."""
        ids = tokenizer.encode(text)
        ids = ids if tokenizer.end_id is None else [*ids, tokenizer.end_id]
        size = self.max_target or len(ids)
        return ids[:size], max(0, len(ids) - size)

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return language_loss(model, batch, label_smoothing)

    def count(self, batch: Batch) -> float:
        return int((batch.labels != IGNORE).sum())

    # --- writing

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> Written:
        """A text for each record, in their order. Weights and products keep the precision of the model."""
        examples = self.encode_all(runner, records, target=False)
        found = write(runner.model, runner.tokenizer, [e.ids for e in examples], self.options(runner.max_length))
        return Written(
            [self.finish(text) for text, _ in found], None, [e.truncated for e in examples], [end for _, end in found]
        )

    def options(self, max_length: int) -> dict[str, Any]:
        """Options of generation; where no training target has several lines, a text ends with its line."""
        lines = {"stop": ("\n",)} if self.single_line and "stop" not in self.decode else {}
        return {**self.decode, **lines, "max_new_tokens": self.target_room(max_length)}

    def finish(self, text: str) -> str:
        """A text as it is given out."""
        return text.strip()

    def costs(self, runner: ModelRunner, records: Sequence[Record]) -> np.ndarray:
        """(N, 2) nats and tokens of each record's first reference."""
        examples = [self.encode(record, runner.tokenizer, runner.max_length, i)[0] for i, record in enumerate(records)]
        return costs_of(runner, examples, len(records))

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        costs = self.costs(runner, records)
        score = TextScore(float(costs[:, 0].sum()), int(costs[:, 1].sum()), 0)
        figures = {"loss": score.loss, "perplexity": score.perplexity}
        if self.evaluate_texts:
            some = evenly(records, self.evaluate_texts)
            said = self.predict(runner, some)
            measured = self.measured(some, said)
            figures |= {key: value_of(measured[key]) for key in self.figures if key in measured}
        return figures

    def opinion(self, runner: ModelRunner, records: Sequence[Record]) -> Written:
        said = self.predict(runner, records)
        said.costs = self.costs(runner, records)
        return said

    # --- the verdict

    @abstractmethod
    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        """Figures of texts against the records' references: those of `measures`, perhaps more."""

    def notes(self, records: Sequence[Record]) -> list[str]:
        """How the figures are meant, for the report."""
        return []

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        figures = {}
        for name, said in systems.items():
            figures[name] = self.measured(records, said)
            if said.costs is not None:
                figures[name]["perplexity"] = perplexity_of(said.costs)
        labels = [label for label in map(self.part_of, records) if label is not None]
        fields["notes"] = [*fields.get("notes", []), *self.notes(records), *self._how(systems)]
        return assess_texts(
            title=title,
            task=self.name,
            primary=self.measures[0],
            figures=figures,
            texts={name: said.texts for name, said in systems.items()},
            sources=[self.source_of(record) for record in records],
            references=[self.references_of(record) for record in records],
            places=[(record.file, record.row) for record in records],
            labels=labels if len(labels) == len(records) else None,
            worst_by=self.worst_by,
            **fields,
        )

    def part_of(self, record: Record) -> str | None:
        """The kind of record by which the report is cut into parts; None for a task without kinds."""
        return None

    def _how(self, systems: dict[str, Written]) -> list[str]:
        """How the texts were written, and what was lost at the limits."""
        options = ", ".join(f"{key} {value}" for key, value in self.decode.items())
        notes = [f"Texts are written with {options}, at most {self.max_target} tokens each."]
        for name, said in systems.items():
            cut, open_ended = sum(tokens > 0 for tokens in said.cut), said.ended.count(False)
            if cut:
                notes.append(
                    f"{name}: {cut:,} of {len(said.texts):,} sources were too long; their first tokens were read, "
                    f"{sum(said.cut):,} tokens were not."
                )
            if open_ended:
                notes.append(f"{name}: {open_ended:,} of {len(said.texts):,} texts were ended by the limit.")
        return notes

    def rows(self, records: Sequence[Record], said: Written) -> list[dict[str, Any]]:
        return [
            {**{name: record.fields[name] for name in self.inputs}, self.output or self.target: text}
            for record, text in zip(records, said.texts, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "prompt": self.prompt,
            "decode": self.decode,
            "max_target": self.max_target,
            "single_line": self.single_line,
        }
