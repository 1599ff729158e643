"""Text files to token shards: in parallel, bounded memory and fixed order, resumable after a kill at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from gptwo.data.documents import PIECE_CHARACTERS, SEPARATOR, DocumentReader, Piece
from gptwo.data.encode_worker import Encoder
from gptwo.data.files import STDIN, ByteStream, Source, expand, format_of, identity
from gptwo.data.manifest import FILE_NAME, Manifest, SourceCount
from gptwo.data.progress import PackProgress, Quiet
from gptwo.data.rejects import Rejects
from gptwo.data.shard_writer import Done, Journal, ShardWriter, available
from gptwo.errors import DataError, GptwoError, Interrupted, UsageError

SHARD_TOKENS = 100_000_000
DOCUMENTS_PER_JOB = 4096
TABLES_LOOKED_AT = 1000


@dataclass(frozen=True)
class _Job:
    """What one request to an encoder holds."""

    payload: bytes
    split: str
    source: int
    documents: int
    bytes: int

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.payload, digest_size=16).hexdigest()


def _request(pieces: list[Piece], split: str, source: int) -> _Job:
    payload = json.dumps(pieces, ensure_ascii=False).encode()
    documents = sum(piece.ends for piece in pieces)
    return _Job(payload, split, source, documents, sum(len(piece.text.encode()) for piece in pieces))


def pack(
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    tokenizer: str | Path,
    *,
    held_out: int = 0,
    text_column: str = "text",
    format: str | None = None,
    encoding: str = "utf-8",
    separator: str = SEPARATOR,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Encode texts into a folder of token shards; the end id closes every document.

    The result depends on the inputs, the tokenizer and these settings alone, not on the number of workers. After a
    kill the same call goes on where it stopped; on a finished folder it returns at once.

    Args:
        inputs: files, folders (recursive), globs or "-" (stdin); txt, md, jsonl, json, csv, tsv, parquet, each also as
            .gz, .zst or .xz. Documents of a text file are separated by a line `separator`.
        out: the folder. Its shards stand in `out` itself, or in `out/train` and `out/valid` where `held_out` is given.
        tokenizer: folder (or file) of the tokenizer; it is loaded by every worker.
        held_out: this many documents from the end of each input (a folder is one input) go to `out/valid`.
        text_column: column or key of the text in tables and JSON.
        format: overrides what the file endings tell.
        workers: encoding processes; default one per core, 0 encodes in this process.
        shard_tokens: ids per shard file.
        strict: raise at the first unusable row instead of writing it to `out/rejects.jsonl`.
        overwrite: remove shards of earlier work from `out` first.
        progress: show a bar on stderr (plain lines when that is no terminal).

    Returns:
        The manifest, of `out/train` where documents were held out.

    Raises:
        DataError: inputs that are missing, damaged, empty, too few for `held_out`, or not those of an unfinished run.
        UsageError: a tokenizer without an end token, an impossible setting.
        Interrupted: Ctrl-C; what was finished is kept.
    """
    from gptwo.tokenizer import load_tokenizer

    if held_out < 0 or shard_tokens < 1 or (workers or 0) < 0:
        raise UsageError(f"held_out {held_out} and workers {workers} must be ≥ 0, shard_tokens {shard_tokens} ≥ 1.")
    out, tokenizer = Path(out), os.fspath(tokenizer)
    loaded = load_tokenizer(tokenizer)
    if loaded.end_id is None:
        raise UsageError(
            "The tokenizer has no end token, which must close every document.",
            where=tokenizer,
            fix="Use one with <|endoftext|> (BPE) or [SEP] (BERT).",
        )
    sources = expand(inputs, any_kind=format is not None)
    settings = {
        "tokenizer": loaded.fingerprint,
        "held_out": held_out,
        "text_column": text_column,
        "format": format,
        "encoding": encoding,
        "separator": separator,
        "shard_tokens": shard_tokens,
        "piece_characters": PIECE_CHARACTERS,
    }
    work = _digest({**settings, "sources": [[source.name, identity(source)] for source in sources]})
    splits = ("train", "valid") if held_out else ("all",)
    folders = {split: out / split if held_out else out for split in splits}
    with _locked(out):
        if overwrite:
            _clear(out)
        if finished := _finished(folders, work):
            return finished
        run = _Run(
            sources,
            folders,
            loaded,
            tokenizer,
            work,
            settings,
            strict,
            os.cpu_count() or 1 if workers is None else workers,
        )
        return run.run(PackProgress(run.total_bytes()) if progress else Quiet())


def _changed(name: str) -> DataError:
    return DataError(
        "The input is not the one this folder was begun with.", where=name, fix="Use --overwrite to begin again."
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder for one packing at a time (where the system has file locks)."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = open(out / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise DataError("The folder cannot be written.", where=out, why=error.strerror) from error
    try:
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError("Another process is packing into this folder.", where=out) from error
        yield
    finally:
        handle.close()
        (out / ".lock").unlink(missing_ok=True)


def _clear(out: Path) -> None:
    for folder in (out, out / "train", out / "valid"):
        for path in [*folder.glob("shard-*.bin*"), folder / FILE_NAME, folder / "rejects.jsonl"]:
            path.unlink(missing_ok=True)
    shutil.rmtree(out / ".pack", ignore_errors=True)


def _finished(folders: dict[str, Path], work: str) -> Manifest | None:
    """The manifest of an earlier run of the same work; other work in the folder is refused."""
    out = next(iter(folders.values()))
    out = out.parent if len(folders) > 1 else out
    manifests = [Manifest.read(f) for f in (out, out / "train", out / "valid") if (f / FILE_NAME).is_file()]
    if any(manifest.inputs != work for manifest in manifests):
        raise DataError(
            "The folder already holds shards of other inputs, settings or tokenizer.",
            where=out,
            fix="Give another --out, or --overwrite to replace them.",
        )
    return manifests[0] if len(manifests) == len(folders) else None


class _Run:
    """One packing: reads documents, hands jobs to the encoders, writes their answers in order."""

    def __init__(self, sources, folders, tokenizer, tokenizer_folder, work, settings, strict, workers):
        self.sources: list[Source] = sources
        self.folders: dict[str, Path] = folders
        self.tokenizer, self.tokenizer_folder = tokenizer, tokenizer_folder
        self.work, self.settings, self.strict, self.workers = work, settings, strict, workers
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self.out = next(iter(folders.values())).parent if len(folders) > 1 else next(iter(folders.values()))
        self.scratch = self.out / ".pack"
        self.empty = [0] * len(sources)
        self.progress: PackProgress | Quiet = Quiet()

    def total_bytes(self) -> int | None:
        """Bytes of all inputs on disk, None where standard input is among them."""
        sizes = [size for source in self.sources for _, size, _ in identity(source)]
        return None if None in sizes else sum(sizes)

    def run(self, progress: PackProgress | Quiet) -> Manifest:
        """Do the work, or what is left of it."""
        self._look_ahead()
        journal = Journal(self.scratch / "journal.jsonl", self.work)
        kept = journal.keep({split: available(folder, self.dtype) for split, folder in self.folders.items()})
        writers = {
            split: ShardWriter(folder, self.dtype, self.settings["shard_tokens"], kept[split])
            for split, folder in self.folders.items()
        }
        self.progress = progress
        rejects_path = self.scratch / "rejects.jsonl"
        try:
            with progress, Rejects(rejects_path, strict=self.strict) as rejects:
                if journal.done:
                    progress.notice(f"resuming: {sum(kept.values()):,} tokens are already there")
                self._encode(journal, writers, rejects)
            return self._finish(journal, writers, rejects, rejects_path)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "Packing was interrupted; what was finished is kept.",
                where=self.out,
                fix="Run the same command to go on.",
            ) from error
        finally:
            journal.close()
            for writer in writers.values():
                writer.close()

    def _look_ahead(self) -> None:
        """Read the first document of every table now: a wrong column should not be found after hours."""
        for source in self.sources:
            for file in source.files[:TABLES_LOOKED_AT]:
                if file != STDIN and (self.settings["format"] or format_of(file) or "txt") != "txt":
                    next(self._reader(Rejects()).file(file), None)

    def _encode(self, journal: Journal, writers: dict[str, ShardWriter], rejects: Rejects) -> None:
        waiting: deque[tuple[_Job, Future[bytes]]] = deque()
        known = list(journal.done)

        def write_first() -> None:
            job, answer = waiting.popleft()
            try:
                ids = answer.result()
            except RuntimeError as error:
                raise GptwoError("Encoding failed.", where=self.sources[job.source].name, why=str(error)) from error
            tokens = writers[job.split].write(ids)
            journal.add(Done(job.digest, job.split, job.source, job.documents, job.bytes, tokens))
            self.progress.tokens(tokens)

        with _Encoders(self.workers, self.tokenizer_folder, self.tokenizer, self.dtype.str) as encoders:
            number = -1
            for number, job in enumerate(self._jobs(rejects)):
                if number < len(known):
                    if known[number].digest != job.digest:
                        raise _changed(self.sources[job.source].name)
                    continue
                waiting.append((job, encoders.submit(job.payload)))
                if len(waiting) > 2 * max(1, self.workers):
                    write_first()
            if number + 1 < len(known):
                raise _changed(self.sources[-1].name)
            while waiting:
                write_first()

    def _reader(self, rejects: Rejects, on_bytes=None) -> DocumentReader:
        s = self.settings
        return DocumentReader(
            rejects,
            format=s["format"],
            text_column=s["text_column"],
            separator=s["separator"],
            encoding=s["encoding"],
            limit=s["piece_characters"],
            on_bytes=on_bytes,
        )

    def _jobs(self, rejects: Rejects) -> Iterator[_Job]:
        """Requests of bounded size, in the order of the inputs; none crosses a source or a split."""
        for index, source in enumerate(self.sources):
            held_out = self.settings["held_out"]
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
            split = next(iter(self.folders))

            for piece in reader.source(source):
                if first_held is not None and seen >= first_held and split == "train":
                    if pieces:
                        yield _request(pieces, split, index)
                    pieces, size, split = [], 0, "valid"
                if pieces and (
                    size + len(piece.text) > self.settings["piece_characters"] or len(pieces) >= DOCUMENTS_PER_JOB
                ):
                    yield _request(pieces, split, index)
                    pieces, size = [], 0
                pieces.append(piece)
                size += len(piece.text)
                seen += piece.ends
            if pieces:
                yield _request(pieces, split, index)
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

    def _finish(self, journal, writers, rejects: Rejects, rejects_path: Path) -> Manifest:
        from gptwo import __version__

        if not journal.done:
            raise DataError("The inputs hold no text.", where=", ".join(source.name for source in self.sources))
        if rejects.total:
            os.replace(rejects_path, self.out / "rejects.jsonl")
        else:
            (self.out / "rejects.jsonl").unlink(missing_ok=True)
        manifests = {}
        for split, writer in writers.items():
            counts = [SourceCount(source.name, len(source.files)) for source in self.sources]
            if split == next(iter(writers)):
                for count, empty in zip(counts, self.empty, strict=True):
                    count.empty = empty
            for done in journal.done:
                if done.split == split:
                    count = counts[done.source]
                    count.documents += done.documents
                    count.bytes += done.bytes
                    count.tokens += done.tokens
            manifests[split] = Manifest(
                tokenizer={
                    "fingerprint": self.tokenizer.fingerprint,
                    "vocab_size": self.tokenizer.vocab_size,
                    "end_id": self.tokenizer.end_id,
                    "kind": self.tokenizer.kind,
                },
                dtype=self.dtype.name,
                tokens=writer.tokens,
                documents=sum(count.documents for count in counts),
                bytes=sum(count.bytes for count in counts),
                empty=sum(count.empty for count in counts),
                rejects=rejects.total,
                shards=writer.finish(),
                sources=counts,
                split=split,
                inputs=self.work,
                gptwo=__version__,
            )
        for split, manifest in reversed(manifests.items()):
            manifest.write(self.folders[split])
        shutil.rmtree(self.scratch, ignore_errors=True)
        return next(iter(manifests.values()))


class _Encoders:
    """Encoding processes behind `submit`; with no workers the encoding happens at once, in this process."""

    def __init__(self, workers: int, folder: str, tokenizer, dtype: str):
        self._tokenizer, self._dtype = tokenizer, dtype
        self._all = [Encoder(folder, dtype) for _ in range(workers)]
        self._free: SimpleQueue[Encoder] = SimpleQueue()
        for encoder in self._all:
            self._free.put(encoder)
        self._threads = ThreadPoolExecutor(workers) if workers else None

    def submit(self, payload: bytes) -> Future[bytes]:
        """The ids of a request, now or later."""
        if self._threads is not None:
            return self._threads.submit(self._encode, payload)
        from gptwo.data.encode_worker import encode_pieces

        future: Future[bytes] = Future()
        try:
            future.set_result(encode_pieces(self._tokenizer, payload, self._dtype).tobytes())
        except Exception as error:  # told like an error of a worker
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
        return future

    def _encode(self, payload: bytes) -> bytes:
        encoder = self._free.get()
        try:
            return encoder.encode(payload)
        finally:
            self._free.put(encoder)

    def __enter__(self) -> _Encoders:
        return self

    def __exit__(self, *_) -> None:
        for encoder in self._all:
            encoder.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
