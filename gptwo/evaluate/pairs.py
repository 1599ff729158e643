"""The cheap opponent for pairs of texts: words of both, and how they overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gptwo.evaluate.baselines import TfidfLogisticRegression
from gptwo.evaluate.ranking import terms


class PairLogisticRegression(TfidfLogisticRegression):
    """Logistic regression over TF-IDF features of both texts, of what they share, and four figures of overlap.

    Texts are pairs (a, b) here. The features of the second text alone matter: in natural-language inference they
    often give the label away (Gururangan et al. 2018, "Annotation Artifacts in Natural Language Inference Data").

        >>> pairs = [("red cat", "red cat"), ("red cat", "big dog"), ("a dog", "a dog"), ("a dog", "no cat")]
        >>> PairLogisticRegression().fit_predict(pairs, ["1", "0", "1", "0"], [("old car", "old car")]).labels
        ['1']
    """

    name = "TF-IDF of the pair + logistic regression"

    def _features(self, train_texts: Sequence[tuple[str, str]], test_texts: Sequence[tuple[str, str]]):
        both = (train_texts, test_texts)
        found = super()._features(*([a for a, _ in pairs] + [b for _, b in pairs] for pairs in both))
        return found and tuple(pair_features(table, pairs) for table, pairs in zip(found, both, strict=True))


def pair_features(table, pairs: Sequence[tuple[str, str]]):
    """Features of N pairs from those of their texts.

    Args:
        table: sparse (2 N, F): the first texts of all pairs, then the second ones.
        pairs: the texts.

    Returns:
        Sparse (N, 3 F + 4): first texts, second texts, their product, `overlap`.
    """
    from scipy.sparse import csr_matrix, hstack

    first, second = table[: len(pairs)], table[len(pairs) :]
    figures = np.array([overlap(a, b) for a, b in pairs], dtype=float).reshape(-1, 4)
    return hstack([first, second, first.multiply(second), csr_matrix(figures)]).tocsr()


def overlap(first: str, second: str) -> list[float]:
    """How far two texts share their words, also words never seen: share of all, of the first's, of the second's words
    that both have; difference of length. All are 0..1.

    >>> overlap("the old car", "the car")
    [0.6666666666666666, 0.6666666666666666, 1.0, 0.2]
    """
    a, b = set(terms(first)), set(terms(second))
    both = len(a & b)
    shares = [both / max(1, size) for size in (len(a | b), len(a), len(b))]
    return [*shares, abs(len(a) - len(b)) / max(1, len(a) + len(b))]
