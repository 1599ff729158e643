"""Bits per byte of two cheap opponents of a language model: a general compressor and an n-gram model.

Compressor: `xz -9` (LZMA2 with a 64 MiB window) on the held-out text alone, and given the tail of the training text:
C(tail + held-out) − C(tail), with a window that spans both. The second is the fairer one: the model has read the
training text, so may the compressor.

N-gram: interpolated modified Kneser-Ney, `ngram.py`, over token ids or over bytes.
"""

from __future__ import annotations

import lzma
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gptwo.errors import DataError
from gptwo.evaluate.ngram import KneserNey

_MIB = 1 << 20


@dataclass
class Compression:
    """What a system needs for a held-out text of `bytes` bytes (UTF-8)."""

    name: str
    total_bits: float
    bytes: int
    note: str = ""

    @property
    def bits_per_byte(self) -> float:
        """Total bits for each byte of the held-out text."""
        return self.total_bits / self.bytes

    def to_dict(self) -> dict:
        """Plain JSON values, with `bits_per_byte`."""
        return {**asdict(self), "bits_per_byte": self.bits_per_byte}


def xz(held_out: bytes) -> Compression:
    """The size of `xz -9` of the text alone, file headers included (about 70 bytes)."""
    _check(held_out)
    size = len(lzma.compress(held_out, preset=9))
    return Compression("xz -9", 8.0 * size, len(held_out), "the held-out text alone")


def xz_conditional(held_out: bytes, train: bytes, *, tail_bytes: int = 32 * _MIB) -> Compression:
    """What `xz -9e` needs more for tail + held-out than for the tail alone.

    Args:
        train: training text; only its last `tail_bytes` are used.
        tail_bytes: at 32 MiB: about 0.6 GB of memory, a minute or two.
    """
    _check(held_out)
    tail = train[-tail_bytes:] if tail_bytes else b""
    window = 4096
    while window < len(tail) + len(held_out):
        window *= 2
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(window, 1536 * _MIB)}]

    def size(data: bytes) -> int:
        return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))

    bits = 8.0 * (size(tail + held_out) - size(tail))
    return Compression(
        "xz -9e after training text",
        bits,
        len(held_out),
        f"C(tail + held-out) − C(tail), tail of {len(tail):,} bytes, window spanning both",
    )


def kneser_ney(train: Any, held_out: Any, *, vocab_size: int, held_out_bytes: int, order: int = 5) -> Compression:
    """An n-gram model trained on token ids, on held-out token ids.

    Args:
        train, held_out: 1-D integer arrays, ids 0..vocab_size-1; documents one after another with the end id between.
        held_out_bytes: UTF-8 bytes of the text that `held_out` encodes.
        order: longest n-gram.

    43 million training tokens of a 12k vocabulary took 3 GB of memory and 90 seconds of one core.
    """
    _check(held_out)
    model = KneserNey.fit(train, vocab_size=vocab_size, order=order)
    bits = -float(model.log2_probabilities(held_out).sum())
    return Compression(
        f"Kneser-Ney {order}-gram, tokens",
        bits,
        held_out_bytes,
        f"interpolated, modified; trained on {len(train):,} tokens",
    )


def kneser_ney_bytes(train: bytes, held_out: bytes, *, order: int = 5) -> Compression:
    """An n-gram model over UTF-8 bytes; the vocabulary is the 256 byte values.

    Training holds about 45 bytes for each byte of text: 100 MB take 4.5 GB.
    """
    _check(held_out)
    model = KneserNey.fit(np.frombuffer(train, dtype=np.uint8), vocab_size=256, order=order)
    bits = -float(model.log2_probabilities(np.frombuffer(held_out, dtype=np.uint8)).sum())
    return Compression(
        f"Kneser-Ney {order}-gram, bytes",
        bits,
        len(held_out),
        f"interpolated, modified; trained on {len(train):,} bytes",
    )


def _check(held_out: Any) -> None:
    if len(held_out) == 0:
        raise DataError("The held-out text is empty.", fix="Hold out at least a few documents.")
