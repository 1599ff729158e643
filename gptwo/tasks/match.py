"""Pairs of texts: do they mean the same, does the second follow from the first.

A pair is one sequence, "a <separator> b", and its scores come from the last token, which has seen both. The separator
is the end token: no text can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from gptwo.data.batching import Example
from gptwo.data.sources import Record
from gptwo.evaluate.baselines import Majority
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.pairs import PairLogisticRegression
from gptwo.recipe import TaskSection
from gptwo.tasks.classify import Classify
from gptwo.tasks.sequences import encode_pair
from gptwo.tokenizer import Tokenizer


class Match(Classify):
    """One label for a pair of texts; arguments as in `Classify`, without several labels at once."""

    name = "match"
    columns = ("text_a", "text_b", "label")
    inputs = ("text_a", "text_b")

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(
            section.labels,
            class_weights=section.class_weights,
            positive=section.positive,
            threshold=section.threshold,
        )

    def pair_of(self, record: Record) -> tuple[str, str]:
        """The two texts."""
        return str(record.fields["text_a"]), str(record.fields["text_b"])

    def text_of(self, record: Record) -> str:
        return " ⇔ ".join(self.pair_of(record))

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        ids, truncated = encode_pair(tokenizer, *self.pair_of(record), max_length)
        return [Example(ids, target=self.target_of(record) if target else None, index=index, truncated=truncated)]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Predictions]:
        pairs, truth = [self.pair_of(record) for record in train], self.gold(train)
        wanted = [self.pair_of(record) for record in test]
        return {
            system.name: system.fit_predict(pairs, truth, wanted) for system in (Majority(), PairLogisticRegression())
        }
