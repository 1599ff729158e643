"""Pairs of texts: do they mean the same, does the second follow from the first.

A pair is one sequence, "a <separator> b", and its scores come from the last token, which has seen both. The separator
is the end token: no text can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from gptwo.data.batching import Example
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.evaluate.baselines import Majority
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.pairs import PairLogisticRegression
from gptwo.recipe import TaskSection
from gptwo.tasks.classify import Classify, head_and_tail
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


def separator(tokenizer: Tokenizer) -> int:
    """The id that parts the texts of a sequence: the end token."""
    return tokenizer.end_id if tokenizer.end_id is not None else 0


def encode_pair(tokenizer: Tokenizer, first: str, second: str, max_length: int) -> tuple[list[int], int]:
    """Two texts with a separator between them, [CLS] in front where the vocabulary has one.

    Returns:
        At most `max_length` ids, and how many were cut out: the longer text is cut first, each in its middle.

    Raises:
        UsageError: no room for two tokens and the separator.
    """
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    room = max_length - 1 - len(start)
    if room < 2:
        raise UsageError(f"{max_length} tokens are too few for a pair of texts.", where="data.max_length")
    a, b = tokenizer.encode_batch([first, second])
    room_a, room_b = share_room(len(a), len(b), room)
    (a, cut_a), (b, cut_b) = head_and_tail(a, room_a), head_and_tail(b, room_b)
    return [*start, *a, separator(tokenizer), *b], cut_a + cut_b


def share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts that fit into `room` together: the longer one gives way first.

    >>> share_room(3, 4, 10), share_room(3, 20, 10), share_room(20, 3, 10), share_room(20, 30, 11)
    ((3, 4), (3, 7), (7, 3), (6, 5))
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= room - half:
        return first, room - first
    if second <= half:
        return room - second, second
    return room - half, half
