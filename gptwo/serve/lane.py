"""Who is let in and who must leave: the jobs of one model.

    add -> waiting --admit--> reading (chunks of the prompt) -> running (a token a step) -> done
             `-- at any time: overdue (cancelled, too late), and then dropped with all that it holds

A prompt is admitted when there is a place for its texts, and cache as its backend judges, in the order of arrival.
Calls of whole records wait beside them, and those that take long apart.
"""

from __future__ import annotations

import logging
import time
from collections import deque

from gptwo.serve.backend import StepBackend
from gptwo.serve.jobs import Job, Stopped, TooLate
from gptwo.serve.work import Prompt, Row

log = logging.getLogger("gptwo.serve")


class Lane:
    """The jobs of one model.

    Args:
        max_batch: texts that are written together at most.
        chunk: tokens of prompts that are read in a step at most.
        cache_tokens: room of the cache; None: its backend alone judges.
    """

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

    def add(self, job: Job) -> None:
        """Let a new job wait."""
        self.waiting.extend((job, prompt) for prompt in job.prompts)
        if job.call is not None:
            (self.apart if job.apart else self.calls).append(job)

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

    def overdue(self) -> list[tuple[Job, Stopped, str]]:
        """The jobs whose client has gone or whose time is up: the error to tell, and how `Watch.ended` calls it."""
        now = time.monotonic()
        found: list[tuple[Job, Stopped, str]] = []
        for job in self.jobs:
            if job.cancelled:
                found.append((job, Stopped("The client has gone."), "cancelled"))
            elif job.deadline is not None and now >= job.deadline:
                late = TooLate(f"The request was not done within {job.deadline - job.arrived:.3g} seconds.")
                found.append((job, late, "late"))
        return found

    def drop(self, job: Job) -> None:
        """Free all that a job holds."""
        self.waiting = deque(entry for entry in self.waiting if entry[0] is not job)
        for entry in [entry for entry in self.reading if entry[0] is job]:
            self.reading.remove(entry)
            self.backend.abandon(entry[1])
        for row in [row for row, entry in self.running.items() if entry[0] is job]:
            self.backend.release(row)
            del self.running[row]
        for calls in (self.calls, self.apart):
            if job in calls:
                calls.remove(job)

    def end_all(self, error: Exception, model: str | None = None) -> None:
        """End all jobs, or those of one model."""
        for job in self.jobs:
            if model is not None and job.model != model:
                continue
            try:
                self.drop(job)
            except Exception:  # the backend is at fault; whoever waits must still hear of the end
                log.exception("a job could not be dropped")
            job.finish(error)

    def _fits(self, lengths: list[int]) -> bool:
        return self.cache_tokens is None or self.backend.room_for(lengths) <= self.cache_tokens
