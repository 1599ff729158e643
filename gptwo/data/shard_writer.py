"""Writing shards so that a kill at any moment loses nothing that was finished: a journal beside the growing files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

from gptwo.data.files import file_sha256
from gptwo.data.manifest import ShardFile
from gptwo.errors import DataError


class ShardWriter:
    """Appends ids to shard-00000.bin, shard-00001.bin, …, each of exactly `shard_tokens` ids but the last.

    A shard grows as *.bin.partial and is renamed when it is full.

    Args:
        folder: where the shards go; made if missing.
        dtype: little-endian type of one id.
        shard_tokens: ids per shard.
        keep: ids already on disk that stay; everything after them is removed.
    """

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int, keep: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dtype, self.shard_tokens = folder, dtype, shard_tokens
        self.tokens = 0
        self.finished: list[ShardFile] = []
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._resume(keep)

    def _resume(self, keep: int) -> None:
        full, rest = divmod(keep, self.shard_tokens)
        for path in sorted(self.folder.glob("shard-*.bin*")):
            number = int(path.name[6:].split(".")[0])
            if number > full or (number == full and not rest):
                path.unlink()
        for number in range(full):
            partial, final = self._partial(number), self._final(number)
            if not final.exists():
                os.replace(partial, final)
            self.finished.append(ShardFile(final.name, self.shard_tokens, file_sha256(final)))
        self.tokens = full * self.shard_tokens
        if rest:
            final, partial = self._final(full), self._partial(full)
            if final.exists():  # the last shard of a finished run whose manifest was never written
                os.replace(final, partial)
            os.truncate(partial, rest * self.dtype.itemsize)
            self._hash = hashlib.sha256()
            with open(partial, "rb") as file:
                while block := file.read(1 << 20):
                    self._hash.update(block)
            self._file = open(partial, "ab")  # noqa: SIM115
            self.tokens += rest

    def _final(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.bin"

    def _partial(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.bin.partial"

    def write(self, ids: bytes) -> int:
        """Append ids given as little-endian bytes; returns how many there were."""
        view = memoryview(ids)
        size = self.dtype.itemsize
        written = 0
        while written < len(view):
            if self._file is None:
                self._file = open(self._partial(len(self.finished)), "wb")  # noqa: SIM115
                self._hash = hashlib.sha256()
            room = (self.shard_tokens - self.tokens % self.shard_tokens) * size
            part = view[written : written + room]
            self._file.write(part)
            self._hash.update(part)
            written += len(part)
            self.tokens += len(part) // size
            if self.tokens % self.shard_tokens == 0:
                self._finish_shard(self.shard_tokens)
        if self._file is not None:
            self._file.flush()
        return len(view) // size

    def _finish_shard(self, tokens: int) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        number = len(self.finished)
        os.replace(self._partial(number), self._final(number))
        self.finished.append(ShardFile(self._final(number).name, tokens, self._hash.hexdigest()))

    def finish(self) -> list[ShardFile]:
        """Close the last shard and return all of them."""
        if self._file is not None:
            self._finish_shard(self.tokens - len(self.finished) * self.shard_tokens)
        return self.finished

    def close(self) -> None:
        """Stop without finishing; the partial shard stays for the next run."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk was told by the write that failed
                self._file.close()
            self._file = None


def available(folder: Path, dtype: np.dtype) -> int:
    """How many ids the shards of an interrupted run hold without a gap."""
    tokens, number = 0, 0
    while True:
        path = folder / f"shard-{number:05d}.bin"
        complete = path.exists()
        path = path if complete else path.with_name(path.name + ".partial")
        if not path.exists():
            return tokens
        tokens += path.stat().st_size // dtype.itemsize
        if not complete:
            return tokens
        number += 1


@dataclass(frozen=True)
class Done:
    """One finished piece of work: what was encoded (its digest) and what it gave."""

    digest: str
    split: str
    source: int
    documents: int
    bytes: int
    tokens: int


class Journal:
    """The list of finished pieces of an unfinished run, one JSON line each, the first line naming the work.

    Args:
        path: the journal file.
        work: digest of inputs and settings; a journal of other work is refused.

    Raises:
        DataError: the journal belongs to other inputs or settings.
    """

    def __init__(self, path: Path, work: str):
        self.path = path
        self.done: list[Done] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # an unfinished last line does not count
        if lines:
            header = json.loads(lines[0])
            if header.get("work") != work:
                raise DataError(
                    "The folder holds an unfinished packing of other inputs, settings or tokenizer.",
                    where=path.parent.parent,
                    fix="Give the same inputs and settings to go on with it, another --out, or --overwrite.",
                )
            self.done = [Done(**json.loads(line)) for line in lines[1:]]
        self._header = {"work": work}
        self._file: TextIO | None = None

    def keep(self, tokens_on_disk: dict[str, int]) -> dict[str, int]:
        """Forget finished pieces whose ids are not all on disk; returns the ids per split that are kept."""
        kept = dict.fromkeys(tokens_on_disk, 0)
        for number, piece in enumerate(self.done):
            if kept[piece.split] + piece.tokens > tokens_on_disk[piece.split]:
                del self.done[number:]
                break
            kept[piece.split] += piece.tokens
        temporary = self.path.with_suffix(".partial")
        with open(temporary, "w", encoding="utf-8") as file:
            for entry in [self._header, *map(asdict, self.done)]:
                file.write(json.dumps(entry) + "\n")
        os.replace(temporary, self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        return kept

    def add(self, piece: Done) -> None:
        """Record a piece whose ids are written."""
        assert self._file is not None
        self.done.append(piece)
        self._file.write(json.dumps(asdict(piece)) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
