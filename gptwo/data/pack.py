"""Text files to token shards: in parallel, bounded memory and fixed order, resumable after a kill at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptwo.data.documents import PIECE_CHARACTERS, SEPARATOR
from gptwo.data.encoders import Encoders
from gptwo.data.files import expand, identity
from gptwo.data.jobs import Job, JobReader, Settings
from gptwo.data.manifest import FILE_NAME, FORMAT, Manifest, SourceCount
from gptwo.data.progress import PackProgress, Quiet
from gptwo.data.rejects import Rejects
from gptwo.data.shard_writer import Done, Journal, ShardWriter, available
from gptwo.errors import DataError, GptwoError, Interrupted, UsageError

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

SHARD_TOKENS = 100_000_000


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
    settings = Settings(held_out, text_column, format, encoding, separator, shard_tokens, PIECE_CHARACTERS)
    inputs_now = [[source.name, identity(source)] for source in sources]
    work = _digest([FORMAT, loaded.fingerprint, asdict(settings), inputs_now])
    splits = ("train", "valid") if held_out else ("all",)
    folders = {split: out / split if held_out else out for split in splits}
    with _locked(out):
        if overwrite:
            _clear(out)
        if finished := _finished(out, folders, work):
            return finished
        sizes = [size for _, files in inputs_now for _, size, _ in files]
        shown = PackProgress(None if None in sizes else sum(sizes)) if progress else Quiet()
        jobs = JobReader(sources, settings, out / ".pack", shown)
        run = _Run(out, folders, loaded, work, jobs, shown)
        encoders = partial(Encoders, os.cpu_count() or 1 if workers is None else workers, tokenizer, loaded)
        return run.run(encoders, strict)


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
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError as error:
            raise UsageError("Another process is packing into this folder.", where=out) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (out / ".lock").unlink()


def _clear(out: Path) -> None:
    for folder in (out, out / "train", out / "valid"):
        for path in [*folder.glob("shard-*.bin*"), folder / FILE_NAME, folder / "rejects.jsonl"]:
            path.unlink(missing_ok=True)
    shutil.rmtree(out / ".pack", ignore_errors=True)


def _finished(out: Path, folders: dict[str, Path], work: str) -> Manifest | None:
    """The manifest of an earlier run of the same work; other work in the folder is refused."""
    manifests = [Manifest.read(f) for f in (out, out / "train", out / "valid") if (f / FILE_NAME).is_file()]
    if any(manifest.inputs != work for manifest in manifests):
        raise DataError(
            "The folder already holds shards of other inputs, settings or tokenizer.",
            where=out,
            fix="Give another --out, or --overwrite to replace them.",
        )
    return manifests[0] if len(manifests) == len(folders) else None


class _Run:
    """One packing: takes jobs, hands them to the encoders, writes their answers in order."""

    def __init__(
        self,
        out: Path,
        folders: dict[str, Path],
        tokenizer: Tokenizer,
        work: str,
        jobs: JobReader,
        progress: PackProgress | Quiet,
    ):
        self.out, self.folders, self.tokenizer, self.work = out, folders, tokenizer, work
        self.jobs, self.progress = jobs, progress
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")

    def run(self, encoders: Callable[[str], Encoders], strict: bool) -> Manifest:
        """Do the work, or what is left of it.

        Args:
            encoders: makes the `Encoders` of a dtype.
        """
        self.jobs.look_ahead()
        journal = Journal(self.jobs.scratch / "journal.jsonl", self.work)
        kept = journal.keep({split: available(folder, self.dtype) for split, folder in self.folders.items()})
        writers = {
            split: ShardWriter(folder, self.dtype, self.jobs.settings.shard_tokens, kept[split])
            for split, folder in self.folders.items()
        }
        try:
            with self.progress, Rejects(self.jobs.scratch / "rejects.jsonl", strict=strict) as rejects:
                if journal.done:
                    self.progress.notice(f"resuming: {sum(kept.values()):,} tokens are already there")
                with encoders(self.dtype.str) as pool:
                    self._encode(pool, journal, writers, rejects)
            return self._finish(journal, writers, rejects)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "Packing was interrupted; what was finished is kept.",
                where=self.out,
                fix="Run the same command to go on.",
            ) from error
        except OSError as error:
            raise GptwoError(
                "The shards cannot be written; what was finished is kept.",
                where=error.filename or self.out,
                why=error.strerror or str(error),
                fix="Make room, then run the same command to go on.",
            ) from error
        finally:
            journal.close()
            for writer in writers.values():
                writer.close()

    def _encode(self, pool: Encoders, journal: Journal, writers: dict[str, ShardWriter], rejects: Rejects) -> None:
        waiting: deque[tuple[Job, Future[bytes]]] = deque()
        known = list(journal.done)

        def write_first() -> None:
            job, answer = waiting.popleft()
            try:
                ids = answer.result()
            except RuntimeError as error:
                name = self.jobs.sources[job.source].name
                raise GptwoError("Encoding failed.", where=name, why=str(error)) from error
            tokens = writers[job.split].write(ids)
            journal.add(Done(job.digest, job.split, job.source, job.documents, job.bytes, tokens))
            self.progress.tokens(tokens)

        number = -1
        for number, job in enumerate(self.jobs.read(rejects)):
            if number < len(known):
                if known[number].digest != job.digest:
                    raise _changed(self.jobs.sources[job.source].name)
                continue
            waiting.append((job, pool.submit(job.payload)))
            if len(waiting) > pool.waiting:
                write_first()
        if number + 1 < len(known):
            raise _changed(self.jobs.sources[-1].name)
        while waiting:
            write_first()

    def _finish(self, journal: Journal, writers: dict[str, ShardWriter], rejects: Rejects) -> Manifest:
        from gptwo import __version__

        if not journal.done:
            raise DataError("The inputs hold no text.", where=", ".join(source.name for source in self.jobs.sources))
        if rejects.total:
            os.replace(self.jobs.scratch / "rejects.jsonl", self.out / "rejects.jsonl")
        else:
            (self.out / "rejects.jsonl").unlink(missing_ok=True)
        manifests = {}
        for split, writer in writers.items():
            counts = [SourceCount(source.name, len(source.files)) for source in self.jobs.sources]
            if split == next(iter(writers)):
                for count, empty in zip(counts, self.jobs.empty, strict=True):
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
        shutil.rmtree(self.jobs.scratch, ignore_errors=True)
        return next(iter(manifests.values()))
