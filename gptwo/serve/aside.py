"""Work beside the steps: one thread of low priority for what takes seconds, so that texts are not kept waiting."""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptwo.model.pretrained import Pretrained

PATIENCE = 10.0  # seconds
NICENESS = 5  # of the thread and of those that PyTorch starts for it: decoding comes first


class Aside:
    """Does one thing after another; is given the next only when `free`."""

    def __init__(self) -> None:
        self.free = True
        self._given: SimpleQueue[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]] | None]
        self._given = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Start some work; `done` is told its result or its error, in that thread."""
        self.free = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gptwo-aside", daemon=True)
            self._thread.start()
        self._given.put((work, done))

    def stop(self) -> None:
        """End when the work under way is done; what takes longer than `PATIENCE` is left behind."""
        if self._thread is not None:
            self._given.put(None)
            self._thread.join(PATIENCE)
            self._thread = None

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of this kind
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (given := self._given.get()) is not None:
            work, done = given
            try:
                done(work(), None)
            except Exception as error:
                done(None, error)


def twin(pretrained: Pretrained) -> Pretrained:
    """The same model as other modules over the same weights: hooks and switched adapters of the one do not reach the
    other, so both may be used at the same time."""
    model = pretrained.model
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return replace(pretrained, model=copy.deepcopy(model, weights).eval())
