"""The scheduler: a thread that takes jobs of several models and does one step after another.

    submit -> arrived -> the lane of its model: `lane.py` says who begins and who must leave
       `-- full: refused                        `stepping.py` does what is due in a step

Other threads submit and cancel jobs, or ask for something to be done between two steps; a lane is touched by the
scheduler's thread alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gptwo.errors import UsageError
from gptwo.serve.jobs import Job, Refused, Stopped
from gptwo.serve.lane import Lane
from gptwo.serve.stepping import Stepping
from gptwo.serve.watch import Watch

log = logging.getLogger("gptwo.serve")


class Scheduler:
    """The thread that works for all models.

    Args:
        max_queue: prompts and calls that wait at most, of all models together; more are refused.
        call_records: records of whole-text tasks that are done between two steps at most.
        strict: raise where the accounts do not add up when idle (tests), instead of writing it to the log.
    """

    def __init__(
        self, *, max_queue: int = 256, call_records: int = 16, watch: Watch | None = None, strict: bool = False
    ):
        self.max_queue, self.strict = max_queue, strict
        self.watch = watch or Watch()
        self.lanes: dict[str, Lane] = {}
        self.failure: Exception | None = None
        self._changed = threading.Condition()
        self._arrived: deque[Job] = deque()
        self._tasks: deque[Callable[[], None]] = deque()  # to be run between two steps
        self._draining = self._stopping = False
        self._thread: threading.Thread | None = None
        self._stepping = Stepping(self.watch, call_records, self._soon)

    # --- from other threads

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=self._run, name="gptwo-scheduler", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def waiting(self) -> int:
        """Prompts and calls that have not begun."""
        arrived = sum(len(job.prompts) + bool(job.call) for job in list(self._arrived))
        lanes = self._lanes
        return arrived + sum(len(lane.waiting) + len(lane.calls) + len(lane.apart) for lane in lanes)

    @property
    def running(self) -> int:
        """Texts that are written."""
        return sum(len(lane.running) for lane in self._lanes)

    @property
    def cache_tokens(self) -> int:
        """Tokens that are held in caches."""
        return sum(lane.backend.held for lane in self._lanes)

    def submit(self, job: Job) -> None:
        """Take a job.

        Raises:
            Refused: the queue is full, or nothing is taken any more.
            UsageError: a prompt that would not fit if it were alone.
            KeyError: no such model.
        """
        with self._changed:
            if self._draining or self._stopping or not self.alive:
                raise Refused("The server is shutting down.", full=False)
            lane = self.lanes[job.model]
            new = len(job.prompts) + bool(job.call)
            if self.waiting + new > self.max_queue:
                self.watch.refused("queue")
                raise Refused(f"The queue is full: {self.waiting} prompts are waiting.", full=True)
            for prompt in job.prompts:
                if not lane.could_ever_hold(prompt):
                    raise UsageError(
                        f"{len(prompt.rows)} texts of {prompt.longest} tokens do not fit into the server's cache.",
                        fix="fewer texts or tokens; a larger --max-batch or --cache",
                    )
            job.arrived = time.monotonic()
            self._arrived.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End a job; its cache is free before the next step."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def between_steps(self, task: Callable[[], Any]) -> Any:
        """Run something in the scheduler's thread, where no step is under way, and return its result."""
        done = threading.Event()
        found: list[Any] = []

        def run() -> None:
            try:
                found.append((task(), None))
            except Exception as error:
                found.append((None, error))
            done.set()

        with self._changed:
            if self._stopping or not self.alive:
                raise Refused("The server is shutting down.", full=False)
            self._tasks.append(run)
            self._changed.notify()
        done.wait()
        result, error = found[0]
        if error is not None:
            raise error
        return result

    def add(self, name: str, lane: Lane) -> None:
        """A model begins to be served; several may share a lane, and then the passes of its backend."""
        with self._changed:
            self.lanes[name] = lane

    def remove(self, name: str) -> None:
        """A model leaves; its jobs end with `Stopped`."""

        def leave() -> None:
            with self._changed:
                lane = self.lanes.pop(name, None)
            if lane is not None:
                lane.end_all(Stopped(f"The model {name!r} was unloaded."), name)

        self.between_steps(leave)

    def refuse(self) -> None:
        """Take nothing new. Safe in a signal handler: no lock is taken."""
        self._draining = True

    def drain(self, timeout: float | None) -> bool:
        """Take nothing new and wait until all is done; whether it was, in time."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._idle or not self.alive, timeout)

    def stop(self) -> None:
        """End now; jobs that are left end with `Stopped`."""
        with self._changed:
            self._draining = self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # --- the thread

    @property
    def _lanes(self) -> list[Lane]:
        """Each once."""
        return list(dict.fromkeys(list(self.lanes.values())))

    @property
    def _idle(self) -> bool:
        return not self._tasks and not self._arrived and all(lane.idle for lane in self._lanes)

    @property
    def _called(self) -> bool:
        """Whether this thread has something to do."""
        lanes = self._lanes
        return (
            bool(self._tasks or self._arrived)
            or any(lane.busy or any(job.cancelled for job in lane.apart) for lane in lanes)
            or (self._stepping.aside.free and any(lane.apart for lane in lanes))
        )

    def _patience(self) -> float | None:
        """Seconds until a call that is done beside the steps is too late; None where none ever is."""
        deadlines = [job.deadline for lane in self._lanes for job in lane.apart if job.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._idle:
                        self._check_idle()
                        self._changed.notify_all()  # to those that drain
                    if not self._called:
                        self._changed.wait_for(lambda: self._stopping or self._called, self._patience())
                    if self._stopping:
                        break
                    tasks = list(self._tasks)
                    self._tasks.clear()
                    self._let_in()
                    lanes = self._lanes
                for task in tasks:
                    task()
                for lane in lanes:
                    self._stepping.step(lane)
        except Exception as error:  # a fault of the scheduler itself: say so, and let /health say so
            self.failure = error
            log.exception("the scheduler has failed")
        finally:
            with self._changed:
                self._stopping = True
                self._let_in()
                left = self._lanes
                tasks = list(self._tasks)
            for lane in left:
                lane.end_all(Stopped("The server is shutting down."))
            for task in tasks:
                task()
            self._stepping.aside.stop()
            with self._changed:
                self._changed.notify_all()

    def _soon(self, task: Callable[[], None]) -> None:
        """Run something before the next step."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify_all()

    def _let_in(self) -> None:
        """New jobs go to their models."""
        while self._arrived:
            job = self._arrived.popleft()
            lane = self.lanes.get(job.model)
            if lane is None:
                job.finish(Stopped(f"The model {job.model!r} was unloaded."))
            else:
                lane.add(job)

    def _check_idle(self) -> None:
        """When nothing is to be done, nothing may be held but what the prefix cache keeps."""
        for lane in self._lanes:
            left = lane.backend.left_over()
            if left is not None:
                names = ", ".join(name for name, one in self.lanes.items() if one is lane)
                message = f"{left} held for {names} though nothing runs"
                if self.strict:
                    raise AssertionError(message)
                log.error(message)
