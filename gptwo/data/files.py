"""Which files an input means, and how to read their bytes: folders, globs, stdin, gz/zst/xz."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import lzma
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gptwo.errors import DataError, MissingError

FORMATS = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
}
COMPRESSIONS = (".gz", ".zst", ".xz")
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One input as the user named it, and the files it stands for, in reading order.

    Args:
        name: the path, folder, glob or "-" as given.
        files: the files, sorted by path for a folder or a glob.
        skipped: files of a folder that are of no known kind, counted by file ending.
    """

    name: str
    files: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)


def expand(paths: str | Path | Iterable[str | Path], *, any_kind: bool = False) -> list[Source]:
    """Turn paths, folders (recursive), globs and "-" (stdin) into sources.

    Args:
        paths: one input or several; their order is kept.
        any_kind: take every file of a folder, not only those with an ending of `FORMATS`.

    Raises:
        DataError: an input that does not exist, matches nothing, or is a folder without a usable file.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    sources = []
    for path in paths:
        name = os.fspath(path)
        if name == STDIN:
            sources.append(Source(STDIN, (STDIN,)))
        elif os.path.isdir(name):
            sources.append(_folder(name, any_kind))
        elif os.path.exists(name):
            sources.append(Source(name, (name,)))
        else:
            found = sorted(f for f in glob.glob(name, recursive=True) if os.path.isfile(f))
            if not found:
                what = "No file matches this pattern." if glob.has_magic(name) else "There is no such file or folder."
                raise DataError(what, where=name, why=f"looked in {os.getcwd()}", fix=_nearby(name))
            sources.append(Source(name, tuple(found)))
    if not sources:
        raise DataError("No input was given.", fix="Name files, folders, patterns, or - for standard input.")
    return sources


def _folder(name: str, any_kind: bool) -> Source:
    files: list[str] = []
    skipped: Counter[str] = Counter()
    for folder, folders, names in os.walk(name):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in names:
            if file.startswith("."):
                continue
            if any_kind or format_of(file) is not None:
                files.append(os.path.join(folder, file))
            else:
                skipped[os.path.splitext(file)[1] or "(none)"] += 1
    if not files:
        raise DataError(
            "The folder holds no file of a known kind.",
            where=name,
            why=f"known endings: {' '.join(FORMATS)}, also with {' '.join(COMPRESSIONS)}",
            fix="Name the files, or give their format.",
        )
    return Source(name, tuple(sorted(files)), dict(sorted(skipped.items())))


def _nearby(name: str) -> str | None:
    import difflib

    folder = os.path.dirname(name) or "."
    if not os.path.isdir(folder):
        return None
    near = difflib.get_close_matches(os.path.basename(name), os.listdir(folder), n=3)
    return f"Did you mean {' or '.join(repr(os.path.join(os.path.dirname(name), n)) for n in near)}?" if near else None


def format_of(file: str) -> str | None:
    """The format the file's ending tells ("txt", "csv", …), looking through .gz/.zst/.xz; None when it tells none."""
    stem, ending = os.path.splitext(file.lower())
    if ending in COMPRESSIONS:
        ending = os.path.splitext(stem)[1]
    return FORMATS.get(ending)


def identity(source: Source) -> list[list]:
    """Name, size and modification time of each file: what tells whether an input changed between two runs."""
    rows: list[list] = []
    for file in source.files:
        if file == STDIN:
            rows.append([STDIN, None, None])
        else:
            stat = os.stat(file)
            rows.append([file, stat.st_size, stat.st_mtime_ns])
    return rows


class ByteStream(io.RawIOBase):
    """The decompressed bytes of one file; damage in a compressed file is a `DataError` that names it.

    Args:
        file: path, or "-" for standard input (never closed).

    Attributes:
        name: the file.
        consumed: bytes read so far from disk (compressed ones where the file is compressed).

    Raises:
        DataError: the file cannot be opened or its compression is damaged.
    """

    def __init__(self, file: str):
        super().__init__()
        self.name = file
        try:
            self._disk: BinaryIO = sys.stdin.buffer if file == STDIN else open(file, "rb", buffering=1 << 18)  # noqa: SIM115
        except OSError as error:
            raise DataError("The file cannot be opened.", where=file, why=error.strerror) from error
        self._read_bytes = 0
        ending = os.path.splitext(file.lower())[1]
        self._damage: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
        self._bytes: BinaryIO | io.BufferedIOBase = self._disk
        if ending == ".gz":
            self._bytes = gzip.GzipFile(fileobj=self._disk, mode="rb")
        elif ending == ".xz":
            self._bytes = lzma.LZMAFile(self._disk)  # noqa: SIM115
        elif ending == ".zst":
            zstandard = _zstandard()
            self._damage += (zstandard.ZstdError,)
            self._bytes = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(
                self._disk, read_across_frames=True
            )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._bytes.read(len(buffer))
        except self._damage as error:
            raise DataError(
                "The compressed file is damaged or incomplete.",
                where=self.name,
                why=str(error),
                fix="Copy or download it again; everything before the damage would be read, the rest would be lost.",
            ) from error
        except OSError as error:
            raise DataError("The file cannot be read.", where=self.name, why=str(error)) from error
        buffer[: len(data)] = data
        self._read_bytes += len(data)
        return len(data)

    @property
    def consumed(self) -> int:
        if self._bytes is self._disk:
            return self._read_bytes
        return self._disk.tell()

    def close(self) -> None:
        if not self.closed and self.name != STDIN:
            self._bytes.close()
            self._disk.close()
        super().close()


def _zstandard():
    try:
        import zstandard
    except ImportError as error:
        raise MissingError(
            "Reading .zst files needs the package zstandard.", why=str(error), fix="pip install zstandard"
        ) from error
    return zstandard


def refuse_utf16(head: bytes, file: str) -> None:
    """Raise `DataError` when a file begins with a UTF-16 or UTF-32 byte order mark and was to be read as UTF-8."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-32" if head[2:4] == b"\x00\x00" else "utf-16"
        raise DataError(
            f"The file is {encoding.upper()}, not UTF-8.",
            where=file,
            why="it begins with that byte order mark",
            fix=f"Give --encoding {encoding}, or convert it: iconv -f {encoding} -t utf-8.",
        )


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
