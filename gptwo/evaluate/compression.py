"""Bits per byte of two cheap opponents of a language model: a general compressor and an n-gram model.

Compressor: `xz -9` (LZMA2 with a 64 MiB window) on the held-out text alone.

N-gram: interpolated modified Kneser-Ney, `ngram.py`, over bytes.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptwo.errors import DataError
from gptwo.evaluate.ngram import KneserNey


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


def xz(held_out: bytes) -> Compression:
    """The size of `xz -9` of the text alone, file headers included (about 70 bytes)."""
    _check(held_out)
    size = len(lzma.compress(held_out, preset=9))
    return Compression("xz -9", 8.0 * size, len(held_out), "the held-out text alone")


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
