"""Between texts and the tokens of one model: contexts, endings, the border of a continuation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gptwo.errors import MissingError, UsageError
from gptwo.generate.sequence import Endings
from gptwo.generate.text import Decoder

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer


class Codec:
    """The tokenizer of a model as generation needs it; it may be missing, then token ids are all there is.

    Args:
        tokenizer: of the model, or None.
        rows: rows of the model's embedding.
    """

    def __init__(self, tokenizer: Tokenizer | None, rows: int):
        self.tokenizer = tokenizer
        self.end_id = None if tokenizer is None else tokenizer.end_id
        self.start_id = None if tokenizer is None else tokenizer.start_id
        self.vocab_size = rows if tokenizer is None else min(rows, tokenizer.vocab_size)
        """Ids that have both a row in the embedding and a token."""

    def need(self, what: str) -> Tokenizer:
        """The tokenizer, or `MissingError` that says what needs it."""
        if self.tokenizer is None:
            raise MissingError(
                f"{what} needs a tokenizer, and this model has none.",
                why="its folder holds no tokenizer files",
                fix="put tokenizer.json beside the weights, or give prompts as token ids",
            )
        return self.tokenizer

    def check(self, token: int, where: str) -> None:
        """Raise `UsageError` for an id that is not in the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise UsageError(f"Token id {token} is not in the vocabulary of {self.vocab_size} ids.", where=where)

    def context(self, prompt: str | list[int], where: str = "prompt") -> list[int]:
        """Token ids of a prompt, at least one: a text gets the start token where the vocabulary has one, and an
        empty prompt the start token, or the end-of-text token that stands between the texts of training."""
        if isinstance(prompt, str):
            ids = self.need("A prompt of text").encode(prompt)
            if self.start_id is not None:
                ids = [self.start_id, *ids]
        else:
            ids = prompt
            for token in ids:
                self.check(token, where)
        if ids:
            return ids
        start = self.end_id if self.start_id is None else self.start_id
        if start is None:
            raise UsageError("The prompt is empty and the vocabulary has no token to begin with.", where=where)
        return [start]

    def joined(self, prompt: str, continuation: str) -> tuple[list[int], int]:
        """Tokens of prompt and continuation, and where the continuation begins.

        White space at the prompt's end counts to the continuation, as words carry it in front. Where the border
        falls inside a token, the two are tokenized apart.
        """
        tokenizer = self.need("A continuation")
        kept = prompt.rstrip()
        continuation = prompt[len(kept) :] + continuation
        before = self.context(kept)
        if kept:
            whole = self.context(kept + continuation)
            if whole[: len(before)] == before:
                return whole, len(before)
        return before + tokenizer.encode(continuation), len(before)

    def decoder(self) -> Decoder | None:
        """A fresh streaming decoder; special tokens give no text."""
        return None if self.tokenizer is None else self.tokenizer.stream(skip_special=True)

    def endings(self, stops: tuple[str, ...], ignore_end: bool) -> Endings:
        """The tokens that end a text; a stop string that is a special token ends it as a token."""
        stop_ids = {}
        if stops:
            tokenizer = self.need("A stop string")
            found = {stop: tokenizer.token_to_id(stop) for stop in stops}
            stop_ids = {token: stop for stop, token in found.items() if token in tokenizer.special_ids}
        return Endings(None if ignore_end else self.end_id, stop_ids)

    def is_complete(self, endings: Endings, stops: tuple[str, ...]) -> Callable[[list[int]], bool]:
        """Whether new tokens are a whole text, judged by the last one: the earlier ones have been asked about."""
        wanted = [stop.encode() for stop in stops]
        longest = max(map(len, wanted), default=0)  # a stop string has at most this many tokens

        def complete(ids: list[int]) -> bool:
            if ids[-1] == endings.end_id or ids[-1] in endings.stop_ids:
                return True
            if not wanted:
                return False
            tail = self.need("A stop string").decode_bytes(ids[-longest - 1 :])
            return any(stop in tail for stop in wanted)

        return complete


def windows(ids: list[int], start: int, n_positions: int) -> list[tuple[list[int], int]]:
    """Rows of at most n_positions + 1 tokens that together judge ids[start:], each with its first judged token."""
    if start >= len(ids):
        return []
    if len(ids) <= n_positions + 1:
        return [(ids, start)]
    step = max(1, n_positions // 2)
    rows = []
    while start < len(ids):
        end = min(len(ids), start + step)
        first = max(0, end - n_positions - 1)
        rows.append((ids[first:end], start - first))
        start = end
    return rows
