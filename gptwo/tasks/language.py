"""Text generation: records of text, with a prompt before them where one is given; loss on the text alone."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess import assess_language
from gptwo.evaluate.language import TextScore, bytes_of_tokens, language_loss, score_batches
from gptwo.evaluate.report import Report
from gptwo.evaluate.slices import cut_up
from gptwo.evaluate.statistics import share_of_sums
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.recipe import TaskSection
from gptwo.tasks.base import Task
from gptwo.tasks.runner import ModelRunner, length_batches
from gptwo.tokenizer import Tokenizer


@dataclass
class Scores:
    """The cost of each test record, in nats, and its bytes; and of all of them."""

    each: list[TextScore]
    whole: TextScore


class Language(Task):
    """Learn to write the records' text.

    Args:
        prompt: template of what stands before a text, with fields in braces: "《{title}》\\n{author}\\n". Its tokens
            carry no loss, and the same template makes the prompt when generating. None: the text begins after the
            end token.
    """

    name = "language"
    head = "language"
    columns = ("text",)
    inputs = ()
    figures = ("loss", "perplexity", "bits_per_byte")

    def __init__(self, prompt: str | None = None):
        self.prompt = prompt
        self.labels = []
        self.columns = ("text", *template_fields(prompt))

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.prompt)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        return cls(info.get("prompt"))

    def fit(self, records: Sequence[Record]) -> None:
        if not records:
            raise DataError("There is no text to learn from.")

    def prompt_of(self, record: Record) -> str:
        """What stands before the text of a record."""
        return (self.prompt or "").format(**record.fields)

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        prompt = tokenizer.encode(self.prompt_of(record))  # as the engine gives it to the network
        if tokenizer.start_id is not None:
            prompt = [tokenizer.start_id, *prompt]
        elif not prompt and tokenizer.end_id is not None:
            prompt = [tokenizer.end_id]
        text = tokenizer.encode(str(record.fields["text"]))
        if tokenizer.end_id is not None:
            text = [*text, tokenizer.end_id]
        if len(prompt) >= max_length:
            raise DataError(
                f"The prompt has {len(prompt)} tokens; with {max_length} there is no room for the text.",
                where=record.place(),
                fix="shorten the prompt template, or raise data.max_length",
            )
        ids = prompt + text
        if len(ids) < 2:
            return []  # nothing before it, so nothing to predict
        truncated = max(0, len(ids) - max_length - 1)
        ids = ids[: max_length + 1]
        labels = [IGNORE] * (len(prompt) - 1) + ids[max(1, len(prompt)) :]
        return [Example(ids[:-1], labels, index=index, truncated=truncated)]

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return language_loss(model, batch, label_smoothing)

    def count(self, batch: Batch) -> float:
        return int((batch.labels != IGNORE).sum())

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        examples = self.encode_all(runner, records)
        batches = (batch for _, batch in length_batches(examples))
        return score_batches(runner.model, batches, bytes_of_tokens(runner.tokenizer), runner.precision).metrics()

    def opinion(self, runner: ModelRunner, records: Sequence[Record]) -> Scores:
        sizes = bytes_of_tokens(runner.tokenizer)
        each = []
        for i, record in enumerate(records):
            batches = [
                batch for _, batch in length_batches(self.encode(record, runner.tokenizer, runner.max_length, i))
            ]
            each.append(score_batches(runner.model, batches, sizes, runner.precision))
        whole = sum(each, TextScore(0.0, 0, 0))
        return Scores(each, whole)

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        return {}

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        documents = {
            name: ([score.nats / math.log(2) for score in said.each], [score.bytes for score in said.each])
            for name, said in systems.items()
        }
        measured = {name: said.whole.metrics() for name, said in systems.items()}
        rows = {name: np.array(columns, dtype=float).T for name, columns in documents.items()}
        texts = [str(record.fields["text"]) for record in records]
        slices = cut_up("bits_per_byte", rows, share_of_sums, texts=texts)
        fields = {"records": len(records), "slices": slices, **fields}
        return assess_language(title=title, measured=measured, documents=documents, **fields)

    def describe(self) -> dict[str, Any]:
        return {"task": self.name, "prompt": self.prompt}


def template_fields(template: str | None) -> list[str]:
    """Names in the braces of a template.

    >>> template_fields("《{title}》 {author}")
    ['title', 'author']

    Raises:
        UsageError: braces that do not close, or without a name.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template or "") if name is not None]
    except ValueError as error:
        raise UsageError(f"The template {template!r} cannot be read.", where="task.prompt", why=str(error)) from error
    if any(not name.isidentifier() for name in names):
        raise UsageError(
            f"Every brace of {template!r} needs the name of a field.", where="task.prompt", fix="write {{ for a brace"
        )
    return list(dict.fromkeys(names))
