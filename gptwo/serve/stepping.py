"""A step of one lane: chunks of prompts are read, every running text gets a token, calls are done.

A step reads at most one chunk's worth of prompts: long prompts do not stall the texts that others read. Calls that
take long are done beside the steps, by a thread of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from gptwo.errors import GptwoError
from gptwo.serve.aside import Aside
from gptwo.serve.calling import Over, do_some, take, told
from gptwo.serve.jobs import Broken, Job
from gptwo.serve.lane import Lane
from gptwo.serve.watch import Watch
from gptwo.serve.work import Chosen, Row

log = logging.getLogger("gptwo.serve")


class Stepping:
    """Does what is due, in the scheduler's thread.

    Args:
        call_records: records of whole-text tasks that are done in a step at most.
        soon: runs something in the scheduler's thread before the next step; called by other threads.
    """

    def __init__(self, watch: Watch, call_records: int, soon: Callable[[Callable[[], None]], None]):
        self.watch, self.call_records, self._soon = watch, call_records, soon
        self.aside = Aside()

    def step(self, lane: Lane) -> None:
        """Let go who must leave, let in who may begin, and take one step with those that are there."""
        for job, error, how in lane.overdue():
            self._end(lane, job, error, how)
        if lane.idle:
            return
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
        if lane.apart and self.aside.free:
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
            reason = error if isinstance(error, GptwoError) else Broken(f"{type(error).__name__}: {error}")
            self._end(lane, job, reason, "failed")

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
                self._end(lane, job, None, "done")

    def _call_apart(self, lane: Lane) -> None:
        """Have one record of a call done beside the steps; calls take turns."""
        job = lane.apart[0]
        lane.apart.rotate(-1)
        call, record = job.call, job.records[len(job.results)]
        assert call is not None

        def done(results: list[Any] | None, error: Exception | None) -> None:
            def heed() -> None:
                self.aside.free = True  # only now: who begins the next record must see that this one is done
                if not job.over:
                    self._end_calls(lane, take(job, results or []) if error is None else [(job, told(error))])

            self._soon(heed)

        self.aside.begin(lambda: call([record]), done)

    def _end_calls(self, lane: Lane, over: Over) -> None:
        for job, error in over:
            self._end(lane, job, error, "done" if error is None else "failed")

    def _fail(self, lane: Lane, error: Exception) -> None:
        """A step has failed: everything that was part of it ends."""
        reason = error if isinstance(error, GptwoError) else Broken(f"The step failed: {type(error).__name__}.")
        for job in {job for job, _ in [*lane.reading, *lane.running.values()]}:
            self._end(lane, job, reason, "failed")

    def _end(self, lane: Lane, job: Job, error: Exception | None, how: str) -> None:
        lane.drop(job)
        job.finish(error)
        self.watch.ended(how)
