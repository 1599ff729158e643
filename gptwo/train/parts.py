"""The parts of a task's data: records of train, valid and test, read, split, encoded and counted."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from gptwo.data.batching import Example
from gptwo.data.files import file_sha256
from gptwo.data.rejects import Rejects
from gptwo.data.sources import Record, read_records
from gptwo.errors import DataError
from gptwo.evaluate.report import DataFile
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import DataSection
from gptwo.tasks.base import Task
from gptwo.tokenizer import Tokenizer
from gptwo.train.divergence import not_finite

NO_TEST = "No test data was given: the figures are on the validation data, which chose the best checkpoint."


class CountedRejects(Rejects):
    """Rejects that also know how many each file gave."""

    def __init__(self, path: Path | None, *, strict: bool):
        super().__init__(path, strict=strict)
        self.by_file: Counter[str] = Counter()

    def add(self, file: str, row: int, reason: str, raw: object = "", *, offset: int | None = None) -> None:
        self.by_file[file] += 1
        super().add(file, row, reason, raw, offset=offset)


@dataclass
class Part:
    """The records of one part of the data, as files give them and as the network sees them."""

    name: str
    records: list[Record]
    files: list[DataFile]
    examples: list[Example]
    limited_from: int = 0
    room: str = ""
    tokens_cut: int = 0
    records_cut: int = 0

    def encode(self, task: Task, tokenizer: Tokenizer, max_length: int, *, target: bool = True) -> None:
        """Make the examples, as `Task.encode`; raises where a record does not fit the task."""
        self.examples = [
            example
            for index, record in enumerate(self.records)
            for example in task.encode(record, tokenizer, max_length, index, target=target)
        ]
        self.room = task.room(max_length)
        self.tokens_cut = sum(example.truncated for example in self.examples)
        self.records_cut = len({example.index for example in self.examples if example.truncated})

    def cut(self) -> list[str]:
        """A note on the records that did not fit, where there are any."""
        if not self.records_cut:
            return []
        return [
            f"{self.name}: {self.records_cut:,} of {len(self.records):,} records do not fit into "
            f"{self.room}; {self.tokens_cut:,} tokens were cut out of them."
        ]


def read_part(name: str, data: DataSection, task: Task, rejects: CountedRejects) -> Part:
    """The records of data.train, data.valid or data.test.

    Raises:
        DataError: a file that cannot be read; with data.strict, a row.
    """
    before = rejects.by_file.copy()
    records = list(
        read_records(
            getattr(data, name),
            columns=data.columns or None,
            required=task.columns,
            format=data.format,
            encoding=data.encoding,
            lists=task.lists,
            list_separator=data.label_separator,
            rejects=rejects,
        )
    )
    counts = Counter(record.file for record in records)
    rejected = rejects.by_file - before
    files = [
        DataFile(name, file, count, rejected[file], file_sha256(Path(file)) if Path(file).is_file() else "")
        for file, count in counts.items()
    ]
    return Part(name, records, files, [])


def read_parts(data: DataSection, task: Task, rejects: CountedRejects, seed: int) -> dict[str, Part]:
    """Train, valid and, where it is given, test. The task learns its labels here, from all of data.train.

    Without data.valid a share of the training records is set aside at random, from every label in proportion.

    Raises:
        DataError: as `read_part`; or too few records.
    """
    parts = {name: read_part(name, data, task, rejects) for name in ("train", "valid", "test") if getattr(data, name)}
    train, order = parts["train"], random.Random(seed)
    task.fit(train.records)
    if data.limit and data.limit < len(train.records):
        train.limited_from = len(train.records)
        train.records = order.sample(train.records, data.limit)
    if "valid" not in parts:
        count = len(train.records)
        if count < 2:
            raise DataError("One record is too few to set some aside.", where=data.train[0], fix="give --valid")
        size = min(count - 1, max(1, round(data.valid_share * count)))
        grouped = sorted(order.sample(train.records, count), key=task.group)  # at random within a group
        chosen = {int((i + 0.5) * count / size) for i in range(size)}  # spread evenly over the groups
        parts["valid"] = Part("valid", [grouped[i] for i in sorted(chosen)], [], [])
        train.records = [record for i, record in enumerate(grouped) if i not in chosen]
    return {name: parts[name] for name in ("train", "valid", "test") if name in parts}


def check_weights(model: Pretrained) -> None:
    """Whether a model can say anything at all.

    Raises:
        DataError: a weight is no number; names it and the folder.
    """
    weights = dict(model.model.named_parameters())
    for name in not_finite(weights):
        tensor = weights[name].detach()
        bad = int((~torch.isfinite(tensor)).sum())
        raise DataError(
            f"The weight {name} of the model is not finite.",
            where=model.folder,
            why=f"{bad:,} of its {tensor.numel():,} values are NaN or infinite; its scores would be no numbers",
            fix="download or copy the model again, or take an earlier checkpoint of its run",
        )


def notes_of(parts: dict[str, Part], rejects: Rejects) -> list[str]:
    """What a reader must know about the data."""
    counts = ", ".join(f"{len(part.records):,} {part.name}" for part in parts.values())
    notes = [f"Records: {counts}."]
    if parts["train"].limited_from:
        notes.append(f"data.limit: of {parts['train'].limited_from:,} training records some were taken at random.")
    if not parts["valid"].files:
        notes.append("The validation records were set aside from the training data at random.")
    notes += [note for part in parts.values() for note in part.cut()]
    if rejects.total:
        notes.append(f"{rejects.summary()}.")
    if "test" not in parts:
        notes.append(NO_TEST)
    return notes
