"""Equal and nearly equal texts: duplicates, texts with two labels, test texts that stand in the training data.

Nearly equal means a Jaccard similarity of character shingles of at least `NEAR`. Candidates come from MinHash
signatures (one permutation, https://arxiv.org/abs/1406.4784) in bands; every candidate is then compared exactly.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from gptwo.data.finding import Finding, Item, places
from gptwo.errors import amount

NEAR = 0.8
LEAKAGE_ERROR = 0.01
BINS, ROWS_PER_BAND = 64, 4
COMPARED_CHARACTERS = 2000
MAX_TEXTS, MAX_PAIRS = 200_000, 500_000
_SPACE = re.compile(r"\s+")
_IDEOGRAPHS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")


def normalised(text: str) -> str:
    """The text without differences of case, of character width and of white space."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


def duplicate_findings(items: Sequence[Item]) -> list[Finding]:
    """Duplicates within a split, equal texts with different labels, and leakage between the splits."""
    keys = [normalised(item.text) for item in items]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        if key:
            groups[key].append(index)
    repeated = [group for group in groups.values() if len(group) > 1]
    findings = [*_same_text(items, repeated), *_leaked(items, repeated)]
    findings += _near(items, *_near_items(items, keys))
    return findings


def _near_items(items: Sequence[Item], keys: Sequence[str]) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of nearly equal records, the equal ones left out, and whether all were compared.

    One record stands for its equals of the same split. The test records come first, so that the bound on the number
    of texts cuts off training records.
    """
    firsts: dict[tuple[str, str], int] = {}
    for index, item in enumerate(items):
        if keys[index]:
            firsts.setdefault((item.split, keys[index]), index)
    order = sorted(firsts.values(), key=lambda index: ("test", "valid", "train").index(items[index].split))
    pairs, complete = near_pairs([keys[index] for index in order])
    found = [(order[a], order[b]) for a, b in pairs if keys[order[a]] != keys[order[b]]]
    return sorted((min(pair), max(pair)) for pair in found), complete


def _same_text(items: Sequence[Item], repeated: list[list[int]]) -> Iterator[Finding]:
    again, conflicting, conflicts = [], [], 0
    for group in repeated:
        seen = set()
        for index in group:
            if items[index].split in seen:
                again.append(index)
            seen.add(items[index].split)
        if len({items[index].labels for index in group}) > 1:
            conflicts += 1
            conflicting += [items[index] for index in group]
    extra = [items[index] for index in sorted(again)]
    if extra:
        yield Finding(
            "duplicates",
            "warning",
            f"{amount(len(extra), 'record')} repeat a text of their own split (case, width and spaces aside)",
            len(extra),
            places(extra),
            "Keep one of each, unless the repetition is meant as a weight.",
        )
    if conflicting:
        yield Finding(
            "conflicting-labels",
            "warning",
            f"{amount(conflicts, 'text')} carry different labels in different records",
            len(conflicting),
            places(conflicting),
            "Decide on one label for each, or drop them: no model can learn both.",
            {"texts": conflicts},
        )


def _leaked(items: Sequence[Item], repeated: list[list[int]]) -> Iterator[Finding]:
    for split in ("test", "valid"):
        total = sum(item.split == split for item in items)
        found = [
            index
            for group in repeated
            if any(items[index].split == "train" for index in group)
            for index in group
            if items[index].split == split
        ]
        leaked = [items[index] for index in sorted(found)]
        if leaked:
            yield Finding(
                "leakage",
                "error" if len(leaked) >= LEAKAGE_ERROR * total else "warning",
                f"{amount(len(leaked), split + ' record')} ({len(leaked) / total:.1%}) stand in the training data too",
                len(leaked),
                places(leaked),
                f"Remove them from the training data, or from the {split} data; the measured quality is too good else.",
                {"split": split, "share": len(leaked) / total},
            )


def _near(items: Sequence[Item], pairs: list[tuple[int, int]], complete: bool) -> Iterator[Finding]:
    least = "" if complete else "at least "
    for split in ("train", "valid", "test"):
        later = sorted({max(a, b) for a, b in pairs if items[a].split == items[b].split == split})
        if later:
            yield Finding(
                "near-duplicates",
                "info" if split == "train" else "warning",
                f"{least}{amount(len(later), split + ' record')} differ from another one by a few characters",
                len(later),
                _pair_places(items, [(a, b) for a, b in pairs if items[a].split == items[b].split == split]),
                "Look whether they are copies; if so, keep one of each.",
            )
    for split in ("test", "valid"):
        across = [(a, b) if items[a].split == split else (b, a) for a, b in pairs]
        across = [(a, b) for a, b in across if items[a].split == split and items[b].split == "train"]
        if across:
            count, total = len({a for a, _ in across}), sum(item.split == split for item in items)
            yield Finding(
                "near-leakage",
                "warning",
                f"{least}{amount(count, split + ' record')} ({count / total:.1%}) nearly stand in the training data",
                count,
                _pair_places(items, across),
                "Look at them; remove what is the same record with small edits.",
                {"split": split, "share": count / total},
            )


def _pair_places(items: Sequence[Item], pairs: list[tuple[int, int]]) -> list[str]:
    return [f"{items[a].place} ~ {items[b].place}" for a, b in pairs[:10]]


def near_pairs(texts: Sequence[str], threshold: float = NEAR) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of indices of nearly equal texts, and whether all texts and candidates were looked at.

    Args:
        texts: normalised texts; of each the first 2,000 characters are compared.
        threshold: least Jaccard similarity of the shingles (5 characters, 3 in texts of Chinese characters).

    Texts beyond the first 200,000 and candidates beyond the first 500,000 are not compared, which bounds the time.
    A pair at similarity 0.8 is found with a probability of 99.9 %.
    """
    complete = len(texts) <= MAX_TEXTS
    shingles = [_shingles(text[:COMPARED_CHARACTERS]) for text in texts[:MAX_TEXTS]]
    signatures = _signatures(shingles)
    found: set[tuple[int, int]] = set()
    compared: set[tuple[int, int]] = set()
    for band in range(0, BINS, ROWS_PER_BAND):
        part = np.ascontiguousarray(signatures[:, band : band + ROWS_PER_BAND])
        keys = part.view(np.dtype((np.void, part.dtype.itemsize * ROWS_PER_BAND))).ravel()
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(counts)
        for bucket_number in np.flatnonzero(counts > 1).tolist():
            end = int(ends[bucket_number])
            bucket = order[end - int(counts[bucket_number]) : end].tolist()
            # in a bucket each is compared with the one before it and with the first, not all with all
            for pair in {*pairwise(bucket), *((bucket[0], other) for other in bucket[1:])}:
                if pair in compared:
                    continue
                if len(compared) >= MAX_PAIRS:
                    return sorted(found), False
                compared.add(pair)
                a, b = shingles[pair[0]], shingles[pair[1]]
                if min(len(a), len(b)) < threshold * max(len(a), len(b)) or not len(a):
                    continue
                common = len(np.intersect1d(a, b, assume_unique=True))
                if common >= threshold * (len(a) + len(b) - common):
                    found.add(pair)
    return sorted(found), complete


def _shingles(text: str) -> np.ndarray:
    """Distinct 64-bit hashes of the character n-grams of a text, sorted."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    width = 3 if len(_IDEOGRAPHS.findall(text)) > 0.3 * len(text) else 5
    if len(codes) < width:
        return np.empty(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        value = np.full(len(codes) - width + 1, width, dtype=np.uint64)
        for place in range(width):
            value = value * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + len(value)]
        value ^= value >> np.uint64(31)  # the mixing steps of splitmix64
        value *= np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(27)
        value *= np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return np.unique(value)


def _signatures(shingles: Sequence[np.ndarray]) -> np.ndarray:
    """(texts, BINS) one-permutation MinHash; an empty bin takes the value of the next full one, rotated.

    Texts without shingles get signatures that equal no other.
    """
    full = np.uint64(np.iinfo(np.uint64).max)
    signatures = np.full((len(shingles), BINS), full, dtype=np.uint64)
    shift = np.uint64(64 - 6)
    for row, values in zip(signatures, shingles, strict=True):
        np.minimum.at(row, (values >> shift).astype(np.intp), values)
    steps = np.zeros(signatures.shape, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(BINS - 1):
            empty = signatures == full
            if not empty.any():
                break
            steps[empty] = np.roll(steps, -1, axis=1)[empty] + np.uint64(1)
            signatures[empty] = np.roll(signatures, -1, axis=1)[empty]
        signatures += steps * np.uint64(0x9E3779B97F4A7C15)
        none = np.array([len(values) == 0 for values in shingles], dtype=bool)
        signatures[none] = np.flatnonzero(none).astype(np.uint64)[:, None]
    return signatures
