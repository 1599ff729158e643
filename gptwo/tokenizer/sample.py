"""Which text a vocabulary is trained on: held-out parts, an even sample of bounded size, and cuts that save memory."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gptwo.errors import UsageError

CUT = "\ufdd0"  # a noncharacter: Unicode promises that no text holds it
_PAIRS_AT_ONCE = 1 << 22


def split_texts(texts: Iterable[str], share: float, *, held_out: bool) -> Iterator[str]:
    """One of the two parts of a sequence of texts: the held-out share, evenly spread, or the rest.

    The same texts in the same order always fall into the same parts.

    Raises:
        UsageError: the share is not within 0 (inclusive) and 1 (exclusive).
    """
    if not 0 <= share < 1:
        raise UsageError(f"A held-out share of {share} is not possible.", fix="Give a number from 0 to below 1.")
    for index, text in enumerate(texts):
        if (int((index + 1) * share) > int(index * share)) == held_out:
            yield text


def sample_texts(texts: Iterable[str], max_bytes: int, seed: int = 0) -> list[str]:
    """A uniform sample of the texts with at most `max_bytes` of UTF-8 in all, in their order; all where they fit.

    One pass, and never much more than `max_bytes` in memory: every text draws a random rank, and the highest ranks
    leave whenever the sample grows too large.
    """
    ranks = random.Random(seed)
    heap: list[tuple[float, int, str]] = []  # the negative rank first: heapq keeps the smallest at the top
    total = 0
    for index, text in enumerate(texts):
        heapq.heappush(heap, (-ranks.random(), index, text))
        total += _size(text)
        while total > max_bytes and len(heap) > 1:
            total -= _size(heapq.heappop(heap)[2])
    return [text for _, _, text in sorted(heap, key=lambda entry: entry[1])]


def cut_rare_pairs(texts: Sequence[str], vocab_size: int) -> Iterator[str]:
    """The texts with `CUT` between neighbouring non-ASCII characters that seldom stand together.

    GPT-2's rule splits Chinese at punctuation only, so training would hold every clause as a word of its own. A merge
    across two characters is at most as frequent as the pair of them; where the pair is rarer than the last merge that
    the vocabulary has room for, the cut changes nothing but the memory (and fewer tokens join one character to the
    first bytes of the next, which are of no use). The bound is an estimate well below the frequency of that last
    merge, which falls with the size of the vocabulary and grows with that of the text.
    """
    least = max(2, sum(map(_size, texts)) // (50 * vocab_size))
    frequent = _frequent_pairs(texts, least)
    for text in texts:
        if text.isascii():
            yield text
            continue
        characters, pairs, foreign = _pairs(text)
        rare = foreign & ~np.isin(pairs, frequent, assume_unique=False)
        places = np.flatnonzero(rare) + 1
        yield np.insert(characters, places, ord(CUT)).tobytes().decode("utf-32-le")


def _frequent_pairs(texts: Iterable[str], least: int) -> np.ndarray:
    """Codes of the pairs of non-ASCII characters that occur at least `least` times, sorted."""
    known, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    held: list[np.ndarray] = []

    def add() -> None:
        nonlocal known, counts
        new, new_counts = np.unique(np.concatenate(held), return_counts=True)
        known, where = np.unique(np.concatenate([known, new]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([counts, new_counts]), len(known)).astype(np.int64)
        held.clear()

    for text in texts:
        if not text.isascii():
            _, pairs, foreign = _pairs(text)
            held.append(pairs[foreign])
            if sum(map(len, held)) >= _PAIRS_AT_ONCE:
                add()
    if held:
        add()
    return known[counts >= least]


def _pairs(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code points of a text of n characters, n - 1 codes of neighbours, and whether both of a pair are non-ASCII."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    left, right = characters[:-1], characters[1:]
    return characters, (left.astype(np.uint64) << np.uint64(21)) | right, (left >= 128) & (right >= 128)


def _size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))
