"""Who is worked on next: a thread that takes jobs of several models and does one step after another.

    submit -> waiting -> reading (chunks of the prompt) -> running (a token a step) -> done
                 `-- full: refused      `-- cancelled, too late, failed: their cache is free before the next step

A prompt is admitted when there is a place for its texts, and cache as its backend judges, in the order of arrival. A
step reads at most one chunk's worth of prompts and gives every running text one token: long prompts do not stall the
texts that others read. Calls that take long are done beside the steps, by a thread of their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gptwo.errors import GptwoError, UsageError
from gptwo.serve.aside import Aside
from gptwo.serve.calling import Over, do_some, take, told
from gptwo.serve.jobs import Broken, Job, Lane, Refused, Stopped, TooLate
from gptwo.serve.watch import Watch
from gptwo.serve.work import Chosen, Row

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
        self.max_queue, self.call_records, self.strict = max_queue, call_records, strict
        self.watch = watch or Watch()
        self.lanes: dict[str, Lane] = {}
        self.failure: Exception | None = None
        self._changed = threading.Condition()
        self._arrived: deque[Job] = deque()  # lanes are touched by the scheduler's thread alone
        self._tasks: deque[Callable[[], None]] = deque()  # to be run between two steps
        self._draining = self._stopping = False
        self._thread: threading.Thread | None = None
        self._aside = Aside()

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
                self._end_all(lane, Stopped(f"The model {name!r} was unloaded."), name)

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
            or (self._aside.free and any(lane.apart for lane in lanes))
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
                    self._sweep(lane)
                    if not lane.idle:
                        self._step(lane)
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
                self._end_all(lane, Stopped("The server is shutting down."))
            for task in tasks:
                task()
            self._aside.stop()
            with self._changed:
                self._changed.notify_all()

    def _let_in(self) -> None:
        """New jobs go to their models."""
        while self._arrived:
            job = self._arrived.popleft()
            lane = self.lanes.get(job.model)
            if lane is None:
                self._end(job, Stopped(f"The model {job.model!r} was unloaded."))
                continue
            lane.waiting.extend((job, prompt) for prompt in job.prompts)
            if job.call is not None:
                (lane.apart if job.apart else lane.calls).append(job)

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

    def _sweep(self, lane: Lane) -> None:
        """Let those leave that are cancelled or too late."""
        now = time.monotonic()
        for job in lane.jobs:
            if job.cancelled:
                self._drop(lane, job)
                self._end(job, Stopped("The client has gone."))
                self.watch.ended("cancelled")
            elif job.deadline is not None and now >= job.deadline:
                self._drop(lane, job)
                self._end(job, TooLate(f"The request was not done within {job.deadline - job.arrived:.3g} seconds."))
                self.watch.ended("late")

    def _step(self, lane: Lane) -> None:
        lane.admit()
        if lane.reading or lane.running:
            begun = time.monotonic()
            try:
                done = lane.backend.step([prompt for _, prompt in lane.reading], lane.chunk)
            except Exception as error:
                log.exception("a step has failed")
                self._fail(lane, error)
                return
            for entry in [entry for entry in lane.reading if entry[1].whole]:
                lane.reading.remove(entry)
                for row in entry[1].rows:
                    lane.running[row] = entry
            for chosen in done.chosen:
                self._take(lane, chosen)
            self._finish(lane)
            self.watch.stepped(time.monotonic() - begun, done)
        if lane.calls:
            self._end_calls(lane, do_some(lane, self.call_records))
        if lane.apart and self._aside.free:
            self._call_apart(lane)

    def _take(self, lane: Lane, chosen: Chosen) -> None:
        """Give a text its token; it leaves when that was its last."""
        row = chosen.row
        if row not in lane.running or row.text.finish_reason is not None:  # it has ended in this step
            return
        job, _ = lane.running[row]
        try:
            if chosen.error is not None:
                raise Broken(chosen.error)
            if row.constraint is not None:
                row.constraint.take(chosen.token)
            if chosen.scored is not None:
                row.scored.append(chosen.scored)
            piece = row.text.take(chosen.token, row.endings)
            self._clock(job, row)
            if job.on_piece is not None:
                job.on_piece(row, piece)
        except Exception as error:
            if not isinstance(error, GptwoError):
                log.exception("a text has failed")
            self._drop(lane, job)
            self._end(job, error if isinstance(error, GptwoError) else Broken(f"{type(error).__name__}: {error}"))
            self.watch.ended("failed")

    def _clock(self, job: Job, row: Row) -> None:
        now = time.monotonic()
        if not job.begun:
            self.watch.first_token(now - job.arrived)
        elif row.newest is not None:
            self.watch.next_token(now - row.newest)
        job.begun, row.newest = True, now

    def _finish(self, lane: Lane) -> None:
        """Let texts leave that are complete, and jobs end whose texts have all left."""
        jobs = set()
        for row, (job, _) in list(lane.running.items()):
            if row.text.finish_reason is not None or row.text.limit == 0:
                row.text.finish_reason = row.text.finish_reason or "length"
                lane.backend.release(row)
                del lane.running[row]
                jobs.add(job)
        for job in jobs:
            if not job.over and all(
                prompt.whole and all(row.text.finish_reason for row in prompt.rows) for prompt in job.prompts
            ):
                self._end(job, None)
                self.watch.ended("done")

    def _call_apart(self, lane: Lane) -> None:
        """Have one record of a call done beside the steps; calls take turns."""
        job = lane.apart[0]
        lane.apart.rotate(-1)
        call, record = job.call, job.records[len(job.results)]
        assert call is not None

        def done(results: list[Any] | None, error: Exception | None) -> None:
            def heed() -> None:
                self._aside.free = True  # only now: who begins the next record must see that this one is done
                if not job.over:
                    self._end_calls(lane, take(job, results or []) if error is None else [(job, told(error))])

            with self._changed:
                self._tasks.append(heed)
                self._changed.notify_all()

        self._aside.begin(lambda: call([record]), done)

    def _end_calls(self, lane: Lane, over: Over) -> None:
        for job, error in over:
            self._drop(lane, job)
            self._end(job, error)
            self.watch.ended("done" if error is None else "failed")

    # --- leaving

    def _drop(self, lane: Lane, job: Job) -> None:
        """Free all that a job holds."""
        lane.waiting = deque(entry for entry in lane.waiting if entry[0] is not job)
        for entry in [entry for entry in lane.reading if entry[0] is job]:
            lane.reading.remove(entry)
            lane.backend.abandon(entry[1])
        for row in [row for row, entry in lane.running.items() if entry[0] is job]:
            lane.backend.release(row)
            del lane.running[row]
        for calls in (lane.calls, lane.apart):
            if job in calls:
                calls.remove(job)

    def _end(self, job: Job, error: Exception | None) -> None:
        if job.over:
            return
        job.over = True
        try:
            job.on_end(error)
        except Exception:  # e.g. an event loop that has closed
            log.exception("nobody takes the end of a job")

    def _end_all(self, lane: Lane, error: Exception, model: str | None = None) -> None:
        """End all jobs of a lane, or those of one model."""
        for job in lane.jobs:
            if model is not None and job.model != model:
                continue
            try:
                self._drop(lane, job)
            except Exception:  # the backend is at fault; whoever waits must still hear of the end
                log.exception("a job could not be dropped")
            self._end(job, error)

    def _fail(self, lane: Lane, error: Exception) -> None:
        """A step has failed: everything that was part of it ends."""
        told = error if isinstance(error, GptwoError) else Broken(f"The step failed: {type(error).__name__}.")
        for job in {job for job, _ in [*lane.reading, *lane.running.values()]}:
            self._drop(lane, job)
            self._end(job, told)
            self.watch.ended("failed")
