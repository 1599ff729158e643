"""How well lists are ranked: reciprocal rank, nDCG, hits; and the cheap opponents, chance and BM25.

Candidates with equal scores are ordered at random (always alike), never as they stand in the file: there the right one
often comes first.

Axis legend: N records, K candidates of a record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from gptwo.evaluate.text_metrics import CJK, segments

HITS = (1, 3, 10)
DEPTH = 10  # candidates that nDCG looks at


def order_of(scores: Sequence[float] | np.ndarray, seed: int = 0) -> np.ndarray:
    """(K,) places of the candidates, the best first; equal scores in a random order that the seed decides."""
    values = np.asarray(scores, dtype=float)
    return np.lexsort((np.random.default_rng((seed, len(values))).permutation(len(values)), -values))


def reciprocal_rank(grades: Sequence[float], order: Sequence[int] | np.ndarray) -> float:
    """1 over the rank of the first relevant candidate, 0 where none is relevant.

    >>> reciprocal_rank([0, 0, 1], [0, 2, 1])
    0.5
    """
    return next((1 / rank for rank, place in enumerate(order, start=1) if grades[place] > 0), 0.0)


def ndcg(grades: Sequence[float], order: Sequence[int] | np.ndarray, depth: int = DEPTH) -> float:
    """Discounted gain of an order over that of the best one, 0 to 1; gains are 2^grade - 1.

    Järvelin and Kekäläinen 2002, with the exponential gains of Burges et al. 2005.

    >>> round(ndcg([0, 1], [0, 1]), 4), ndcg([0, 1], [1, 0])
    (0.6309, 1.0)
    """

    def gain(places: Iterable[int]) -> float:
        return sum((2 ** grades[p] - 1) / math.log2(i + 2) for i, p in enumerate(places) if i < depth)

    best = gain(sorted(range(len(grades)), key=lambda place: -grades[place]))
    return gain(order) / best if best else 0.0


def hit(grades: Sequence[float], order: Sequence[int] | np.ndarray, depth: int) -> float:
    """1 where a relevant candidate is among the first `depth`, else 0."""
    return float(any(grades[place] > 0 for place in order[:depth]))


def ranking_values(
    grades: Sequence[Sequence[float]], scores: Sequence[Sequence[float] | np.ndarray], seed: int = 0
) -> dict[str, np.ndarray]:
    """Every metric for every record: metric to (N,).

    Args:
        grades: relevance of each candidate of each record, 0 is not relevant.
        scores: of the same candidates, more is better.
        seed: with the record's place, decides the order of equal scores.
    """
    orders = [order_of(row, seed + i) for i, row in enumerate(scores)]
    pairs = list(zip(grades, orders, strict=True))
    return {
        "mrr": np.array([reciprocal_rank(*pair) for pair in pairs]),
        f"ndcg_{DEPTH}": np.array([ndcg(*pair) for pair in pairs]),
        **{f"hits_{depth}": np.array([hit(*pair, depth) for pair in pairs]) for depth in HITS},
    }


class BM25:
    """Okapi BM25: how well a text answers a query, by the words they share.

    Chinese texts count by characters and pairs of characters. Robertson and Zaragoza 2009, "The Probabilistic
    Relevance Framework: BM25 and Beyond"; the weight of a word is log(1 + (n - d + 0.5) / (d + 0.5)), never negative.

        >>> BM25(["the cat sat", "the dog ran", "a bird"]).scores("cat", ["the cat sat", "the dog ran"]).round(2)
        array([0.93, 0.  ])

    Args:
        documents: what word frequencies are counted in.
        saturation: k1, how soon further occurrences of a word count less.
        length_weight: b, how much longer texts are held back, 0 to 1.
    """

    def __init__(self, documents: Iterable[str], saturation: float = 1.5, length_weight: float = 0.75):
        self.saturation, self.length_weight = saturation, length_weight
        known = [terms(text) for text in dict.fromkeys(documents)]
        self.frequencies = Counter(term for found in known for term in set(found))
        self.documents = len(known)
        self.mean_length = sum(map(len, known)) / max(1, len(known)) or 1.0

    def scores(self, query: str, candidates: Sequence[str]) -> np.ndarray:
        """(K,) scores of candidates, from 0."""
        wanted = dict.fromkeys(terms(query))
        found = []
        for candidate in candidates:
            words = terms(candidate)
            counts = Counter(words)
            norm = 1 - self.length_weight + self.length_weight * len(words) / self.mean_length
            found.append(
                sum(
                    self.weight(term) * counts[term] * (self.saturation + 1) / (counts[term] + self.saturation * norm)
                    for term in wanted
                    if term in counts
                )
            )
        return np.array(found, dtype=float)

    def weight(self, term: str) -> float:
        """Inverse document frequency of a word."""
        known = self.frequencies[term]
        return math.log(1 + (self.documents - known + 0.5) / (known + 0.5))


def terms(text: str) -> list[str]:
    """What BM25 counts of a text: words, and Chinese characters alone and in pairs.

    >>> terms("The cats 猫坐垫")
    ['the', 'cats', '猫', '坐', '垫', '猫坐', '坐垫']
    """
    words = segments(text)
    chinese = [bool(CJK.match(word)) for word in words]
    return words + [words[i] + words[i + 1] for i in range(len(words) - 1) if chinese[i] and chinese[i + 1]]


def random_scores(sizes: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Scores by chance for lists of these sizes."""
    generator = np.random.default_rng(seed)
    return [generator.random(size) for size in sizes]
