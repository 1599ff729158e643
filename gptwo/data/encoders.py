"""Encoding in parallel: a pool of processes that hold the tokenizer, each behind a pipe.

Processes of their own, started by name, need nothing of the caller's main module: they work from a script without a
main guard, a notebook or a test just the same.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gptwo.data.encode_worker import ANSWER, HEADER, encode_pieces, read_exactly

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer


class Encoder:
    """One encoding process and the pipe to it; `encode` may be called from one thread at a time."""

    def __init__(self, folder: str, dtype: str):
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(dict.fromkeys(paths)),
            TOKENIZERS_PARALLELISM="false",
            RAYON_NUM_THREADS="1",
            OMP_NUM_THREADS="1",
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gptwo.data.encode_worker", folder, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def encode(self, payload: bytes) -> bytes:
        """The ids of a request, little-endian bytes of the encoder's dtype.

        Raises:
            RuntimeError: the tokenizer failed or the process died; the message holds its last words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(HEADER.pack(len(payload)))
            self._process.stdin.write(payload)
            self._process.stdin.flush()
            status, size = ANSWER.unpack(read_exactly(self._process.stdout, ANSWER.size))
            answer = read_exactly(self._process.stdout, size)
        except (EOFError, OSError) as error:
            raise RuntimeError(f"an encoding process ended early: {self._last_words()}") from error
        if status:
            raise RuntimeError(answer.decode("utf-8"))
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"

    def close(self) -> None:
        """End the process; what it was doing is dropped."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Encoders:
    """Encoding processes behind `submit`; with no workers the encoding happens at once, in this process.

    Args:
        workers: number of processes.
        folder: the tokenizer's, for the processes.
        tokenizer: the same, loaded, for this process.
        dtype: numpy name of the ids, e.g. "<u2".

    Attributes:
        waiting: requests worth having under way at a time.
    """

    def __init__(self, workers: int, folder: str, tokenizer: Tokenizer, dtype: str):
        self._tokenizer, self._dtype = tokenizer, dtype
        self.waiting = 2 * workers
        self._all = [Encoder(folder, dtype) for _ in range(workers)]
        self._free: SimpleQueue[Encoder] = SimpleQueue()
        for encoder in self._all:
            self._free.put(encoder)
        self._threads = ThreadPoolExecutor(workers) if workers else None

    def submit(self, payload: bytes) -> Future[bytes]:
        """The ids of a request, now or later."""
        if self._threads is not None:
            return self._threads.submit(self._encode, payload)
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

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *_: object) -> None:
        for encoder in self._all:
            encoder.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
