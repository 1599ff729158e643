"""Who watches a run: one stream of events, fanned out to trackers that may fail without stopping it.

An event is a dict of plain values, one line of the run folder's events.jsonl:

    {"time": unix seconds, "kind": ..., "step": optimizer steps done so far, ...}

    kind        further keys (all optional)
    start       total (steps), device, precision, precision_why, threads, ceiling_flops (FLOP/s), parameters, tuned;
                step > 0 says that the run was resumed there
    step        loss, learning_rate, tokens, tokens_per_second, share_of_ceiling (0..1), grad_norm, peak_memory_bytes
    eval        metrics (name -> number, may be nested), better (the best so far), metric (the name that decides)
    ranks       budget, ranks (layer -> rank): what AdaLoRA begins with, and what it keeps whenever it has chosen anew
    sample      texts (list of generated texts)
    checkpoint  path
    notice      message
    end         reason, best, best_step
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gptwo.errors import MissingError, UsageError, did_you_mean

Event = dict[str, Any]

TRACKERS = ("console", "events", "tensorboard", "wandb", "mlflow")


class Tracker(Protocol):
    """Anything that wants to see the events of a run."""

    name: str

    def on_event(self, event: Event) -> None:
        """Take one event; whatever this raises switches the tracker off for the rest of the run."""

    def close(self) -> None:
        """Deliver what is still held, and let go of files and connections."""


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numpy and torch scalars become numbers, paths text, NaN and infinities None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def scalars(event: Event) -> dict[str, float]:
    """The numbers of a step or eval event under the names that charts show: train/loss, eval/accuracy, eval/LOC/f1."""
    if event["kind"] == "step":
        return numbers({key: value for key, value in event.items() if key not in ("time", "kind", "step")}, "train")
    return numbers(event.get("metrics", {}), "eval") if event["kind"] == "eval" else {}


def numbers(values: dict[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers of a nested dict, keys joined by "/"."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}/{key}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}/{key}"] = float(value)
    return found


class EventsFile:
    """events.jsonl of a run folder: append-only, one JSON object a line, readable while the run goes on.

    A line that a kill cut short is removed when the file is opened again. Checkpoint and end events are on the
    disk, not only in its cache, before `on_event` returns.
    """

    name = "events"

    def __init__(self, run_folder: Path | str):
        self.path = Path(run_folder) / "events.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the run
        drop_half_line(self.file)

    def on_event(self, event: Event) -> None:
        line = json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if self.file.write(line) < len(line):
            raise OSError(f"{self.path}: only part of a line could be written; is the disk full?")
        if event["kind"] in ("checkpoint", "end"):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def drop_half_line(file: Any) -> None:
    """Cut a file opened for reading and appending after its last newline."""
    end = file.seek(0, os.SEEK_END)
    keep = end
    while keep > 0:
        start = max(0, keep - 65536)
        file.seek(start)
        newline = file.read(keep - start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep < end:
        file.truncate(keep)


def read_events(run_folder: Path | str) -> list[Event]:
    """The events of a run as it finally went, in order.

    Steps that a kill undid (they came after the checkpoint from which a later start resumed) are left out, as is a
    last line that is still being written. Notices right before a start belong to it.

    Args:
        run_folder: folder with events.jsonl; an absent file gives an empty list.
    """
    path = Path(run_folder) / "events.jsonl"
    events: list[Event] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
        event = json.loads(line)
        if event["kind"] == "start":
            first = len(events)
            while first and events[first - 1]["kind"] == "notice":
                first -= 1
            said = {notice["message"] for notice in events[:first] if notice["kind"] == "notice" and event["step"]}
            fresh = [notice for notice in events[first:] if notice["message"] not in said]
            kept = [earlier for earlier in events[:first] if earlier["step"] <= event["step"]] if event["step"] else []
            events = [*kept, *fresh]
        events.append(event)
    return events


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
            kind: one of the kinds in this module's table.
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
    from gptwo.train.console import ConsoleTracker
    from gptwo.train.services import MlflowTracker, TensorBoardTracker, WandbTracker

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
