"""Token classification: a tag for each token of a sentence (names, places, parts of speech).

A causal network sees only what stands to the left of a token. With context "both" the sentence is therefore given
twice and the second copy is tagged: each of its tokens has seen the whole sentence (Springer et al. 2024, "Repetition
Improves Language Model Embeddings").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.evaluate import tagging
from gptwo.evaluate.assess import assess_tagging
from gptwo.evaluate.baselines import MostFrequentTag
from gptwo.evaluate.metrics import Predictions, log_loss
from gptwo.evaluate.report import Report
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.recipe import TaskSection
from gptwo.tasks import trust
from gptwo.tasks.base import Predictor
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import encode_words, overlapping, shares
from gptwo.tasks.texts import evenly
from gptwo.tokenizer import Tokenizer


class Tag(Predictor):
    """A tag for each token.

    Args:
        labels: tags in order; None: those of the training records, sorted.
        scheme: how entities are marked inside: "auto" converts IOB1 to IOB2 and leaves the rest; "IOB1", "IOB2" or
            "BIOES" convert to that; "plain" are tags that mark no entities.
        context: "both" gives the sentence twice, "left" once.
        stride: pieces from one window of a long sentence to the next; None: half a window.
    """

    name = "tag"
    head = "token"
    columns = ("tokens", "tags")
    inputs = ("tokens",)
    lists = ("tokens", "tags")
    probed_at = "the last piece of each token"

    def __init__(
        self,
        labels: Sequence[str] | None = None,
        *,
        scheme: str = "auto",
        context: str = "both",
        stride: int | None = None,
    ):
        self.labels = list(labels or [])
        self.given = labels is not None
        self.scheme = scheme
        self.source_scheme: str | None = None
        self.context, self.stride = context, stride

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.labels, scheme=section.scheme, context=section.context, stride=section.stride)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        # a model that gptwo did not tune saw its sentences once
        task = cls(info["labels"], context=info.get("context", "left"), stride=info.get("stride"))
        task.source_scheme = info["source_scheme"] if "source_scheme" in info else scheme_of_labels(task.labels)
        task.scheme = info.get("scheme", task.source_scheme or "plain")
        return task

    @property
    def figures(self) -> tuple[str, ...]:
        """Entities where the tags mark any, and tokens."""
        return ("entity_f1", "token_accuracy", "loss") if self.source_scheme else ("token_accuracy", "loss")

    def fit(self, records: Sequence[Record]) -> None:
        sequences = [self._tags_of(record) for record in records]
        self.source_scheme = tagging.detect_scheme(sequences) if self.scheme != "plain" else None
        if self.source_scheme is None and self.scheme not in ("auto", "plain"):
            raise UsageError(
                f"The tags cannot be converted to {self.scheme}: they mark no entities.",
                where="task.scheme",
                why=f"they look like {', '.join(sorted({tag for tags in sequences for tag in tags})[:5])}",
                fix='task.scheme = "plain", or another column: --columns tokens=0,tags=-1',
            )
        if self.scheme == "auto" and self.source_scheme is not None:
            self.scheme = "IOB2" if self.source_scheme in ("IOB1", "mixed") else self.source_scheme
        for label in self.labels if self.source_scheme else ():
            try:
                tagging.split_tag(label)
            except DataError as error:
                raise UsageError(error.what, where="task.labels", why=error.why, fix=error.fix) from error
        if not self.given:
            found = {tag for record in records for tag in self._learned(record)}
            self.labels = [*(["O"] if "O" in found else []), *sorted(found - {"O"})]
        if len(self.labels) < 2:
            raise DataError(
                f"Tagging needs two tags; the training records have {self.labels}.",
                where=records[0].file if records else None,
                fix="check which column holds the tags: --columns tokens=0,tags=-1",
            )

    def labels_in(self, record: Record) -> Sequence[str]:
        return self._learned(record)

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        words = [str(token) for token in record.fields["tokens"]]
        tags = self._learned(record) if target else None
        if tags is not None and len(tags) != len(words):
            raise DataError(
                f"The sentence has {len(words)} tokens and {len(tags)} tags.",
                where=record.place(),
                fix="give a tag for each token, or leave the sentence out",
            )
        pieces = encode_words(tokenizer, words)
        start = [] if tokenizer.start_id is None else [tokenizer.start_id]
        copies = 2 if self.context == "both" else 1
        room = (max_length - len(start) - (copies - 1)) // copies
        if room < 1:
            raise UsageError(
                f"{max_length} tokens are too few for a sentence.", where="data.max_length", fix="raise it"
            )
        windows = overlapping([len(piece) for piece in pieces], room, self.stride or max(1, room // 2))
        examples = []
        for (first, end), (begin, stop) in zip(windows, shares(windows, both=copies == 2), strict=True):
            ids = [i for piece in pieces[first:end] for i in piece[:room]]
            labels: list[int] = []
            for place in range(first, end):
                # the last piece of a word has seen all of it; without targets, 0 marks it
                mark = IGNORE
                if begin <= place < stop:
                    mark = 0 if tags is None else self._place(tags[place], record)
                labels += [IGNORE] * (min(len(pieces[place]), room) - 1) + [mark]
            cut = sum(max(0, len(piece) - room) for piece in pieces[begin:stop])
            if copies == 2:
                between = tokenizer.end_id if tokenizer.end_id is not None else ids[0]
                labels = [IGNORE] * (len(ids) + 1) + labels
                ids = [*ids, between, *ids]
            examples.append(Example(start + ids, [IGNORE] * len(start) + labels, index=index, truncated=cut))
        return examples

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        scores, wanted = self.scores(model, batch), batch.labels[batch.labels != IGNORE]
        return F.cross_entropy(scores, wanted, reduction="sum", label_smoothing=label_smoothing)

    def count(self, batch: Batch) -> float:
        return int((batch.labels != IGNORE).sum())

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """(labelled tokens of all rows, tags) scores, float32."""
        return model.logits(self.states(model, batch)).float()

    @staticmethod
    def states(model: Model, batch: Batch) -> Tensor:
        """(labelled tokens of all rows, C) hidden states."""
        assert batch.labels is not None
        read = (batch.labels.flatten() != IGNORE).nonzero().squeeze(1)
        return model.transformer(batch.ids, batch.positions, batch.documents, read=read)

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> Predictions:
        """Tags of every token of records, in their order, in the scheme of the labels."""
        tables = self.probabilities(runner, records)
        tags = [[self.labels[place] for place in table.argmax(1)] for table in tables]
        return Predictions(tags, confidences=[float(table.max(1).min(initial=1.0)) for table in tables])

    def rows(self, records: Sequence[Record], said: Predictions) -> list[dict[str, Any]]:
        return [
            {"tokens": record.fields["tokens"], "tags": tags} for record, tags in zip(records, said.labels, strict=True)
        ]

    def probabilities(self, runner: ModelRunner, records: Sequence[Record]) -> list[np.ndarray]:
        """For each record (its tokens, labels)."""
        examples = self.encode_all(runner, records, target=False)
        return by_record(
            runner,
            examples,
            lambda batch: self.scores(runner.model, batch).softmax(1),
            len(records),
            len(self.labels),
        )

    def probe(self, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record]) -> Predictions:
        """Logistic regression on frozen features of single tokens; see `trust.probe`."""
        words = sum(len(record.fields["tokens"]) for record in train)
        chosen = evenly(train, max(1, len(train) * trust.PROBED // max(words, trust.PROBED)))
        tags = [tag for tags in self.gold(chosen) for tag in tags]
        learned, asked = (
            by_record(
                runner,
                self.encode_all(runner, part, target=False),
                lambda batch: self.states(runner.model, batch).float(),
                len(part),
                runner.model.config.n_embd,
            )
            for part in (chosen, records)
        )
        columns = trust.places_of(tags, self.labels)[:, None] == np.arange(len(self.labels))
        table = trust.regressed(np.concatenate(learned), columns, np.concatenate(asked))
        tables = np.split(table, np.cumsum([len(one) for one in asked])[:-1])
        said = [[self.labels[place] for place in one.argmax(1)] for one in tables]
        return Predictions(said, confidences=[float(one.max(1).min(initial=1.0)) for one in tables])

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        tables = self.probabilities(runner, records)
        gold = self.gold(records)
        said = [[self.labels[place] for place in table.argmax(1)] for table in tables]
        table = np.concatenate(tables)  # (words of all records, labels)
        truth = np.array(
            [self._place(tag, r) for r, tags in zip(records, gold, strict=True) for tag in tags], dtype=int
        )
        figures = {
            "token_accuracy": float((table.argmax(1) == truth).mean()) if len(truth) else 0.0,
            "loss": log_loss(truth.tolist(), table, range(len(self.labels))),
        }
        if self.source_scheme is not None:
            figures["entity_f1"] = tagging.entity_table(gold, said).average("micro").f1
        return figures

    def gold(self, records: Sequence[Record]) -> list[list[str]]:
        """The right tags, in the scheme of the labels."""
        return [self._learned(record) for record in records]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Predictions]:
        system = MostFrequentTag()
        texts = [[str(token) for token in record.fields["tokens"]] for record in train]
        wanted = [[str(token) for token in record.fields["tokens"]] for record in test]
        return {system.name: system.fit_predict(texts, self.gold(train), wanted)}

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        return assess_tagging(
            primary=self.figures[0] if self.scheme == "plain" else None,
            title=title,
            gold=self.gold(records),
            texts=[[str(token) for token in record.fields["tokens"]] for record in records],
            predictions=systems,
            sources=[(record.file, record.row) for record in records],
            **fields,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "labels": self.labels,
            "scheme": self.scheme,
            "source_scheme": self.source_scheme,
            "context": self.context,
            "stride": self.stride,
        }

    def _tags_of(self, record: Record) -> list[str]:
        return [str(tag) for tag in record.fields["tags"]]

    def _learned(self, record: Record) -> list[str]:
        """The tags of a record in the scheme that is learned.

        Raises:
            DataError: a tag that no scheme has; names file and row.
        """
        tags = self._tags_of(record)
        if self.source_scheme is None or self.source_scheme == self.scheme:
            return tags
        try:
            return tagging.convert_tags(tags, to=self.scheme)
        except DataError as error:
            raise DataError(error.what, where=record.place(), why=error.why, fix=error.fix) from error

    def _place(self, tag: str, record: Record) -> int:
        if tag not in self.labels:
            raise DataError(
                f"The tag {tag!r} "
                + ("is not among the model's tags." if self.given else "does not occur in the training data."),
                where=record.place(),
                fix=did_you_mean(tag, self.labels),
            )
        return self.labels.index(tag)


def scheme_of_labels(labels: Sequence[str]) -> str | None:
    """The scheme that a set of tags belongs to, None where they mark no entities."""
    found = tagging.detect_scheme([[label] for label in labels])
    return "IOB2" if found in ("IOB1", "mixed") else found


def by_record(
    runner: ModelRunner,
    examples: Sequence[Example],
    forward: Callable[[Batch], Tensor],
    records: int,
    width: int,
) -> list[np.ndarray]:
    """For each record (its labelled tokens, width) what `forward` gives for those of all rows of a batch."""
    found: list[np.ndarray] = [np.zeros(0)] * len(examples)
    for places, (values, words) in runner.forward_batches(
        examples, lambda batch: (forward(batch), (batch.labels != IGNORE).sum(1))
    ):
        for place, part in zip(places, values.cpu().split(words.tolist()), strict=True):
            found[place] = part.numpy()
    tables = [[np.zeros((0, width), dtype=np.float32)] for _ in range(records)]
    for example, part in zip(examples, found, strict=True):
        tables[example.index].append(part)
    return [np.concatenate(parts) for parts in tables]
