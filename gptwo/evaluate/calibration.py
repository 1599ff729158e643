"""Confidence that means what it says: temperature scaling, and a threshold below which a model abstains.

Axis legend: N records, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 20  # validation records that a temperature is fitted on at least
KEPT = 10  # records above a threshold at least: the share of fewer says little
LOWEST, HIGHEST = 0.05, 20.0  # temperatures
TINY = 1e-12


@dataclass
class Scaling:
    """A fitted temperature and what it changed.

    Args:
        temperature: scores are divided by it; above 1 the network was too sure of itself.
        records: validation records it was fitted on.
        ece_before, ece_after: expected calibration error on the test set, 0..1.
    """

    temperature: float
    records: int
    ece_before: float | None = None
    ece_after: float | None = None


@dataclass
class Abstention:
    """A threshold chosen on the validation data, and how it does on the test set.

    Args:
        target: the precision that was asked for, 0..1.
        threshold: least confidence of a prediction that is not withheld; None: none reaches the target.
        precision: share of right predictions among those not withheld, on the test set.
        coverage: share of predictions not withheld, on the test set.
        records: test records.
    """

    target: float
    threshold: float | None
    precision: float | None = None
    coverage: float | None = None
    records: int = 0


def tempered(probabilities: np.ndarray, temperature: float, *, independent: bool = False) -> np.ndarray:
    """Probabilities as if the scores behind them had been divided by a temperature.

    Args:
        probabilities: (N, K), from a softmax, or from K sigmoids where `independent`.

    Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, section 4.2.
    """
    table = np.asarray(probabilities, dtype=float)
    if temperature == 1.0 or not table.size:
        return table
    if independent:
        clipped = np.clip(table, TINY, 1 - TINY)
        return 1 / (1 + np.exp(-(np.log(clipped) - np.log1p(-clipped)) / temperature))
    scores = np.log(np.clip(table, 1e-300, 1.0)) / temperature
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray, *, independent: bool = False) -> float:
    """The temperature, 0.05 to 20, at which validation records are least surprising.

    The targets are smoothed by 1 / (N + 2), as in Platt 1999 ("Probabilistic Outputs for Support Vector Machines"):
    where every validation record is right, the temperature would fall without end.

    Args:
        probabilities: (N, K).
        truth: (N,) gold classes, or (N, K) booleans where `independent`.
    """
    from scipy.optimize import minimize_scalar

    table, truth = np.asarray(probabilities, dtype=float), np.asarray(truth)
    smoothing = 1 / (len(table) + 2)
    if independent:
        target = np.where(truth, 1 - smoothing, smoothing)
    else:
        target = np.full(table.shape, smoothing / max(1, table.shape[1] - 1))
        target[np.arange(len(table)), truth] = 1 - smoothing

    def cost(logarithm: float) -> float:
        said = np.clip(tempered(table, float(np.exp(logarithm)), independent=independent), TINY, 1 - TINY)
        losses = target * np.log(said)
        if independent:
            losses = losses + (1 - target) * np.log1p(-said)
        return -float(losses.sum(1).mean())

    found = minimize_scalar(cost, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def choose_threshold(confidence: Sequence[float], correct: Sequence[bool], precision: float) -> float | None:
    """The lowest confidence from which on a share of at least `precision` is right; 0 where all together are.

    Args:
        confidence: N probabilities of what was predicted.
        correct: whether it was right.
        precision: 0..1.

    Returns:
        None where no threshold that keeps ten records reaches it.

    >>> choose_threshold([0.9] * 10 + [0.6] * 10, [True] * 10 + [False] * 10, 0.9)
    0.9
    """
    sure, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    order = np.argsort(-sure, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.append(np.diff(sure[order]) != 0, True))  # equal confidences are kept together
    good = [int(end) for end in ends if end + 1 >= KEPT and shares[end] >= precision]
    if not good:
        return None
    return 0.0 if good[-1] == len(order) - 1 else float(sure[order][good[-1]])


def judge_threshold(
    confidence: Sequence[float], correct: Sequence[bool], target: float, threshold: float | None
) -> Abstention:
    """How a threshold does on other records."""
    sure, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=bool)
    if threshold is None or not len(sure):
        return Abstention(target, threshold, records=len(sure))
    kept = sure >= threshold
    precision = float(right[kept].mean()) if kept.any() else None
    return Abstention(target, threshold, precision, float(kept.mean()), len(sure))
