"""Files with personal numbers taken out, in the format they came in, with a report of what was replaced.

The report says where and what kind, and shows no more of a value than its first characters, so that it can be kept.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from gptwo.data.files import expand, format_of
from gptwo.data.pii import KINDS, Found, redact
from gptwo.errors import DataError, UsageError, did_you_mean

REPORT = "redactions.jsonl"
FORMATS = ("txt", "jsonl", "json", "csv", "tsv")


@dataclass
class Redactions:
    """What was replaced.

    Args:
        files: our files.
        rows: lines or records that were read; `changed`: those in which something was replaced.
        kinds: how often each kind ("phone") was replaced; `forms`: each form ("Chinese mobile").
        report: the file that lists each place.
    """

    files: list[str] = field(default_factory=list)
    rows: int = 0
    changed: int = 0
    kinds: Counter = field(default_factory=Counter)
    forms: Counter = field(default_factory=Counter)
    report: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "kinds": dict(self.kinds.most_common()), "forms": dict(self.forms.most_common())}


def redact_files(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    kinds: Sequence[str] = KINDS,
    format: str | None = None,
    encoding: str = "utf-8",
    overwrite: bool = False,
) -> Redactions:
    """Copy text files into a folder without the personal numbers in them.

    Args:
        paths: txt, jsonl, json, csv or tsv: files, folders, patterns. In JSON every string is looked at, in tables
            every cell; a header stays.
        out: folder for the copies, by their names, and for redactions.jsonl.
        kinds: of "email", "phone", "id", "card".
        overwrite: replace files that are there.

    Raises:
        UsageError: an unknown kind, two inputs of one name, a file that is already there.
        DataError: a missing file, a format that cannot be copied, a row that is no JSON; names file and row.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"There is no kind {kind!r}.", where="--kinds", fix=did_you_mean(kind, KINDS))
    folder = Path(out)
    sources = expand([str(path) for path in paths], any_kind=format is not None)
    inputs = [file for source in sources for file in source.files]
    names = Counter(Path(file).name for file in inputs)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(f"Two inputs are called {twice[0]!r}.", fix="redact their folders one after the other")
    there = [name for name in [*names, REPORT] if (folder / name).exists()]
    if there and not overwrite:
        raise UsageError("A file is already there.", where=folder / there[0], fix="another --out, or --overwrite")
    if any((folder / Path(file).name).resolve() == Path(file).resolve() for file in inputs):
        raise UsageError("The copies would replace the originals.", where=folder, fix="another --out")
    writers = {file: _writer(file, format) for file in inputs}
    folder.mkdir(parents=True, exist_ok=True)
    done = Redactions(report=str(folder / REPORT))
    with _replacing(folder / REPORT, "utf-8") as report:
        for file, write in writers.items():

            def clean(text: str, row: int, file: str = file) -> str:
                written, found = redact(text, kinds)
                for one in found:
                    done.kinds[one.kind] += 1
                    done.forms[one.form] += 1
                    report.write(json.dumps(_entry(file, row, one), ensure_ascii=False) + "\n")
                return written

            before = done.kinds.total()
            with (
                open(file, encoding=encoding, errors="surrogateescape", newline="") as source,
                _replacing(folder / Path(file).name, encoding) as target,
            ):
                for _ in write(source, target, clean, file):
                    done.rows += 1
                    done.changed += done.kinds.total() > before
                    before = done.kinds.total()
            done.files.append(str(folder / Path(file).name))
    return done


Clean = Callable[[str, int], str]


def _writer(file: str, format: str | None) -> Callable[[TextIO, TextIO, Clean, str], Iterator[None]]:
    """How a file's format is copied.

    Raises:
        DataError: it cannot be.
    """
    kind = format or format_of(file)
    if kind not in FORMATS or file.endswith((".gz", ".zst", ".xz")) or file == "-":
        raise DataError(
            "This file cannot be copied with changes.",
            where=file,
            fix=f"unpack it, or give one of {', '.join(FORMATS)}",
        )
    if kind == "json":
        return _json
    return {"txt": _lines, "jsonl": _jsonl, "csv": _table(","), "tsv": _lines}[kind]


def _lines(source: TextIO, target: TextIO, clean: Clean, file: str) -> Iterator[None]:
    for row, line in enumerate(source, 1):
        target.write(clean(line, row))
        yield


def _in_row(clean: Clean, row: int) -> Callable[[str], str]:
    return lambda text: clean(text, row)


def _jsonl(source: TextIO, target: TextIO, clean: Clean, file: str) -> Iterator[None]:
    for row, line in enumerate(source, 1):
        if line.strip():
            value = _strings(_parsed(line, file, row), _in_row(clean, row))
            line = json.dumps(value, ensure_ascii=False) + "\n"
        target.write(line)
        yield


def _json(source: TextIO, target: TextIO, clean: Clean, file: str) -> Iterator[None]:
    value = _parsed(source.read(), file, 1)
    rows = value if isinstance(value, list) else [value]
    for row, one in enumerate(rows, 1):
        rows[row - 1] = _strings(one, _in_row(clean, row))
        yield
    json.dump(rows if isinstance(value, list) else rows[0], target, ensure_ascii=False, indent=1)


def _table(delimiter: str) -> Callable[[TextIO, TextIO, Clean, str], Iterator[None]]:
    def copy(source: TextIO, target: TextIO, clean: Clean, file: str) -> Iterator[None]:
        writer = csv.writer(target, delimiter=delimiter, lineterminator="\n")
        for row, cells in enumerate(csv.reader(source, delimiter=delimiter), 1):
            writer.writerow([clean(cell, row) for cell in cells])
            yield

    return copy


def _parsed(text: str, file: str, row: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            "The row is no JSON.", where=f"{file}:{row}", why=str(error), fix="mend or remove it"
        ) from error


def _strings(value: Any, clean: Callable[[str], str]) -> Any:
    """A JSON value with every string cleaned; keys stay, a number that is one of a person becomes text."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int) and not isinstance(value, bool):
        written = clean(str(value))
        return value if written == str(value) else written
    if isinstance(value, list):
        return [_strings(item, clean) for item in value]
    if isinstance(value, dict):
        return {key: _strings(item, clean) for key, item in value.items()}
    return value


def _entry(file: str, row: int, one: Found) -> dict[str, Any]:
    return {
        "file": file,
        "row": row,
        "kind": one.kind,
        "form": one.form,
        "begins": one.text[:2],
        "length": len(one.text),
    }


@contextmanager
def _replacing(path: Path, encoding: str) -> Iterator[TextIO]:
    """A file that appears under its name when it is whole."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding=encoding, errors="surrogateescape", newline="") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
