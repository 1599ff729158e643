"""Rows out of one file, format by format: (row number, value), the value a dict or what is wrong with the row."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptwo.data.files import ByteStream, refuse_utf16
from gptwo.errors import DataError, UsageError

MAX_QUOTED_CHARACTERS = 1 << 24
UTF_8 = ("utf-8", "utf_8", "utf8", "utf-8-sig", "utf_8_sig")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Bad(NamedTuple):
    """A row that cannot be used: why, and what stands there."""

    reason: str
    raw: str


Row = tuple[int, "dict[str, Any] | Bad"]


class TextLines:
    """The lines of a text file with their numbers; bytes that are no text survive as surrogates for `wrong_text`.

    Args:
        stream: the file's bytes.
        encoding: "utf-8" also accepts a byte order mark.
        newline: as for `open`: "\\n" splits at line feeds only, "" at every kind of line end and keeps it.
    """

    def __init__(self, stream: ByteStream, encoding: str, newline: str = "\n"):
        buffered = io.BufferedReader(stream, 1 << 18)
        if encoding.lower() in UTF_8:
            encoding = "utf-8-sig"
            refuse_utf16(buffered.peek(4)[:4], stream.name)
        try:
            self._lines = io.TextIOWrapper(buffered, encoding, errors="surrogateescape", newline=newline)
        except LookupError as error:
            raise UsageError(f"There is no encoding {encoding!r}.", fix="Try utf-8, gb18030 or latin-1.") from error
        self._given_back: deque[str] = deque()
        self._record: list[str] = []
        self._size = 0
        self._keeps = False
        self.file = stream.name
        self.number = 0

    def __iter__(self) -> TextLines:
        return self

    def __next__(self) -> str:
        try:
            line = self._given_back.popleft() if self._given_back else next(self._lines)
        except UnicodeError as error:  # encodings without surrogateescape, e.g. utf-16
            raise DataError("The file is not in the encoding given.", where=self.file, why=str(error)) from error
        self.number += 1
        if not self._keeps:
            return line
        self._record.append(line)
        self._size += len(line)
        if self._size > MAX_QUOTED_CHARACTERS and len(self._record) > 1:
            raise csv.Error("a quote is opened and not closed")
        return line

    def begin(self) -> int:
        """Begin a record of one or more lines at the next line; returns that line's number."""
        self._record, self._size, self._keeps = [], 0, True
        return self.number + 1

    def raw(self) -> str:
        """The lines of the record that was begun."""
        return "".join(self._record).rstrip("\r\n")

    def give_back(self) -> str:
        """Take only the record's first line, and read the others again as records of their own."""
        self._given_back.extendleft(reversed(self._record[1:]))
        self.number -= max(0, len(self._record) - 1)
        return self._record[0].rstrip("\r\n") if self._record else ""


def wrong_text(text: str, encoding: str) -> Bad | None:
    """What is wrong with a string that is no text: a byte outside the encoding, or half a surrogate pair."""
    found = None if text.isascii() else _SURROGATE.search(text)
    if found is None:
        return None
    raw = text[max(0, found.start() - 40) : found.end() + 80]
    if 0xDC80 <= ord(found.group()) <= 0xDCFF:
        name = "UTF-8" if encoding.lower() in UTF_8 else encoding
        return Bad(f"not {name}; give the encoding, e.g. latin-1 or gb18030", raw)
    return Bad("half a surrogate pair", raw)


def csv_rows(lines: TextLines, delimiter: str) -> Iterator[tuple[int, list[str] | Bad]]:
    """Records of a csv file with quotes (RFC 4180); the row number is the line a record starts at.

    A quote that is never closed costs its own line only: the lines after it are read again.
    """
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error).replace("unexpected end of data", "a quote is opened and not closed")
            yield start, Bad(f"not csv: {reason}", lines.give_back())
            continue
        if values:
            yield start, values


def tsv_rows(lines: TextLines) -> Iterator[tuple[int, list[str]]]:
    """Records of a tsv file: one line each.

    Quotes are text, except where a field is wholly in quotes and those inside are doubled.
    """
    for line in lines:
        line = line.rstrip("\r\n")
        if line:
            yield lines.number, [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    if len(field) >= 2 and field[0] == field[-1] == '"':
        inner = field[1:-1]
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return field


def jsonl_rows(lines: TextLines) -> Iterator[Row]:
    """One JSON object (or list, its items named "0", "1", …) per line; blank lines are passed over."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield lines.number, json_row(json.loads(line), line)
        except (ValueError, RecursionError) as error:
            yield lines.number, Bad(f"not JSON: {getattr(error, 'msg', 'cannot be read')}", line.rstrip("\r\n"))


def json_row(value: Any, raw: str) -> dict[str, Any] | Bad:
    """A JSON value as a row."""
    if isinstance(value, list):
        value = {str(index): item for index, item in enumerate(value)}
    return value if isinstance(value, dict) else Bad("not a JSON object", raw.rstrip("\r\n"))


def json_rows(lines: TextLines, section: str | None) -> Iterator[Row]:
    """The items of one JSON document; the row number is the item's place in its list, from 1.

    Args:
        section: dotted path of the list inside the document, e.g. "train" or "data.rows".

    Raises:
        DataError: no JSON, or no list of rows where one was looked for.
    """
    try:
        value = json.loads("".join(lines))
    except (ValueError, RecursionError) as error:
        extra = getattr(error, "msg", "") == "Extra data"
        fix = "It looks like JSON lines: give --format jsonl, or name the file .jsonl." if extra else None
        raise DataError("The file is not JSON.", where=lines.file, why=str(error), fix=fix) from error
    for key in section.split(".") if section else ():
        if not isinstance(value, dict) or key not in value:
            keys = ", ".join(map(repr, value)) if isinstance(value, dict) else "none"
            raise DataError(f"There is no section {key!r}.", where=lines.file, why=f"the keys there are: {keys}")
        value = value[key]
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        if not lists or len(lists) < len(value) or len({len(item) for item in lists.values()}) > 1:
            choices = ", ".join(map(repr, lists)) or "none of its values is a list"
            raise DataError(
                "The JSON document is no list of rows.",
                where=lines.file,
                fix=f"Name the section that holds the rows, one of: {choices}.",
            )
        value = [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
    if not isinstance(value, list):
        raise DataError("The JSON document is no list of rows.", where=lines.file)
    for number, item in enumerate(value, 1):
        yield number, json_row(item, json.dumps(item, ensure_ascii=False))


def label_first_rows(lines: TextLines) -> Iterator[Row]:
    """Lines of the shape "LABEL text", as {"label", "text"}."""
    for line in lines:
        parts = line.split(maxsplit=1)
        if len(parts) == 2:
            yield lines.number, {"label": parts[0], "text": parts[1].rstrip("\r\n")}
        elif parts:
            yield lines.number, Bad("no text after the label", line.rstrip("\r\n"))


def conll_rows(lines: TextLines, columns: dict[str, int]) -> Iterator[Row]:
    """Sentences of a CoNLL file as lists, one per name; the row number is the sentence's first line.

    Blank lines part sentences, -DOCSTART- lines are passed over, columns are parted by tabs in a sentence that has
    any, by white space elsewhere. A sentence with a line of another number of columns is bad as a whole, at that line.

    Args:
        columns: name of the list -> index of the column, negative from the right.
    """
    width: int | None = None
    sentence: list[tuple[int, str]] = []

    def rows() -> Iterator[Row]:
        nonlocal width
        tabs = any("\t" in text for _, text in sentence)
        data = [(number, text) for number, text in sentence if not (tabs and text[0] == "#" and "\t" not in text)]
        if not data:
            return
        split = [(number, text.split("\t") if tabs else text.split()) for number, text in data]
        raw = "\n".join(text for _, text in data)
        needed = max(len(columns) > 1 and 2, *(index + 1 if index >= 0 else -index for index in columns.values()))
        width = width or len(split[0][1])
        for number, parts in split:
            if len(parts) != width or len(parts) < needed:
                expected = str(width) if width >= needed else f"at least {needed}"
                yield number, Bad(f"{len(parts)} columns instead of {expected}; its sentence is left out", raw)
                return
        yield data[0][0], {name: [parts[index] for _, parts in split] for name, index in columns.items()}

    for line in lines:
        line = line.rstrip("\r\n")
        if not line.strip() or line.startswith("-DOCSTART-"):
            yield from rows()
            sentence = []
        else:
            sentence.append((lines.number, line))
    yield from rows()


def parquet_rows(file: str, wanted: list[str] | None, batch: int = 4096) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a parquet file, some thousands in memory at a time.

    Args:
        wanted: the columns to read; None reads all.
    """
    import polars as pl

    try:
        table = pl.scan_parquet(file, glob=False)
        if wanted is not None:
            table = table.select(wanted)
        start = 0
        while True:
            rows = table.slice(start, batch).collect()
            yield from enumerate(rows.iter_rows(named=True), start + 1)
            start += len(rows)
            if len(rows) < batch:
                return
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("The parquet file cannot be read.", where=file, why=str(error).splitlines()[0]) from error


def parquet_columns(file: str) -> list[str]:
    """Names of the columns of a parquet file."""
    import polars as pl

    try:
        return pl.scan_parquet(file, glob=False).collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("The parquet file cannot be read.", where=file, why=str(error).splitlines()[0]) from error
