"""What the scheduler is given to do: jobs, and how one may end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gptwo.errors import GptwoError
from gptwo.serve.work import Prompt, Row

log = logging.getLogger("gptwo.serve")


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

    def finish(self, error: Exception | None) -> None:
        """It is over, by an error or with None because all is done; who asked is told once."""
        if self.over:
            return
        self.over = True
        try:
            self.on_end(error)
        except Exception:  # e.g. an event loop that has closed
            log.exception("nobody takes the end of a job")
