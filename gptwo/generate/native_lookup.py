"""Guesses at a text's next tokens, from where its last few tokens stood before.

The engine checks guesses in one step with the token that is due, and keeps those that it would have chosen itself,
bit for bit: a text that repeats its prompt or itself needs fewer steps, and stays the same text. Saxena 2023, "Prompt
Lookup Decoding" (https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Sequence

GRAM = 3  # tokens that must have stood before
GUESSES = 7  # with the token that is due eight: what a step takes for little more than one
MORE = 8  # guesses more after a step in which all were right
MOST = 23
TRIAL = 24  # guesses before they are judged
WORTH = 0.25  # share of guesses that must be right to go on


class Trust:
    """Whether guessing pays: the share of guesses that were right, older ones counting less and less."""

    def __init__(self) -> None:
        self._made = self._right = 0.0

    def judge(self, made: int, right: int) -> None:
        """So many guesses were made, and so many were right."""
        self._made = 0.9 * self._made + made
        self._right = 0.9 * self._right + right

    @property
    def holds(self) -> bool:
        return self._made < TRIAL or self._right >= WORTH * self._made


class Lookup:
    """The n-grams of one text.

    Args:
        tokens: of the text so far.
    """

    def __init__(self, tokens: Sequence[int]):
        self._tokens = list(tokens)
        self._places: dict[tuple[int, ...], int] = {}  # of each n-gram the place behind its last occurrence
        self._trust = Trust()
        self._most = GUESSES
        for end in range(GRAM, len(self._tokens)):
            self._places[tuple(self._tokens[end - GRAM : end])] = end

    def append(self, tokens: Sequence[int]) -> None:
        """The text has got these tokens."""
        for token in tokens:
            if len(self._tokens) >= GRAM:
                self._places[tuple(self._tokens[-GRAM:])] = len(self._tokens)
            self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """At most `most` tokens that may come next; none where nothing like it stood before, or guessing fails."""
        if most < 1 or len(self._tokens) < GRAM or not self._trust.holds:
            return []
        place = self._places.get(tuple(self._tokens[-GRAM:]))
        if place is None:
            return []
        period = len(self._tokens) - place  # behind the text's end it goes on as it has begun
        return [self._tokens[place + i % period] for i in range(min(most, self._most))]

    def judge(self, made: int, right: int) -> None:
        """So many guesses were made, and so many were right."""
        self._trust.judge(made, right)
        if made:
            self._most = min(MOST, self._most + MORE) if right == made else GUESSES
