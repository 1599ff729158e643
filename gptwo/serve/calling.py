"""Calls of whole records: some of them between two steps, those of equal calls together, or one beside the steps."""

from __future__ import annotations

import logging
from typing import Any

from gptwo.errors import GptwoError
from gptwo.serve.jobs import Broken, Job
from gptwo.serve.lane import Lane

log = logging.getLogger("gptwo.serve")

Over = list[tuple[Job, Exception | None]]
"""Jobs that are done, or have failed."""


def do_some(lane: Lane, records: int) -> Over:
    """Do at most so many records of the calls that wait; where one fails, each call by itself."""
    call = lane.calls[0].call
    assert call is not None
    some: list[tuple[Job, list[Any]]] = []
    for job in lane.calls:
        if job.call != call or not records:
            break
        begin = len(job.results)
        some.append((job, job.records[begin : begin + records]))
        records -= len(some[-1][1])
    try:
        found = call([record for _, own in some for record in own])
    except Exception:  # one of them may be at fault
        over: Over = []
        for job, own in some:
            try:
                over += take(job, call(own))
            except Exception as error:
                over.append((job, told(error)))
        return over
    over, at = [], 0
    for job, own in some:
        over += take(job, found[at : at + len(own)])
        at += len(own)
    return over


def take(job: Job, results: list[Any]) -> Over:
    """Give a job some of its results; it is over when it has all."""
    job.results += results
    return [(job, None)] if len(job.results) == len(job.records) else []


def told(error: Exception) -> GptwoError:
    """An error as whoever asked is told of it; one that is not ours is logged."""
    if isinstance(error, GptwoError):
        return error
    log.error("a call has failed", exc_info=error)
    return Broken(type(error).__name__)
