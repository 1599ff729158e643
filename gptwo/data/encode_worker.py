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
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from gptwo.tokenizer import Tokenizer

HEADER = struct.Struct("<Q")
ANSWER = struct.Struct("<BQ")


def encode_pieces(tokenizer: Tokenizer, payload: bytes, dtype: str) -> np.ndarray:
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
    for (_, ends), found in zip(pieces, encoded, strict=True):
        arrays.append(np.asarray(found + end if ends else found, dtype=np.int64))
    ids = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
        raise ValueError(f"the tokenizer gave ids from {ids.min()} to {ids.max()}, its size is {tokenizer.vocab_size}")
    return ids.astype(dtype)


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """So many bytes of a pipe; `EOFError` when it ends before."""
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
            (size,) = HEADER.unpack(read_exactly(requests, HEADER.size))
            payload = read_exactly(requests, size)
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
