"""Stopping politely: the first SIGINT or SIGTERM asks, a second one insists."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class StopSignals:
    """Whether a stop was asked for."""

    asked: bool = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Within: the first SIGINT or SIGTERM asks for a stop at the end of the step, a second one stops at once.

    Outside the main thread, where Python allows no handlers, nothing is changed.
    """
    state = StopSignals()

    def ask(number, frame):
        if state.asked:
            raise KeyboardInterrupt
        state.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread
        yield state
        return
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
