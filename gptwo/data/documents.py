"""Documents out of files, in bounded pieces: what the tokenizer is trained on and what is packed into shards."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gptwo.data.files import STDIN, ByteStream, Source, expand, format_of, refuse_utf16
from gptwo.data.rejects import Rejects
from gptwo.data.sources import RecordReader
from gptwo.errors import DataError

SEPARATOR = "<|endoftext|>"
PIECE_CHARACTERS = 1 << 18
BLOCK_BYTES = 1 << 19
UNDECIDED_CHARACTERS = 1 << 20

# A place to cut a long document where no token of a GPT-2 style tokenizer spans: before white space after a non-space.
_NEWLINE_CUT = re.compile(r"(?<=\S)\n")
_SPACE_CUT = re.compile(r"(?<=\S)\s")


class Piece(NamedTuple):
    """A document or, for a long one, a part of it.

    text: never longer than the limit asked for; may be empty when the end follows a part.
    ends: whether the document ends here.
    """

    text: str
    ends: bool


@dataclass
class DocumentReader:
    """How documents are read from files.

    Args:
        format: overrides what the file ending tells: txt, jsonl, json, csv, tsv, parquet.
        text_column: the column or key that holds the text in tables and JSON.
        separator: the line that stands between two documents of a text file; it never becomes text itself.
        encoding: of text files; "utf-8" also accepts a byte order mark.
        limit: longest piece in characters.
        empty: documents without any text met so far.
    """

    rejects: Rejects
    format: str | None = None
    text_column: str = "text"
    separator: str = SEPARATOR
    encoding: str = "utf-8"
    limit: int = PIECE_CHARACTERS
    on_bytes: Callable[[int], None] | None = None
    empty: int = 0

    def source(self, source: Source) -> Iterator[Piece]:
        """The pieces of every document of a source, file after file."""
        for file in source.files:
            yield from self.file(file)

    def file(self, file: str) -> Iterator[Piece]:
        """The pieces of every document of one file ("-" is standard input)."""
        kind = self.format or (None if file == STDIN else format_of(file)) or "txt"
        if kind == "txt":
            yield from self._text(file)
        else:
            yield from self._table(file, kind)

    def _table(self, file: str, kind: str) -> Iterator[Piece]:
        reader = RecordReader(
            self.rejects,
            columns={"text": self.text_column},
            required=("text",),
            format=kind,
            encoding=self.encoding,
            may_be_empty=("text",),
            on_bytes=self.on_bytes,
        )
        for record in reader.file(file):
            text = record.fields["text"]
            if text is not None and not isinstance(text, str):
                self.rejects.add(file, record.row, f"{self.text_column!r} is no text", repr(text))
            elif text is None or not text.strip():
                self.empty += 1
            else:
                yield from split_long(text, self.limit)
        if not reader.rows:
            self.empty += 1

    def _text(self, file: str) -> Iterator[Piece]:
        """Stream one text file: at most a block and a piece of it are held at a time."""
        line = re.compile(rf"^{re.escape(self.separator)}[ \t]*(?:\n|\Z)", re.MULTILINE)
        held = ""  # text of the current document that is not given out yet
        begun = False  # a part of the current document was given out
        line_start = True  # `held` begins at the start of a line
        found = False
        for block, last in _decoded_blocks(file, self.encoding, self.rejects, self.on_bytes):
            held += block
            start = 0
            for match in line.finditer(held):
                if (match.start() == 0 and not line_start) or not (last or match.group().endswith("\n")):
                    continue  # the rest of a longer line
                text = held[start : match.start()].rstrip("\n")
                start = match.end()
                if begun or text.strip():
                    found = True
                    yield from split_long(text if begun else text.lstrip("\n"), self.limit)
                else:
                    self.empty += 1
                begun = False
            if start:
                held, line_start = held[start:], True
            if not begun:
                held = held.lstrip("\n")
            tail = 0 if last else self._undecided(held, line_start)
            if not begun and len(held) < UNDECIDED_CHARACTERS and not held.strip():
                tail = len(held)  # perhaps an empty document
            while not last and len(held) - tail > self.limit:
                cut = cut_place(held, self.limit)
                yield Piece(held[:cut], False)
                line_start = held[cut - 1] == "\n"
                held, begun = held[cut:], True
        held = held.rstrip("\n")
        if begun or held.strip():
            yield from split_long(held, self.limit)
        elif not found:
            self.empty += 1

    def _undecided(self, held: str, line_start: bool) -> int:
        """How many characters at the end may turn out to be a separator line and the newlines before it."""
        start = held.rfind("\n") + 1
        line = held[start:]
        if not self.separator.startswith(line.rstrip(" \t") if line.startswith(self.separator) else line):
            return 0
        if start == 0:
            return len(line) if line_start else 0
        newlines = start - len(held[:start].rstrip("\n"))
        return newlines + len(line) if newlines + len(line) < UNDECIDED_CHARACTERS else 0


def split_long(text: str, limit: int) -> Iterator[Piece]:
    """Cut one document into pieces of at most `limit` characters; the last one ends it."""
    start = 0
    while len(text) - start > limit:
        cut = start + cut_place(text[start : start + limit + 1], limit)
        yield Piece(text[start:cut], False)
        start = cut
    yield Piece(text[start:] if start else text, True)


def cut_place(text: str, limit: int) -> int:
    """Where to cut `text` into a piece of 1 to `limit` characters.

    Before a newline or a space that follows a non-space in the second half, which changes no token of a GPT-2
    style tokenizer; at `limit` where there is none.
    """
    for pattern in (_NEWLINE_CUT, _SPACE_CUT):
        place = -1
        for match in pattern.finditer(text, max(1, limit // 2), limit + 1):
            place = match.start()
        if place > 0:
            return place
    return limit


def _decoded_blocks(
    file: str, encoding: str, rejects: Rejects, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[str, bool]]:
    """(text, whether it is the last) of a file; each block but the last ends at a line end or is one long line's part.

    Windows line ends become "\\n". Bytes that are no text become U+FFFD and are reported once per line with their
    offset in the decompressed file.
    """
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise DataError(f"There is no encoding {encoding!r}.", fix="Try utf-8, gb18030, latin-1 or utf-16.") from error
    with ByteStream(file) as stream:
        raw = (
            _as_utf8(stream, name) if name.startswith(("utf-16", "utf-32")) else io.BufferedReader(stream, BLOCK_BYTES)
        )
        name = "utf-8" if name.startswith(("utf-16", "utf-32", "utf-8")) else name
        rest, offset, row, consumed = b"", 0, 1, 0
        while True:
            data = raw.read(BLOCK_BYTES)
            last = not data
            if offset == 0 and not rest:
                if name == "utf-8":
                    refuse_utf16(data, file)
                if name == "utf-8" and data.startswith(codecs.BOM_UTF8):
                    data, offset = data[3:], 3
            data = rest + data
            cut = len(data) if last else _whole_lines(data, name)
            block, rest = data[:cut], data[cut:]
            try:
                text = block.decode(name)
            except UnicodeDecodeError:
                text = _repair(block, name, file, row, offset, rejects)
            row += block.count(b"\n")
            offset += len(block)
            if on_bytes is not None:
                on_bytes(stream.consumed - consumed)
                consumed = stream.consumed
            if "\r" in text:
                text = text.replace("\r\n", "\n")
            yield text, last
            if last:
                return


def _as_utf8(stream: ByteStream, encoding: str) -> io.BufferedIOBase:
    """Re-encode a UTF-16/32 stream, whose lines cannot be found by the byte 0x0A."""

    class Recoded(io.RawIOBase):
        def __init__(self):
            self.decoder = codecs.getincrementaldecoder(encoding)()
            self.held = b""

        def readable(self):
            return True

        def readinto(self, buffer):
            while not self.held:
                data = stream.read(BLOCK_BYTES)
                try:
                    self.held = self.decoder.decode(data, final=not data).encode("utf-8")
                except UnicodeError as error:
                    raise DataError(f"The file is not {encoding}.", where=stream.name, why=str(error)) from error
                if not data:
                    break
            size = min(len(buffer), len(self.held))
            buffer[:size], self.held = self.held[:size], self.held[size:]
            return size

    return io.BufferedReader(Recoded(), BLOCK_BYTES)


def _whole_lines(data: bytes, encoding: str) -> int:
    """How many bytes of `data` can be decoded now: up to the last line end, or all whole characters of a long line."""
    cut = data.rfind(b"\n") + 1
    if cut or len(data) < BLOCK_BYTES:
        return cut
    if data.endswith(b"\r"):
        return len(data) - 1
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])


def _repair(block: bytes, encoding: str, file: str, row: int, offset: int, rejects: Rejects) -> str:
    lines = []
    for line in _split_lines(block):
        try:
            lines.append(line.decode(encoding))
        except UnicodeDecodeError as error:
            lines.append(line.decode(encoding, "replace"))
            excerpt = line[max(0, error.start - 40) : error.start + 80].decode(encoding, "backslashreplace")
            rejects.add(
                file, row, f"not {encoding}, replaced by U+FFFD", excerpt.rstrip("\n"), offset=offset + error.start
            )
        row += line.count(b"\n")
        offset += len(line)
    return "".join(lines)


def _split_lines(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def iter_documents(
    paths: str | Path | Iterable[str | Path],
    *,
    text_column: str = "text",
    separator: str = SEPARATOR,
    format: str | None = None,
    encoding: str = "utf-8",
    rejects: Rejects | None = None,
    longest: int | None = None,
) -> Iterator[str]:
    """The documents of files, folders, globs or stdin ("-"), one string each, empty ones left out.

    Args:
        paths: txt, jsonl, json, csv, tsv or parquet, also as .gz/.zst/.xz.
        text_column: the column or key that holds the text in tables and JSON.
        separator: the line between two documents of a text file.
        format: overrides what the file ending tells.
        encoding: of text files.
        rejects: where bad rows go; by default they are only counted away in an object of their own.
        longest: give documents longer than this many characters in several strings, so that a huge file of a single
            document needs little memory; None keeps every document whole.

    Raises:
        DataError: a missing file, a missing column, damaged compression.
    """
    reader = DocumentReader(
        rejects if rejects is not None else Rejects(),
        format=format,
        text_column=text_column,
        separator=separator,
        encoding=encoding,
        limit=longest or PIECE_CHARACTERS,
    )
    for source in expand(paths, any_kind=format is not None):
        parts: list[str] = []
        for piece in reader.source(source):
            if longest is not None:
                if piece.text:
                    yield piece.text
                continue
            parts.append(piece.text)
            if piece.ends:
                yield "".join(parts)
                parts = []
