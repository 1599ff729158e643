"""The events of a run: what they say, and the file that keeps them.

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
from pathlib import Path
from typing import Any

Event = dict[str, Any]


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
