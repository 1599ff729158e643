"""How far off ordered labels are: quadratic kappa and the mean distance; and how much of a path is right.

Axis legend: N records, K classes in order, R rows of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def quadratic_kappa_of_sums(classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Cohen's kappa with quadratic weights, as a function of confusion counts (R, K * K).

    1 is agreement, 0 what chance with the same shares gives. Cohen 1968, https://doi.org/10.1037/h0026256
    """
    place = np.arange(classes)
    weights = (place[:, None] - place[None, :]) ** 2.0

    def kappa(sums: np.ndarray) -> np.ndarray:
        table = sums.reshape(len(sums), classes, classes)
        total = np.maximum(table.sum((1, 2)), 1e-12)
        chance = table.sum(2)[:, :, None] * table.sum(1)[:, None, :] / total[:, None, None]
        expected = (weights * chance).sum((1, 2))
        observed = (weights * table).sum((1, 2))
        return 1 - np.divide(observed, expected, out=np.zeros_like(observed), where=expected > 0)

    return kappa


def confusion_rows(gold: Sequence[int], said: Sequence[int], classes: int) -> np.ndarray:
    """(N, K * K) for each record a 1 at its pair of classes."""
    return np.eye(classes * classes)[np.asarray(gold, dtype=int) * classes + np.asarray(said, dtype=int)]


def path_rows(gold: Sequence[str], said: Sequence[str], separator: str) -> np.ndarray:
    """(N, 3) for each record the steps of its path that are right, that were said, that there are.

    Their F1 is the hierarchical F1 of Kiritchenko et al. 2006, "Learning and Evaluation in the Presence of Class
    Hierarchies".

    >>> path_rows(["a/b/c"], ["a/x"], "/").tolist()
    [[1, 2, 3]]
    """
    rows = []
    for pair in zip(gold, said, strict=True):
        truth, guess = (path.split(separator) for path in pair)
        same = 0
        while same < min(len(truth), len(guess)) and truth[same] == guess[same]:
            same += 1
        rows.append([same, len(guess), len(truth)])
    return np.array(rows).reshape(-1, 3)
