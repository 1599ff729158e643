"""The report of a run: how several systems did on the same test set, with everything needed to judge it.

`assess.py` makes one from predictions. By hand:

    >>> from gptwo.evaluate import DataFile, Interval, Report, System
    >>> report = Report(
    ...     title="Film reviews", task="classify", primary="accuracy", records=1821,
    ...     systems=[
    ...         System("Before tuning", {"accuracy": 0.49, "log_loss": 0.81}, role="before"),
    ...         System("Tuned", {"accuracy": Interval(0.842, 0.825, 0.859), "log_loss": 0.37}, role="tuned"),
    ...         System("TF-IDF + logistic regression", {"accuracy": 0.813}, role="baseline"),
    ...     ],
    ...     data=[DataFile("test", "test.csv", records=1821)],
    ... )
    >>> report.best("accuracy").name
    'Tuned'

`report.write(folder)` writes report.json and report.html; `report.print(console)` prints tables.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from gptwo.errors import DataError, MissingError
from gptwo.evaluate.calibration import Abstention, Scaling
from gptwo.evaluate.metric_names import best_of
from gptwo.evaluate.metrics import Calibration, ClassTable, ConfusionMatrix
from gptwo.evaluate.ranks import COLUMNS
from gptwo.evaluate.slices import Slices
from gptwo.evaluate.statistics import Comparison, Interval

ROLES = ("before", "tuned", "baseline", "other")


@dataclass
class System:
    """One system on the test set.

    Args:
        name: as the reader shall see it.
        metrics: key (see `metric_names`) to an `Interval`; a plain number becomes one without bounds.
        role: "tuned" is the system the report is about, "before" the same before tuning, "baseline" a cheap
            opponent, "other" anything else.
        predictions: what it said, in the order of the test set; goes into report.json only.
        note: one line on what it is.
    """

    name: str
    metrics: dict[str, Any]
    role: str = "other"
    predictions: list | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self.metrics = {k: v if isinstance(v, Interval) else Interval(float(v)) for k, v in self.metrics.items()}

    def value(self, metric: str) -> float | None:
        """The measured value, or None where this system has none."""
        found = self.metrics.get(metric)
        return found.value if found is not None and math.isfinite(found.value) else None


@dataclass
class DataFile:
    """A file of the run: its part ("train", "valid", "test"), how many records it gave and how many it did not."""

    part: str
    path: str
    records: int
    rejected: int = 0
    sha256: str = ""


@dataclass
class Example:
    """A test record and what the tuned system said of it; `confidence` is 0..1, `row` counts from 1."""

    text: str
    gold: str
    predicted: str
    confidence: float | None = None
    file: str = ""
    row: int | None = None


@dataclass
class Sample:
    """Generated text: the prompt and its continuation; `system` and `step` say whose."""

    prompt: str
    text: str
    system: str = ""
    step: int | None = None


@dataclass
class SizePoint:
    """A run on a part of the training data: its records, and system name to the primary metric on the test set."""

    records: int
    values: dict[str, float]


@dataclass
class Report:
    """See the module.

    Args:
        title: heading.
        task: name of the task, e.g. "classify".
        primary: key of the metric that decides.
        systems: in the order they shall stand beside each other.
        records: size of the test set.
        data: files used.
        comparisons: of the tuned system with the others.
        tables: heading to table: per class, per entity type, per tag.
        confusion, calibration, worst: of the tuned system.
        events: of events.jsonl; `load_events` reads them.
        samples: generated text.
        warnings: what makes the figures doubtful, e.g. test records that stand in the training data.
        slices: the figures on parts of the test set.
        scaling, abstention: how confidences were calibrated, and the threshold below which the system abstains.
        sizes: the learning curve over the size of the training data.
        notes: sentences the reader should know (what was skipped, truncated, assumed).
        recipe, machine: plain nested dictionaries.
        created: seconds since 1970.
    """

    title: str
    task: str
    primary: str
    systems: list[System]
    records: int | None = None
    data: list[DataFile] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    tables: dict[str, ClassTable] = field(default_factory=dict)
    confusion: ConfusionMatrix | None = None
    calibration: Calibration | None = None
    worst: list[Example] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    slices: Slices | None = None
    scaling: Scaling | None = None
    abstention: Abstention | None = None
    sizes: list[SizePoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipe: dict = field(default_factory=dict)
    machine: dict = field(default_factory=dict)
    created: float = field(default_factory=time.time)

    @property
    def tuned(self) -> System | None:
        """The system the report is about: role "tuned", or the only system; None where there is none."""
        found = [system for system in self.systems if system.role == "tuned"]
        return found[0] if found else self.systems[0] if len(self.systems) == 1 else None

    def metric_keys(self) -> list[str]:
        """All metrics of all systems, the primary one first, then in order of appearance."""
        keys = [self.primary, *(key for system in self.systems for key in system.metrics)]
        return [key for key in dict.fromkeys(keys) if any(key in system.metrics for system in self.systems)]

    def best(self, metric: str) -> System | None:
        """The best system by a metric (the first of equals)."""
        places = best_of(metric, [system.value(metric) for system in self.systems])
        return self.systems[min(places)] if places else None

    def to_dict(self) -> dict:
        """Plain JSON values: no numpy, no NaN (they become null)."""
        from gptwo.evaluate.verdict import verdicts

        return {**plain(self), "verdicts": plain(verdicts(self))}

    @classmethod
    def from_dict(cls, value: dict) -> Report:
        """The inverse of `to_dict`."""
        value = {key: content for key, content in value.items() if key != "verdicts"}
        for system in value["systems"]:
            system["metrics"] = {key: _interval(metric) for key, metric in system["metrics"].items()}
        for comparison in value["comparisons"]:
            comparison["difference"] = asdict(_interval(comparison["difference"]))
        for key, kind in (("systems", System), ("data", DataFile), ("worst", Example), ("samples", Sample)):
            value[key] = [kind(**row) for row in value[key]]
        value["comparisons"] = [Comparison.from_dict(row) for row in value["comparisons"]]
        value["tables"] = {name: ClassTable.from_dict(table) for name, table in value["tables"].items()}
        value["confusion"] = ConfusionMatrix(**value["confusion"]) if value["confusion"] else None
        value["calibration"] = Calibration.from_dict(value["calibration"]) if value["calibration"] else None
        value["slices"] = Slices.from_dict(value["slices"]) if value.get("slices") else None
        value["scaling"] = Scaling(**value["scaling"]) if value.get("scaling") else None
        value["abstention"] = Abstention(**value["abstention"]) if value.get("abstention") else None
        value["sizes"] = [SizePoint(**point) for point in value.get("sizes", [])]
        return cls(**value)

    def write(self, folder: str | Path) -> None:
        """Write report.json and report.html into `folder` (made where absent); both appear whole or not at all."""
        from gptwo.evaluate.html import render

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "report.json", json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        _write(folder / "report.html", render(self))

    def print(self, console: Any = None) -> None:
        """Print the tables and the verdict on a Rich console (default: a new one on stderr)."""
        from gptwo.evaluate.printing import print_report

        print_report(self, console)


def read_report(folder: str | Path) -> Report:
    """The report of a run folder, from its report.json."""
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise MissingError(
            "There is no report.", where=path, fix=f"make one: gptwo evaluate --model {folder} DATA --out {folder}"
        )
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("This is no report of gptwo.", where=path, why=str(error)) from error


def load_events(path: str | Path, *, limit: int = 2000) -> list[dict]:
    """The step, eval and ranks events of an events.jsonl, in order of steps.

    A line cut off by a kill is skipped. After a resume, events the resumed run repeats replace the old ones. At most
    about `limit` step events are kept, and 120 of ranks, spread evenly, the first and the last among them.
    """
    latest: dict[tuple[str, int], dict] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("kind") in ("step", "eval", "ranks") and "step" in event:
                latest[event["kind"], int(event["step"])] = event
    events = sorted(latest.values(), key=lambda event: event["step"])
    kept = {id(event) for event in events if event["kind"] == "eval"}
    for kind, most in (("step", limit), ("ranks", COLUMNS)):
        some = [event for event in events if event["kind"] == kind]
        stride = max(1, math.ceil(len(some) / most))
        first = some[:1] if kind == "ranks" else []
        kept |= {id(event) for event in [*first, *some[::-1][::stride]]}
    return [event for event in events if id(event) in kept]


def plain(value: Any) -> Any:
    """`value` as JSON knows it: dataclasses, numpy numbers and arrays, paths, sets and NaN replaced."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def _interval(value: dict) -> Interval:
    return Interval(**{**value, "value": float("nan") if value["value"] is None else value["value"]})


def _write(path: Path, text: str) -> None:
    """Write through a temporary name, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(text.encode("utf-8", errors="replace"))
    os.replace(temporary, path)
