"""From tokens to text as they come: whole characters only, and no piece of a stop string ever gets out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """A tokenizer's streaming decoder."""

    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


class Transcript:
    """The text of one sequence.

    A stop string is found wherever it is completed, also across tokens; the text ends before it. Of several, the
    one that is completed first counts (of those completed by the same character, the longest), so the result does
    not depend on where tokens end.

    Args:
        decoder: turns token ids into whole characters; None where there is no tokenizer (the text stays empty).
        stops: strings that end the text.
    """

    def __init__(self, decoder: Decoder | None, stops: Sequence[str] = ()):
        self._decoder, self._stops = decoder, tuple(stops)
        self._pieces: list[str] = []
        self._held = ""  # could be the beginning of a stop string
        self.stopped: str | None = None

    @property
    def text(self) -> str:
        """What has come out so far."""
        return "".join(self._pieces)

    def push(self, token_id: int) -> str:
        """Take one token; returns the text that is certain now. After it, see `stopped`."""
        return "" if self._decoder is None else self._take(self._decoder.push(token_id))

    def finish(self) -> str:
        """The text ends here without a stop string: what was held back, an unfinished character as U+FFFD."""
        if self._decoder is None or self.stopped is not None:
            return ""
        piece = self._take(self._decoder.finish())
        if self.stopped is None:
            piece, self._held = piece + self._keep(self._held), ""
        return piece

    def _take(self, piece: str) -> str:
        if not self._stops or not piece:
            return self._keep(piece)
        self._held += piece
        found = [(self._held.find(stop), stop) for stop in self._stops]
        found = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if found:
            _, start, self.stopped = min(found)
            piece, self._held = self._held[:start], ""
        else:
            sure = len(self._held) - _begun(self._held, self._stops)
            piece, self._held = self._held[:sure], self._held[sure:]
        return self._keep(piece)

    def _keep(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece


def _begun(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a true beginning of a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
