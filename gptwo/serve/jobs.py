"""What the scheduler works on: jobs, the lane of each model, and how a job may end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gptwo.errors import GptwoError
from gptwo.serve.backend import StepBackend
from gptwo.serve.work import Prompt, Row


class Refused(GptwoError):
    """A job that is not taken: the queue is full, or the server is going down."""

    def __init__(self, what: str, *, full: bool):
        super().__init__(what)
        self.full = full


class Stopped(GptwoError):
    """A job that was ended before it was done."""


class TooLate(Stopped):
    """Its time was up."""


class Broken(Stopped):
    """The server failed at it."""


@dataclass(eq=False)
class Job:
    """What one request asks for, from its arrival to its end.

    Args:
        model: the name of the lane that does it.
        prompts: to be continued.
        call: instead of prompts, what whole records are given to, with `records`; jobs with an equal `call` are done
            together.
        records: of `call`, one result for each.
        apart: `call` takes long: it is done record by record beside the steps, in a thread of its own.
        deadline: on the clock of `time.monotonic`; None is never.
        on_piece: told of each text's new piece, often empty, in the scheduler's thread.
        on_end: told once, with None when all is done or the error that ended it.
    """

    model: str
    prompts: list[Prompt] = field(default_factory=list)
    call: Callable[[list[Any]], list[Any]] | None = None
    records: list[Any] = field(default_factory=list)
    apart: bool = False
    deadline: float | None = None
    on_piece: Callable[[Row, str], None] | None = None
    on_end: Callable[[Exception | None], object] = lambda error: None
    results: list[Any] = field(default_factory=list)
    arrived: float = 0.0
    cancelled: bool = False
    over: bool = False
    begun: bool = False  # whether a token has come


class Lane:
    """The jobs of one model."""

    def __init__(self, backend: StepBackend, *, max_batch: int, chunk: int, cache_tokens: int | None):
        self.backend, self.max_batch, self.chunk = backend, max_batch, chunk
        self.cache_tokens = cache_tokens
        self.waiting: deque[tuple[Job, Prompt]] = deque()
        self.reading: list[tuple[Job, Prompt]] = []
        self.running: dict[Row, tuple[Job, Prompt]] = {}
        self.calls: deque[Job] = deque()
        self.apart: deque[Job] = deque()

    @property
    def jobs(self) -> set[Job]:
        """All that are not over."""
        return {job for job, _ in [*self.waiting, *self.reading, *self.running.values()]} | {*self.calls, *self.apart}

    @property
    def idle(self) -> bool:
        return not (self.busy or self.apart)

    @property
    def busy(self) -> bool:
        """Whether the scheduler's own thread has something to do."""
        return bool(self.waiting or self.reading or self.running or self.calls)

    def could_ever_hold(self, prompt: Prompt) -> bool:
        """Whether a prompt fits where nothing else runs."""
        return len(prompt.rows) <= self.max_batch and self._fits([prompt.longest] * len(prompt.rows))

    def admit(self) -> None:
        """Let waiting prompts begin, in their order, while there are places and cache for them."""
        lengths = [prompt.longest for _, prompt in self.running.values()]
        lengths += [prompt.longest for _, prompt in self.reading for _ in prompt.rows]
        while self.waiting:
            prompt = self.waiting[0][1]
            lengths += [prompt.longest] * len(prompt.rows)
            if len(lengths) > self.max_batch or not self._fits(lengths) or not self.backend.admit(prompt):
                return
            self.reading.append(self.waiting.popleft())

    def _fits(self, lengths: list[int]) -> bool:
        return self.cache_tokens is None or self.backend.room_for(lengths) <= self.cache_tokens
