"""A process that encodes: reads documents from its standard input, writes token ids to its standard output.

Started as `python -m gptwo.data.encode_worker TOKENIZER_FOLDER DTYPE`. A request is an 8-byte little-endian length and
that many bytes of JSON, a list of [text, whether the document ends here]; the answer is one status byte (0 fine,
1 error), an 8-byte length, and the ids or the message. It ends when its input ends, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = struct.Struct("<Q")
ANSWER = struct.Struct("<BQ")


def encode_pieces(tokenizer, payload: bytes, dtype: str):
    """Ids of a request as one array; the end id closes every document that ends in it.

    Args:
        tokenizer: a `Tokenizer`.
        payload: the request's JSON.
        dtype: numpy name of the result, e.g. "<u2".
    """
    import numpy as np

    pieces = json.loads(payload)
    end = [tokenizer.end_id]
    encoded = tokenizer.encode_batch([text for text, _ in pieces])
    arrays = []
    for (_, ends), ids in zip(pieces, encoded, strict=True):
        arrays.append(np.asarray(ids + end if ends else ids, dtype=np.int64))
    ids = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
        raise ValueError(f"the tokenizer gave ids from {ids.min()} to {ids.max()}, its size is {tokenizer.vocab_size}")
    return ids.astype(dtype)


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
            status, size = ANSWER.unpack(_exactly(self._process.stdout, ANSWER.size))
            answer = _exactly(self._process.stdout, size)
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
            try:
                pipe.close()  # type: ignore[union-attr]
            except OSError:
                pass


def _exactly(stream, size: int) -> bytes:
    data = stream.read(size)
    if data is None or len(data) < size:
        raise EOFError
    return data


def main(folder: str, dtype: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not mix with the answers
    from gptwo.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    while True:
        try:
            (size,) = HEADER.unpack(_exactly(requests, HEADER.size))
            payload = _exactly(requests, size)
        except EOFError:
            return
        try:
            status, answer = 0, encode_pieces(tokenizer, payload, dtype).tobytes()
        except Exception as error:  # whatever the tokenizer raises is told to the parent
            status, answer = 1, f"{type(error).__name__}: {error}".encode("utf-8", "replace")
        try:
            answers.write(ANSWER.pack(status, len(answer)))
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
