"""Task records out of files: csv, tsv, jsonl, json, parquet, CoNLL and "LABEL text" lines, by a map of columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptwo.data import rows
from gptwo.data.files import COMPRESSIONS, STDIN, ByteStream, expand, format_of
from gptwo.data.rejects import Reject, Rejects
from gptwo.data.rows import Bad, Row, TextLines
from gptwo.errors import DataError, UsageError, did_you_mean

__all__ = ["FORMATS", "Record", "RecordReader", "Reject", "Rejects", "read_records"]

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "conll", "label-first")
ROWS_BEFORE_GIVING_UP = 100


@dataclass
class Record:
    """One record of a task.

    Args:
        fields: our names (text, label, tokens, tags, …) -> values.
        file: the file as the user named it.
        row: 1-based line the record starts at; for json and parquet its place in the list or table.
    """

    fields: dict[str, Any]
    file: str
    row: int

    def place(self) -> str:
        """file:row"""
        return f"{self.file}:{self.row}"


def read_records(
    paths: str | Path | Iterable[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    required: Sequence[str] = (),
    format: str | None = None,
    rejects: Rejects,
    encoding: str = "utf-8",
    lists: Sequence[str] = (),
    list_separator: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    section: str | None = None,
) -> Iterator[Record]:
    """Records of files, folders, globs or stdin ("-"), one at a time; a row that cannot be used goes to `rejects`.

    Args:
        paths: csv, tsv, jsonl, json, parquet, CoNLL, also as .gz/.zst/.xz (parquet as it is).
        columns: our name -> their column, e.g. {"text": "review", "label": "sentiment"}. A column may be an index
            ("0") in a csv/tsv file without a header row, in CoNLL (negative from the right; default first and last)
            and in lists of JSON; a dotted path ("data.text") reaches into JSON objects. Names of `required` that
            are not in the map are columns of the same name. None keeps every column.
        required: our names that must be there and not empty in every record.
        format: one of `FORMATS`; default by the file ending.
        rejects: counts and stores the unusable rows; raises at the first when strict.
        encoding: of text files; "utf-8" also accepts a byte order mark.
        lists: our names whose value is a list of strings (several labels per record): a JSON list, or a string parted
            by `list_separator`; an empty cell is an empty list.
        delimiter: of csv files, default a comma.
        header: whether a csv/tsv file has a header row; default yes, unless all columns are given by index.
        section: dotted path of the list of rows inside a json document, e.g. "train".

    Raises:
        DataError: a missing, damaged or empty file, an unknown format, a missing column, a bad row when strict.
    """
    reader = RecordReader(
        rejects=rejects,
        columns=dict(columns) if columns else None,
        required=tuple(required),
        format=format,
        encoding=encoding,
        lists=tuple(lists),
        list_separator=list_separator,
        delimiter=delimiter,
        header=header,
        section=section,
    )
    for source in expand(paths, any_kind=format is not None):
        for file in source.files:
            yield from reader.file(file)
            if not reader.rows:
                raise DataError("The file holds no rows.", where=file, fix="Give a file with records, or leave it out.")
            if not reader.records:
                raise DataError(
                    "No row of the file can be used.",
                    where=file,
                    why=rejects.summary(),
                    fix="Look at the rejects; the format, the columns or the delimiter may be another.",
                )


@dataclass(frozen=True)
class _Columns:
    """Our name -> their column, and whether the columns it does not name are kept too."""

    names: dict[str, str]
    everything: bool = False


@dataclass
class RecordReader:
    """How records are read; the arguments are those of `read_records`.

    Args:
        may_be_empty: required names whose value may be empty or null (the caller counts them).
        on_bytes: called with the number of bytes read from disk since the last call.

    Attributes:
        rows: rows of the last file, the rejected ones included.
        records: records of the last file.
    """

    rejects: Rejects
    columns: dict[str, str] | None = None
    required: tuple[str, ...] = ()
    format: str | None = None
    encoding: str = "utf-8"
    lists: tuple[str, ...] = ()
    list_separator: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    section: str | None = None
    may_be_empty: tuple[str, ...] = ()
    on_bytes: Callable[[int], None] | None = None
    rows: int = field(default=0, init=False)
    records: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise UsageError(f"Unknown format {self.format!r}.", fix=did_you_mean(self.format, FORMATS))

    def file(self, file: str) -> Iterator[Record]:
        """The records of one file."""
        self.rows = self.records = 0
        with ByteStream(file) as stream:
            kind = self.format or self._kind(file)
            columns, found = self._rows(file, kind, stream)
            seen = dict.fromkeys(columns.names, 0)
            consumed = 0
            keys: tuple[str, ...] = ()
            for number, value in found:
                self.rows += 1
                fields = value if isinstance(value, Bad) else self._fields(value, columns, seen)
                keys = keys if isinstance(value, Bad) else tuple(value)
                if isinstance(fields, Bad):
                    self.rejects.add(file, number, fields.reason, fields.raw)
                    if self.rows == ROWS_BEFORE_GIVING_UP and keys:
                        self._check_seen(file, self.required, columns, seen, keys)
                    continue
                self.records += 1
                yield Record(fields, file, number)
                if self.on_bytes is not None and stream.consumed > consumed:
                    self.on_bytes(stream.consumed - consumed)
                    consumed = stream.consumed
            if keys:
                self._check_seen(file, tuple(columns.names), columns, seen, keys)

    def _kind(self, file: str) -> str:
        """The format the ending tells, else what the first bytes of a file on disk tell without doubt."""
        kind = None if file == STDIN else format_of(file)
        if kind in FORMATS:
            return kind
        if file != STDIN:
            with ByteStream(file) as stream:
                head = (stream.read(1024) or b"").removeprefix(b"\xef\xbb\xbf").lstrip()
            if head.startswith(b"-DOCSTART-"):
                return "conll"
            if head.startswith(b"{"):
                return "jsonl"
        raise DataError(
            "The format of the file is unknown.",
            where=file,
            why="neither its name nor its first bytes tell it",
            fix=f"Give the format: {', '.join(FORMATS)}.",
        )

    def _rows(self, file: str, kind: str, stream: ByteStream) -> tuple[_Columns, Iterator[Row]]:
        """The column map as it holds for this file, and the file's rows."""
        if kind == "parquet":
            if file == STDIN or file.lower().endswith(COMPRESSIONS):
                raise DataError("A parquet file is read from disk as it is.", where=file, fix="Unpack it first.")
            names = rows.parquet_columns(file)
            columns = self._resolve(names, file)
            needed = None if columns.everything else list(dict.fromkeys(columns.names.values()))
            return columns, rows.parquet_rows(file, needed)
        if kind == "csv":
            lines = TextLines(stream, self.encoding, newline="")
            return self._table(file, rows.csv_rows(lines, self.delimiter or ","), lines)
        lines = TextLines(stream, self.encoding)
        if kind == "tsv":
            return self._table(file, rows.tsv_rows(lines), lines)
        if kind == "conll":
            indices = self._conll_columns(lines)
            return _Columns({name: name for name in indices}), rows.conll_rows(lines, indices)
        if kind == "label-first":
            return self._resolve(["label", "text"], file), rows.label_first_rows(lines)
        return self._wanted(), rows.jsonl_rows(lines) if kind == "jsonl" else rows.json_rows(lines, self.section)

    def _wanted(self) -> _Columns:
        """The map, with the required names that it leaves out; every column where there is no map."""
        return _Columns({**{name: name for name in self.required}, **(self.columns or {})}, self.columns is None)

    def _table(
        self, file: str, found: Iterator[tuple[int, list[str] | Bad]], lines: TextLines
    ) -> tuple[_Columns, Iterator[Row]]:
        """Give the values of a csv or tsv their names, and refuse rows of another width."""
        given = list(self.columns.values()) if self.columns else []
        by_index = bool(given) and all(column.isdecimal() for column in given)
        early: list[tuple[int, list[str] | Bad]] = []
        for number, first in found:
            early.append((number, first))
            if not isinstance(first, Bad):
                break
            if self.header or (self.header is None and not by_index):
                raise DataError(f"The header cannot be read: {first.reason}.", where=f"{file}:{number}")
        else:
            return self._wanted(), ((number, bad) for number, bad in early if isinstance(bad, Bad))
        header = not (by_index and not set(given) & set(first)) if self.header is None else self.header
        names = list(first) if header else [str(index) for index in range(len(first))]
        for name in names:
            if wrong := rows.wrong_text(name, self.encoding):
                raise DataError(f"The header cannot be read: {wrong.reason}.", where=file)
        if header:
            early.pop()
        columns = self._resolve(names, file)
        times = Counter(names)
        names = [name if times[name] == 1 else str(index) for index, name in enumerate(names)]

        def named() -> Iterator[Row]:
            width = len(names)
            for part in (early, found):
                for number, values in part:
                    if isinstance(values, Bad):
                        yield number, values
                    elif len(values) != width:
                        raw = lines.raw() or "\t".join(values)
                        yield number, Bad(f"{len(values)} columns instead of {width}", raw)
                    else:
                        yield number, dict(zip(names, values, strict=True))

        return columns, named()

    def _resolve(self, names: list[str], file: str) -> _Columns:
        """The map as a table's columns have it; an index stands for the column at that place.

        Columns of the same name are kept apart by their index.
        """
        wanted, mapping = self._wanted(), {}
        for name, column in wanted.names.items():
            if column not in names and column.isdecimal() and int(column) < len(names):
                index = int(column)
                column = names[index] if names.count(names[index]) == 1 else column
            elif column not in names:
                raise self._missing(column, names, file)
            elif names.count(column) > 1:
                raise DataError(f"Two columns are called {column!r}.", where=file, fix="Give the column by its index.")
            mapping[name] = column
        return _Columns(mapping, wanted.everything)

    def _missing(self, column: str, names: Iterable[str], file: str) -> DataError:
        names = [str(name) for name in names]
        why = f"the columns are: {', '.join(map(repr, names))}"
        fix = did_you_mean(column, names)
        if len(names) == 1 and (found := next((mark for mark in ("\t", ";", "|") if mark in names[0]), None)):
            why, fix = f"there is a single column, {names[0]!r}", f"Perhaps the delimiter is {found!r}."
        elif format_of(file) in ("csv", "tsv"):
            fix += " Without a header row, give columns by index, e.g. text=0,label=1."
        return DataError(f"There is no column {column!r}.", where=file, why=why, fix=fix)

    def _conll_columns(self, lines: TextLines) -> dict[str, int]:
        columns = self.columns or {"tokens": "0", "tags": "-1"}
        try:
            found = {name: int(column) for name, column in columns.items()}
        except ValueError as error:
            raise UsageError(
                "Columns of a CoNLL file are given by index.", where=lines.file, fix="For example tokens=0,tags=-1."
            ) from error
        if missing := [name for name in self.required if name not in found]:
            raise UsageError(f"No column is given for {missing[0]!r}.", fix="For example tokens=0,tags=-1.")
        return found

    def _fields(self, value: dict, columns: _Columns, seen: dict[str, int]) -> dict[str, Any] | Bad:
        """Our fields out of one row, or what is wrong with it."""
        fields = dict(value) if columns.everything else {}
        for name, column in columns.names.items():
            there, item = _reach(value, column)
            seen[name] += there
            if not there and name in self.required:
                return Bad(f"there is no {column!r}", _raw(value))
            fields[name] = item
        for name, item in fields.items():
            if isinstance(item, (str, list)) and (wrong := rows.wrong_text(_joined(item), self.encoding)):
                return wrong
            if name in self.lists:
                item = self._list(item)
                if isinstance(item, Bad):
                    return item
                fields[name] = item
            elif name in self.required and name not in self.may_be_empty and _is_empty(item):
                return Bad(f"{name!r} is empty", _raw(value))
        return fields

    def _list(self, item: Any) -> list[str] | Bad:
        """A list of strings out of a cell."""
        if isinstance(item, str) and item.lstrip().startswith("["):
            try:
                item = json.loads(item)
            except ValueError as error:
                return Bad(f"not a JSON list: {error.msg if isinstance(error, json.JSONDecodeError) else error}", item)
        if item is None or item == "":
            return []
        if isinstance(item, list):
            return [part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in item]
        parts = str(item).split(self.list_separator) if self.list_separator else [str(item)]
        return [part.strip() for part in parts if part.strip()]

    def _check_seen(self, file: str, names: tuple[str, ...], columns: _Columns, seen: dict, keys: tuple) -> None:
        """A column that no row had is a mistake in the map, not in the rows."""
        for name in names:
            if not seen[name]:
                raise self._missing(columns.names[name], keys, file)


def _reach(value: dict, column: str) -> tuple[bool, Any]:
    """Whether a row has the column, and its value; a dotted path reaches into objects and lists."""
    if column in value:
        return True, value[column]
    if "." not in column:
        return False, None
    found: Any = value
    for key in column.split("."):
        if isinstance(found, dict) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return False, None
    return True, found


def _is_empty(item: Any) -> bool:
    return item is None or item != item or (isinstance(item, (str, list, dict)) and not (item and str(item).strip()))


def _joined(items: str | list) -> str:
    return items if isinstance(items, str) else "\n".join(item for item in items if isinstance(item, str))


def _raw(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
