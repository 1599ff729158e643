"""Who watches a run: one stream of events, fanned out to trackers that may fail without stopping it."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gptwo.errors import MissingError, UsageError, did_you_mean
from gptwo.train.console import ConsoleTracker
from gptwo.train.events import Event, EventsFile, plain
from gptwo.train.services import MlflowTracker, TensorBoardTracker, WandbTracker

TRACKERS = ("console", "events", "tensorboard", "wandb", "mlflow")


class Tracker(Protocol):
    """Anything that wants to see the events of a run."""

    name: str

    def on_event(self, event: Event) -> None:
        """Take one event; whatever this raises switches the tracker off for the rest of the run."""

    def close(self) -> None:
        """Deliver what is still held, and let go of files and connections."""


class Background:
    """Hands events to a tracker on a thread of its own, so that a slow server never holds up training.

    An error of the tracker is raised by the next call. `close` waits for what is queued, at most `patience` seconds.
    """

    def __init__(self, tracker: Tracker, *, patience: float = 30.0):
        self.name, self.tracker, self.patience = tracker.name, tracker, patience
        self.queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.work, name=f"tracker-{self.name}", daemon=True)
        self.thread.start()

    def work(self) -> None:
        try:
            while (event := self.queue.get()) is not None:
                self.tracker.on_event(event)
            self.tracker.close()
        except Exception as error:
            self.error = error

    def on_event(self, event: Event) -> None:
        if self.error is not None:
            raise self.error
        self.queue.put(event)

    def close(self) -> None:
        self.queue.put(None)
        self.thread.join(self.patience)
        if self.thread.is_alive():
            raise TimeoutError(f"still busy after {self.patience:g} s; its last events may be lost")
        if self.error is not None:
            raise self.error


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


class Trackers:
    """All trackers of a run behind one `emit`. One that raises is named once and then left out."""

    def __init__(self, trackers: Iterable[Tracker] = ()):
        self.trackers = list(trackers)

    def emit(self, kind: str, step: int = 0, **values: Any) -> Event:
        """Build an event and hand it to every tracker.

        Args:
            kind: one of the kinds in the table of events.py.
            step: optimizer steps done so far.
            values: what else the event says; tensors and arrays of one or few numbers become plain numbers.
        """
        event: Event = {"time": time.time(), "kind": kind, "step": int(step), **plain(values)}
        for tracker in list(self.trackers):
            try:
                tracker.on_event(event)
            except Exception as error:
                self.switch_off(tracker, error, step)
        return event

    def close(self) -> None:
        """Close every tracker; call it once, however the run ended."""
        for tracker in list(self.trackers):
            try:
                tracker.close()
            except Exception as error:
                self.switch_off(tracker, error, 0)
        self.trackers.clear()

    def switch_off(self, tracker: Tracker, error: Exception, step: int) -> None:
        """Leave a failed tracker out from now on, and say so where the other trackers say things."""
        if tracker not in self.trackers:
            return
        self.trackers.remove(tracker)
        self.warn(f"tracker {tracker.name!r} failed and is off for the rest of this run: {one_line(error)}", step)

    def warn(self, message: str, step: int = 0) -> None:
        """A notice that reaches the user even where no console tracker is left."""
        if not any(tracker.name == "console" for tracker in self.trackers):
            sys.stderr.write(f"gptwo: {message}\n")
        self.emit("notice", step, message=message)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_trackers(
    names: Sequence[str], run_folder: Path | str, *, project: str = "gptwo", recipe: dict[str, Any] | None = None
) -> Trackers:
    """The trackers of a run. events.jsonl is always among them, because every watcher reads it.

    Args:
        names: any of `TRACKERS`, in any order.
        run_folder: where events.jsonl and the files of TensorBoard, W&B (offline) and MLflow (local) go.
        project: under which W&B and MLflow file the run; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME win.
        recipe: the resolved recipe as a nested dict, shown by W&B and MLflow beside the curves.

    Raises:
        UsageError: a name that is no tracker.
        MissingError: the package of a tracker is not installed; raised here, before training starts.
    """
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"There is no tracker {name!r}.", where="trackers", fix=did_you_mean(name, TRACKERS))
    folder = Path(run_folder)
    makers: dict[str, Callable[[], Tracker]] = {
        "console": ConsoleTracker,
        "events": lambda: EventsFile(folder),
        "tensorboard": lambda: TensorBoardTracker(folder),
        "wandb": lambda: WandbTracker(folder, project, recipe or {}),
        "mlflow": lambda: Background(MlflowTracker(folder, project, recipe or {})),
    }
    trackers = Trackers()
    failed: list[str] = []
    for name in TRACKERS:
        if name in names or name == "events":
            try:
                trackers.trackers.append(makers[name]())
            except MissingError:
                raise
            except Exception as error:
                failed.append(f"tracker {name!r} cannot be used: {one_line(error)}")
    for message in failed:
        trackers.warn(message)
    return trackers
