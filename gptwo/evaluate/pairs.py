"""The cheap opponent for pairs of texts: words of both, and how they overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gptwo.evaluate.baselines import TfidfLogisticRegression


class PairLogisticRegression(TfidfLogisticRegression):
    """Logistic regression over TF-IDF features of both texts, of what they share, and four figures of overlap.

    Texts are pairs (a, b) here. The features of the second text alone matter: in natural-language inference they
    often give the label away (Gururangan et al. 2018, "Annotation Artifacts in Natural Language Inference Data").

        >>> pairs = [("red cat", "red cat"), ("red cat", "big dog"), ("a dog", "a dog"), ("a dog", "no cat")]
        >>> PairLogisticRegression().fit_predict(pairs, ["1", "0", "1", "0"], [("old car", "old car")]).labels
        ['1']
    """

    name = "TF-IDF of the pair + logistic regression"

    def _features(self, train_texts: Sequence[tuple[str, str]], test_texts: Sequence[tuple[str, str]]):  # type: ignore[override]
        sides = [[a for a, _ in pairs] + [b for _, b in pairs] for pairs in (train_texts, test_texts)]
        found = super()._features(*sides)
        return None if found is None else tuple(pair_features(table) for table in found)


def pair_features(table):
    """Features of N pairs from those of their texts.

    Args:
        table: sparse (2 N, F): the first texts of all pairs, then the second ones.

    Returns:
        Sparse (N, 3 F + 4): first texts, second texts, their product; cosine, share of each text's features that
        the other has, difference of length.
    """
    from scipy.sparse import csr_matrix, hstack

    half = table.shape[0] // 2
    first, second = table[:half], table[half:]
    shared = first.multiply(second)
    sizes = [np.asarray((side > 0).sum(1), dtype=float).ravel() for side in (first, second)]
    common = np.asarray((shared > 0).sum(1), dtype=float).ravel()
    overlap = np.stack(
        [
            np.asarray(shared.sum(1)).ravel(),
            common / np.maximum(1, sizes[0]),
            common / np.maximum(1, sizes[1]),
            np.abs(sizes[0] - sizes[1]) / np.maximum(1, sizes[0] + sizes[1]),
        ],
        axis=1,
    )
    return hstack([first, second, shared, csr_matrix(overlap)]).tocsr()
