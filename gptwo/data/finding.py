"""What a check of the data found, in the words the user reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from gptwo.data.sources import Record

ROWS_SHOWN = 10


@dataclass
class Finding:
    """One thing that was found.

    Args:
        check: short name of the check, stable for programs, e.g. "leakage".
        severity: "error" (a result on this data would be wrong), "warning" (look at it), "info" (good to know).
        what: what was found, in one sentence.
        count: how many records (or labels, pairs: `what` says) it concerns.
        rows: the first ten places, file:row.
        fix: what to do about it.
        detail: figures for programs, e.g. the count of every class.
    """

    check: str
    severity: str
    what: str
    count: int = 0
    rows: list[str] = field(default_factory=list)
    fix: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Item:
    """A record as the checks see it.

    Args:
        record: where it comes from.
        split: "train", "valid" or "test".
        text: its text; the tokens joined for a tagged sentence.
        labels: its labels, as sorted strings; the tags in their order for a tagged sentence.
    """

    record: Record
    split: str
    text: str
    labels: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return self.record.place()


def places(items: Iterable[Item]) -> list[str]:
    """file:row of the first ten."""
    found = []
    for item in items:
        found.append(item.place)
        if len(found) == ROWS_SHOWN:
            break
    return found
