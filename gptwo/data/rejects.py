"""Rows that cannot be used: counted, written to rejects.jsonl with file, row and reason, never dropped silently."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gptwo.errors import DataError, amount

EXCERPT_CHARACTERS = 300


@dataclass(frozen=True)
class Reject:
    """One row that could not be used.

    Args:
        file: the file as the user named it.
        row: 1-based line (or row) of the file where the record starts.
        reason: what is wrong with it, the same words for the same mistake.
        raw: the first characters of what stands there.
        offset: position of the wrong byte in the (decompressed) file, where it is known.
    """

    file: str
    row: int
    reason: str
    raw: str = ""
    offset: int | None = None

    def place(self) -> str:
        """file:row, with the byte offset where it is known."""
        return f"{self.file}:{self.row}" + ("" if self.offset is None else f" (byte {self.offset:,})")


class Rejects:
    """Collects unusable rows; use as a context manager where a file is given.

    Args:
        path: the rejects.jsonl to write (replaced when the first reject arrives).
        strict: raise `DataError` at the first reject instead of going on.

    Attributes:
        total: number of rejects.
        reasons: how often each reason occurred.
        first: the first ten rejects.
    """

    def __init__(self, path: str | Path | None = None, *, strict: bool = False):
        self.path = Path(path) if path is not None else None
        self.strict = strict
        self.total = 0
        self.reasons: Counter[str] = Counter()
        self.first: list[Reject] = []
        self._file: IO[str] | None = None

    def add(self, file: str, row: int, reason: str, raw: object = "", *, offset: int | None = None) -> None:
        """Record one unusable row.

        Raises:
            DataError: when `strict`, naming the row.
        """
        raw = raw if isinstance(raw, str) else repr(raw)
        reject = Reject(file, row, reason, printable(raw), offset)
        self.total += 1
        self.reasons[reason] += 1
        if len(self.first) < 10:
            self.first.append(reject)
        if self.strict:
            raise DataError(
                f"A row cannot be used: {reason}.",
                where=reject.place(),
                why=f"it reads {reject.raw[:120]!r}" if reject.raw else None,
                fix="Correct the row or take it out; where strict was asked for, leave it away and rows are set aside.",
            )
        if self.path is not None:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115
            entry = {"file": file, "row": row, "reason": reason, "raw": reject.raw}
            if offset is not None:
                entry["offset"] = offset
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def summary(self) -> str:
        """One line for the console: the count, the commonest reasons and where the first one is."""
        if not self.total:
            return "no rows rejected"
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.reasons.most_common(3))
        where = f"; all in {self.path}" if self.path else ""
        return f"{amount(self.total, 'row')} rejected ({reasons}); first at {self.first[0].place()}{where}"

    def as_json(self) -> dict:
        """The counts for reports and `--json`."""
        return {
            "total": self.total,
            "reasons": dict(self.reasons.most_common()),
            "first": [{"file": r.file, "row": r.row, "reason": r.reason, "raw": r.raw} for r in self.first],
            "file": str(self.path) if self.path and self.total else None,
        }

    def close(self) -> None:
        """Close the file; a rejects.jsonl of an earlier run is removed when this run had no reject."""
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self.path is not None and self.path.name == "rejects.jsonl" and not self.total:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def printable(text: str) -> str:
    """The first characters of `text`, with bytes that are no text shown as \\xNN."""
    text = text[:EXCERPT_CHARACTERS]
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
