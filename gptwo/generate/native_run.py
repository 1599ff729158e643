"""The loop of native generation: sequences join and leave between steps; prompts go in chunk by chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from gptwo.errors import GptwoError
from gptwo.generate.native_draft import Draft
from gptwo.generate.native_lookup import Lookup
from gptwo.generate.sequence import Endings, Sequence

if TYPE_CHECKING:
    from gptwo.generate.options import SamplingOptions

GUESSING = 2  # up to so many sequences the network waits for memory, and checking guesses costs little


class Way(NamedTuple):
    """How a text goes through the network: the engine's number of its adapter (-1: the engine's own, 0: none), and the
    positions that the adapter leaves it."""

    adapter: int
    n_positions: int


class NativeRun:
    """Sequences on their way to their ends.

    What a sequence writes depends on itself only: the engine sums each row in the same order in every batch.

    Args:
        native: the C++ engine.
        sequences: each with at least one token and a limit of at least one.
        sampling: how the tokens of a sequence are chosen, for the engine.
        endings: tokens that end a text.
        way: of a sequence through the network.
        max_batch: sequences that run together at most.
        speculate: guess at tokens by looking back, which changes the speed and nothing else.
        draft: a sequence in a smaller model that guesses where looking back finds nothing.
    """

    def __init__(
        self,
        native: Any,
        options: SamplingOptions,
        sequences: Iterable[Sequence],
        sampling: Callable[[Sequence], Any],
        *,
        endings: Endings,
        way: Callable[[Sequence], Way],
        max_batch: int,
        speculate: bool = True,
        draft: Callable[[Sequence], Draft] | None = None,
    ):
        self._native, self._options, self._sampling = native, options, sampling
        self._endings, self._way, self._max_batch = endings, way, max_batch
        self._waiting = deque(sequences)
        self._running: dict[int, Sequence] = {}  # by the engine's number, in the order they came
        self._speculate = speculate
        self._lookups: dict[int, Lookup] = {}
        self._draft = draft
        self._drafts: dict[int, Draft] = {}
        self._drafted: set[int] = set()  # whose guesses of this step a draft has made

    def advance(self) -> list[tuple[Sequence, str]] | None:
        """One step.

        Returns:
            each sequence that got tokens with the piece of text that became certain (often ""); None when all have
            ended.
        """
        self._admit()
        if not self._running:
            return None
        try:
            work, chosen = self._step()
            return self._take(work, chosen)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give everything back; sequences that are not over stay as they are."""
        for number in list(self._running):
            self._leave(number)
        self._waiting = deque()

    def __del__(self) -> None:
        self.close()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_batch:
            sequence = self._waiting.popleft()
            way = self._way(sequence)
            sequence.slide(way.n_positions)
            tokens, prompt = sequence.prompt + sequence.ids, len(sequence.prompt)
            number = self._native.open(tokens, prompt, sequence.first, self._sampling(sequence), way.adapter)
            self._running[number] = sequence

    def _plan(self) -> list[tuple[int, int, list[int]]]:
        """What each sequence does in the next step: one token, or a chunk of its prompt as far as there is room."""
        left = {number: self._native.left(number) for number in self._running}
        writing = [number for number, count in left.items() if count == 1]
        work = [(number, 1, self._guess(number)) for number in writing]
        room = self._native.max_tokens - sum(1 + len(guesses) for _, _, guesses in work)
        begun: set[tuple[int, ...]] = set()  # prompts that are being read; one that begins alike waits for its pages
        for number, sequence in self._running.items():
            start = (self._way(sequence).adapter, *sequence.context[:64]) if left[number] > 1 else ()
            if start and start not in begun and room:
                begun.add(start)
                work.append((number, min(left[number], room), []))
                room -= work[-1][1]
        return work

    def _guess(self, number: int) -> list[int]:
        """Tokens that may come after the one that is due."""
        self._drafted.discard(number)
        if not self._speculate or len(self._running) > GUESSING:
            return []
        sequence = self._running[number]
        if number not in self._lookups:
            self._lookups[number] = Lookup(sequence.prompt + sequence.ids)
        room = self._way(sequence).n_positions - sequence.context_length
        most = min(room, sequence.remaining - 1)
        if guesses := self._lookups[number].guess(most):
            return guesses
        if self._draft is None:
            return []
        if number not in self._drafts:
            self._drafts[number] = self._draft(sequence)
        self._drafted.add(number)
        return self._drafts[number].guess(most)

    def _leave(self, number: int) -> None:
        """A sequence's place and what guesses for it are given back."""
        self._native.close(number)
        del self._running[number]
        self._lookups.pop(number, None)
        if draft := self._drafts.pop(number, None):
            draft.close()

    def _step(self) -> tuple[list[tuple[int, int, list[int]]], list[list[tuple[int, float]]]]:
        """A step of the engine; where the cache is full, the sequence that came last waits until others are over."""
        from gptwo.generate._native import OutOfPages

        while True:
            work = self._plan()
            try:
                return work, self._native.step(work)
            except OutOfPages as error:
                if len(self._running) == 1:
                    if self._speculate:  # the guesses may be what has no room
                        self._speculate = False
                        continue
                    raise GptwoError(
                        "The key/value cache is too small for one sequence.",
                        why=str(error),
                        fix="a larger cache_bytes, or a shorter prompt",
                    ) from None
                number, sequence = next(reversed(self._running.items()))
                self._leave(number)
                self._waiting.appendleft(sequence)
                self._max_batch = len(self._running)

    def _take(
        self, work: list[tuple[int, int, list[int]]], chosen: list[list[tuple[int, float]]]
    ) -> list[tuple[Sequence, str]]:
        """Give each sequence its tokens; those that are over leave."""
        pieces = []
        for (number, _, guesses), tokens in zip(work, chosen, strict=True):
            if not tokens:
                continue
            for guesser in (self._lookups.get(number), self._drafts.get(number)):
                if guesser is not None:
                    guesser.append([token for token, _ in tokens])
                    if isinstance(guesser, Draft) == (number in self._drafted):
                        guesser.judge(len(guesses), len(tokens) - 1)
            sequence = self._running[number]
            text = ""
            for token, logprob in tokens:
                if token < 0:
                    raise GptwoError(
                        "The model's logits are not numbers (NaN).",
                        why="Its weights hold NaN or infinite values, or the precision is too small for them.",
                        fix="precision fp32, or an earlier checkpoint",
                    )
                if self._options.logprobs:
                    sequence.logprobs.append(logprob)
                text += sequence.take(token, self._endings)
                if sequence.finish_reason is not None:
                    break
            pieces.append((sequence, text))
            if sequence.finish_reason is not None:
                self._leave(number)
            elif sequence.context_length > (n_positions := self._way(sequence).n_positions):
                sequence.slide(n_positions)
                self._native.slide(number, sequence.first)
        return pieces
