"""Token classification: a tag for each token of a sentence (names, places, parts of speech).

A causal network sees only what stands to the left of a token. With context "both" the sentence is therefore given
twice and the second copy is tagged: each of its tokens has seen the whole sentence (Springer et al. 2024, "Repetition
Improves Language Model Embeddings").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, did_you_mean
from gptwo.evaluate import tagging
from gptwo.evaluate.assess import assess_tagging
from gptwo.evaluate.baselines import MostFrequentTag
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.report import Report
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.tasks.base import Task, autocast, length_batches
from gptwo.tokenizer import Tokenizer


class Tag(Task):
    """A tag for each token.

    Args:
        labels: tags in order; None: those of the training records, sorted.
        scheme: how entities are marked inside: "auto" converts IOB1 to IOB2 and leaves the rest; "IOB1", "IOB2" or
            "BIOES" convert to that; "plain" are tags that mark no entities.
        context: "both" gives the sentence twice, "left" once.
    """

    name = "tag"
    head = "token"
    columns = ("tokens", "tags")
    inputs = ("tokens",)
    lists = ("tokens", "tags")

    def __init__(self, labels: Sequence[str] | None = None, *, scheme: str = "auto", context: str = "both"):
        self.labels = list(labels or [])
        self.given = labels is not None
        self.scheme = scheme
        self.source_scheme: str | None = None
        self.context = context
        self.metric = "entity_f1"

    def fit(self, records: Sequence[Record]) -> None:
        sequences = [self._tags_of(record) for record in records]
        self.source_scheme = tagging.detect_scheme(sequences) if self.scheme != "plain" else None
        if self.source_scheme is None:
            self.metric = "token_accuracy"
        elif self.scheme == "auto":
            self.scheme = "IOB2" if self.source_scheme == "IOB1" else self.source_scheme
        if not self.given:
            found = {tag for tags in sequences for tag in self._inside(tags)}
            self.labels = [*(["O"] if "O" in found else []), *sorted(found - {"O"})]
        if len(self.labels) < 2:
            raise DataError(
                f"Tagging needs two tags; the training records have {self.labels}.",
                where=records[0].file if records else None,
                fix="check which column holds the tags: --columns tokens=0,tags=-1",
            )

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        words = [str(token) for token in record.fields["tokens"]]
        tags = self._inside(self._tags_of(record)) if target else None
        if tags is not None and len(tags) != len(words):
            raise DataError(f"The sentence has {len(words)} tokens and {len(tags)} tags.", where=record.place())
        pieces = encode_words(tokenizer, words)
        copies = 2 if self.context == "both" else 1
        room = max_length // copies - (1 if copies == 2 else 0)
        examples, start = [], 0
        for end in split_points([len(piece) for piece in pieces], room):
            ids = [i for piece in pieces[start:end] for i in piece[:room]]
            labels: list[int] = []
            for place in range(start, end):
                # the last piece of a word has seen all of it; without targets, 0 marks it
                mark = 0 if tags is None else self._place(tags[place], record)
                labels += [IGNORE] * (min(len(pieces[place]), room) - 1) + [mark]
            if copies == 2:
                between = [tokenizer.end_id if tokenizer.end_id is not None else ids[0]]
                labels = [IGNORE] * (len(ids) + 1) + labels
                ids = ids + between + ids
            examples.append(Example(ids, labels, index=index))
            start = end
        return examples

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        hidden = model.transformer(batch.ids, batch.positions, batch.documents)
        wanted = batch.labels != IGNORE  # (B, T)
        scores = model.logits(hidden[wanted]).float()  # (labelled tokens, tags)
        return F.cross_entropy(scores, batch.labels[wanted], reduction="sum", label_smoothing=label_smoothing)

    def count(self, batch: Batch) -> float:
        return int((batch.labels != IGNORE).sum())

    def predict(
        self,
        model: Model,
        tokenizer: Tokenizer,
        records: Sequence[Record],
        *,
        max_length: int,
        precision: str = "fp32",
    ) -> Predictions:
        """Tags of every token of records, in their order, in the scheme of the labels."""
        examples = [
            example
            for i, record in enumerate(records)
            for example in self.encode(record, tokenizer, max_length, i, target=False)
        ]
        device = next(model.parameters()).device
        found: list[list[int]] = [[] for _ in examples]
        sure: list[list[float]] = [[] for _ in examples]
        with torch.inference_mode(), autocast(model, precision):
            for places, batch in length_batches(examples):
                wanted = batch.labels != IGNORE
                batch = batch.to(device)
                hidden = model.transformer(batch.ids, batch.positions, batch.documents)
                best = model.logits(hidden[wanted.to(device)]).float().softmax(1).max(1)
                split = wanted.sum(1).tolist()
                for place, tags, top in zip(
                    places, best.indices.cpu().split(split), best.values.cpu().split(split), strict=True
                ):
                    found[place], sure[place] = tags.tolist(), top.tolist()
        labels: list[list[str]] = [[] for _ in records]
        confidences: list[list[float]] = [[] for _ in records]
        for example, tags, top in zip(examples, found, sure, strict=True):
            labels[example.index] += [self.labels[tag] for tag in tags]
            confidences[example.index] += top
        return Predictions(labels, confidences=[min(top, default=1.0) for top in confidences])

    def evaluate(
        self, model: Model, tokenizer: Tokenizer, records: Sequence[Record], *, max_length: int, precision: str
    ) -> dict[str, float]:
        said = self.predict(model, tokenizer, records, max_length=max_length, precision=precision).labels
        gold = self.gold(records)
        right = sum(a == b for truth, tags in zip(gold, said, strict=True) for a, b in zip(truth, tags, strict=True))
        figures = {"token_accuracy": right / max(1, sum(map(len, gold)))}
        if self.source_scheme is not None:
            figures["entity_f1"] = tagging.entity_table(gold, said).average("micro").f1
        return figures

    def gold(self, records: Sequence[Record]) -> list[list[str]]:
        """The right tags, in the scheme of the labels."""
        return [self._inside(self._tags_of(record)) for record in records]

    def opinion(
        self, model: Model, tokenizer: Tokenizer, records: Sequence[Record], *, max_length: int, precision: str
    ) -> Predictions:
        return self.predict(model, tokenizer, records, max_length=max_length, precision=precision)

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Predictions]:
        system = MostFrequentTag()
        texts = [[str(token) for token in record.fields["tokens"]] for record in train]
        wanted = [[str(token) for token in record.fields["tokens"]] for record in test]
        return {system.name: system.fit_predict(texts, self.gold(train), wanted)}

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        return assess_tagging(
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
        }

    def _tags_of(self, record: Record) -> list[str]:
        return [str(tag) for tag in record.fields["tags"]]

    def _inside(self, tags: list[str]) -> list[str]:
        """Tags of a file in the scheme that is learned."""
        if self.source_scheme is None or self.source_scheme == self.scheme:
            return tags
        return tagging.convert_tags(tags, to=self.scheme)

    def _place(self, tag: str, record: Record) -> int:
        if tag not in self.labels:
            raise DataError(
                f"The tag {tag!r} does not occur in the training data.",
                where=record.place(),
                fix=did_you_mean(tag, self.labels),
            )
        return self.labels.index(tag)


def encode_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Ids of each word as it stands in running text: a space before it, but none between Chinese characters."""
    spaced = []
    for i, word in enumerate(words):
        apart = i > 0 and tokenizer.kind == "bpe" and not (is_cjk(words[i - 1][-1:]) and is_cjk(word[:1]))
        spaced.append((" " if apart else "") + word)
    fallback = [tokenizer.end_id or 0]  # a word that has no token of its own, as an empty one
    return [ids or fallback for ids in tokenizer.encode_batch(spaced)]


def is_cjk(character: str) -> bool:
    """Whether a character is written without spaces: Chinese characters and full-width punctuation, kana.

    >>> is_cjk("中"), is_cjk("，"), is_cjk("a")
    (True, True, False)
    """
    return bool(character) and ("\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\uffef")


def split_points(lengths: Sequence[int], room: int) -> list[int]:
    """Where to end each piece so that its lengths add up to at most `room` (a longer item stands alone).

    >>> split_points([2, 2, 3, 9, 1], 5)
    [2, 3, 4, 5]
    """
    ends, used = [], 0
    for place, length in enumerate(lengths):
        length = min(length, room)
        if used and used + length > room:
            ends.append(place)
            used = 0
        used += length
    return [*ends, len(lengths)]
