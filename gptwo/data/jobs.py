"""What is packed, in pieces: the inputs as a fixed sequence of encoding requests of bounded size."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptwo.data.documents import DocumentReader, Piece
from gptwo.data.files import STDIN, ByteStream, Source, format_of
from gptwo.data.progress import Quiet
from gptwo.data.rejects import Rejects
from gptwo.errors import DataError

DOCUMENTS_PER_JOB = 4096
TABLES_LOOKED_AT = 1000


@dataclass(frozen=True)
class Settings:
    """What decides the result of a packing besides the inputs and the tokenizer; see `pack`.

    Args:
        piece_characters: bound of one request, and of one part of a long document.
    """

    held_out: int
    text_column: str
    format: str | None
    encoding: str
    separator: str
    shard_tokens: int
    piece_characters: int


@dataclass(frozen=True)
class Job:
    """A request to an encoder.

    Args:
        payload: JSON, a list of [text, whether the document ends here].
        split: where its ids go.
        source: index of the input it comes from.
        documents: documents that end in it.
        bytes: UTF-8 bytes of its text.
    """

    payload: bytes
    split: str
    source: int
    documents: int
    bytes: int

    @property
    def digest(self) -> str:
        """By which a resumed run recognises the same request."""
        return hashlib.blake2b(self.payload, digest_size=16).hexdigest()


def _job(pieces: list[Piece], split: str, source: int) -> Job:
    payload = json.dumps(pieces, ensure_ascii=False).encode()
    documents = sum(piece.ends for piece in pieces)
    return Job(payload, split, source, documents, sum(len(piece.text.encode()) for piece in pieces))


class JobReader:
    """Reads the inputs as jobs: always the same ones in the same order, whoever encodes them.

    Args:
        sources: the inputs.
        settings: how they are read and split.
        scratch: folder for what must be put on disk meanwhile.
        progress: told how many bytes were read.

    Attributes:
        empty: per source, documents without text.
    """

    def __init__(self, sources: Sequence[Source], settings: Settings, scratch: Path, progress: Quiet):
        self.sources, self.settings, self.scratch, self.progress = sources, settings, scratch, progress
        self.empty = [0] * len(sources)

    def look_ahead(self) -> None:
        """Read the first document of every table now: a wrong column should not be found after hours."""
        for source in self.sources:
            for file in source.files[:TABLES_LOOKED_AT]:
                if file != STDIN and (self.settings.format or format_of(file) or "txt") != "txt":
                    next(self._reader(Rejects()).file(file), None)

    def _reader(self, rejects: Rejects, on_bytes: Callable[[int], None] | None = None) -> DocumentReader:
        settings = self.settings
        return DocumentReader(
            rejects,
            format=settings.format,
            text_column=settings.text_column,
            separator=settings.separator,
            encoding=settings.encoding,
            limit=settings.piece_characters,
            on_bytes=on_bytes,
        )

    def read(self, rejects: Rejects) -> Iterator[Job]:
        """Requests of bounded size, in the order of the inputs; none crosses a source or a split."""
        for index, source in enumerate(self.sources):
            held_out = self.settings.held_out
            if held_out and STDIN in source.files:
                source = self._spool(source)
            first_held = self._count(source, rejects.strict) - held_out if held_out else None
            if first_held is not None and first_held < 1:
                raise DataError(
                    f"The input has {first_held + held_out:,} documents; holding out {held_out:,} would leave none.",
                    where=source.name,
                    fix="Hold out fewer, or give the small files together as one folder or pattern.",
                )
            reader = self._reader(rejects, self.progress.bytes)
            seen = 0  # documents finished so far in this source
            pieces: list[Piece] = []
            size = 0
            split = "train" if held_out else "all"

            for piece in reader.source(source):
                if first_held is not None and seen >= first_held and split == "train":
                    if pieces:
                        yield _job(pieces, split, index)
                    pieces, size, split = [], 0, "valid"
                full = size + len(piece.text) > self.settings.piece_characters or len(pieces) >= DOCUMENTS_PER_JOB
                if pieces and full:
                    yield _job(pieces, split, index)
                    pieces, size = [], 0
                pieces.append(piece)
                size += len(piece.text)
                seen += piece.ends
            if pieces:
                yield _job(pieces, split, index)
            self.empty[index] = reader.empty

    def _count(self, source: Source, strict: bool) -> int:
        self.progress.notice(f"counting the documents of {source.name}")
        return sum(piece.ends for piece in self._reader(Rejects(strict=strict)).source(source))

    def _spool(self, source: Source) -> Source:
        """Standard input cannot be read twice, which holding out from its end needs: put it on disk."""
        path = self.scratch / "stdin"
        with open(path, "wb") as file, ByteStream(STDIN) as stream:
            shutil.copyfileobj(stream, file, 1 << 20)
        return Source(source.name, (str(path),))
