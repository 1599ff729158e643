"""Guesses at a text's next tokens by a smaller model with the same vocabulary.

The engine checks them in one step and keeps those that it would have chosen itself, so the text stays the same, drawn
or greedy. In Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", chance decides what is
kept; here the smaller model draws with the very random numbers of the text, so that two distributions that are alike
mostly choose alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptwo.generate.native_lookup import Trust

GUESSES = 4  # a step of five tokens costs little more than one of one


class Draft:
    """One text in the smaller model.

    Args:
        native: its C++ engine.
        n_positions: of the smaller model; longer texts are not guessed at.
        tokens: of the text so far, the first `prompt` of them given; the network sees them from `first` on.
        sampling: how the text's tokens are chosen, for the engine.
    """

    def __init__(self, native: Any, n_positions: int, tokens: Sequence[int], prompt: int, first: int, sampling: Any):
        self._native, self._sampling = native, sampling
        self._room = n_positions - (len(tokens) - first)
        self._trust = Trust()
        self._number = native.open(list(tokens), prompt, first, sampling, 0) if self._room > GUESSES else None

    def append(self, tokens: Sequence[int]) -> None:
        """The text has got these tokens."""
        self._room -= len(tokens)
        if self._number is None:
            return
        for token in tokens:
            self._native.append(self._number, token)
        if self._room <= GUESSES:
            self.close()

    def guess(self, most: int) -> list[int]:
        """At most `most` tokens that may come next; none where the text is too long, or guessing fails."""
        from gptwo.generate._native import OutOfPages

        if self._number is None or most < 1 or not self._trust.holds:
            return []
        copy = None
        guesses: list[int] = []
        try:
            while (left := self._native.left(self._number)) > 1:
                self._native.step([(self._number, min(left - 1, self._native.max_tokens), [])])
            copy = self._native.fork(self._number, self._sampling)
            while len(guesses) < min(most, GUESSES):
                ((token, _),) = self._native.step([(copy, 1, [])])[0]
                if token < 0:
                    break
                guesses.append(token)
        except OutOfPages:
            pass  # what has been guessed so far is as good as ever
        finally:
            if copy is not None:
                self._native.close(copy)
        return guesses

    def judge(self, made: int, right: int) -> None:
        """So many guesses were made, and so many were right."""
        self._trust.judge(made, right)

    def close(self) -> None:
        """Give the pages back."""
        if self._number is not None:
            self._native.close(self._number)
            self._number = None
