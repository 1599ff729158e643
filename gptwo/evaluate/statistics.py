"""How sure a measured number is: bootstrap intervals, paired differences, and the exact McNemar test.

Resampling N records with replacement only changes how often each record counts, and records with equal counts are
interchangeable. So a resample is one draw of a multinomial over the distinct records, and a whole bootstrap is a
matrix product: (resamples, distinct) @ (distinct, counts).

Axis legend: N records, U distinct rows, C counts, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 8_000_000  # numbers held at once while resampling (64 MB)


@dataclass
class Interval:
    """A measured value and its interval; `low` and `high` are None where no interval was computed."""

    value: float
    low: float | None = None
    high: float | None = None
    level: float = LEVEL

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)


@dataclass
class Comparison:
    """Two systems on the same test set.

    Args:
        system, other: names of the systems; the difference is system − other.
        metric: key of the metric, e.g. "accuracy".
        difference: interval of the difference, in the metric's own unit: paired bootstrap, or Student's over runs.
        p_value: of `test`, two-sided.
        test: "exact McNemar", "paired bootstrap" or "paired t".
        only_system, only_other: records that only one of the two got right (McNemar).
    """

    system: str
    other: str
    metric: str
    difference: Interval
    p_value: float | None = None
    test: str = ""
    only_system: int | None = None
    only_other: int | None = None

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> Comparison:
        """The inverse of `to_dict`."""
        return cls(**{**value, "difference": Interval(**value["difference"])})


def collapse(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal rows of `codes` (N,) or (N, C) once: (distinct (U, …), how often each occurs (U,))."""
    return np.unique(codes, axis=0, return_counts=True)


def _distinct(rows: np.ndarray, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows with their weights; narrow rows that came without weights are collapsed first."""
    if weights is not None:
        return rows, np.asarray(weights, dtype=float)
    if len(rows) > 500 and rows.shape[1] <= 16:
        rows, counts = collapse(rows)
        return rows, counts.astype(float)
    return rows, np.ones(len(rows))


def resampled_sums(rows: np.ndarray, weights: np.ndarray | None, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums over resampled records, in chunks of shape (r, C); all chunks together hold `resamples` rows."""
    rows = np.asarray(rows, dtype=float)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
    total = int(weights.sum())
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS // max(1, len(rows)))
    for start in range(0, resamples, chunk):
        draws = generator.multinomial(total, weights / total, size=min(chunk, resamples - start))
        yield draws.astype(float) @ rows


def bootstrap(
    rows: Any,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    weights: Any = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of summed counts.

    Args:
        rows: (U, C) counts of each record, or of each distinct record.
        statistic: maps sums (R, C) to values (R,); e.g. `f1_of_sums`.
        weights: (U,) how many records have each row; default 1.
        level: 0..1.
        seed: of the generator; equal seeds give equal intervals.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    rows, counts = _distinct(np.asarray(rows, dtype=float), weights)
    if not len(rows):
        return Interval(float("nan"), None, None, level)
    value = float(statistic((counts @ rows)[None])[0])
    draws = np.concatenate([statistic(sums) for sums in resampled_sums(rows, counts, resamples=resamples, seed=seed)])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean, e.g. of the log-losses or the right answers (0 or 1) of N records."""
    values = np.asarray(values, dtype=float)
    if not len(values):
        return Interval(float("nan"), None, None, level)
    distinct, weights = collapse(values)
    if len(distinct) > 5000:  # many distinct values: drawing records directly is cheaper than a wide multinomial
        return _bootstrap_mean_direct(values, resamples, level, seed)
    return bootstrap(
        distinct[:, None],
        lambda sums: sums[:, 0] / len(values),
        weights=weights,
        resamples=resamples,
        level=level,
        seed=seed,
    )


def _bootstrap_mean_direct(values: np.ndarray, resamples: int, level: float, seed: int) -> Interval:
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS // len(values))
    draws = np.concatenate(
        [
            values[generator.integers(len(values), size=(min(chunk, resamples - start), len(values)))].mean(1)
            for start in range(0, resamples, chunk)
        ]
    )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level)


def paired_bootstrap(
    rows: Any,
    statistic: Callable[[np.ndarray], np.ndarray],
    other_rows: Any,
    *,
    weights: Any = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Interval of statistic(rows) − statistic(other_rows), both resampled alike, and a two-sided p-value.

    The p-value is twice the smaller share of resamples on one side of 0, counting the observed one
    (so never below 2 / (resamples + 1)).
    """
    rows, other_rows = np.asarray(rows, dtype=float), np.asarray(other_rows, dtype=float)
    width = rows.shape[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[:, :width]) - statistic(sums[:, width:])

    both, counts = _distinct(np.concatenate([rows, other_rows], axis=1), weights)
    if not len(both):
        return Interval(float("nan"), None, None, level), 1.0
    sums = resampled_sums(both, counts, resamples=resamples, seed=seed)
    draws = np.concatenate([difference(chunk) for chunk in sums])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    smaller = min((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, 2 * (int(smaller) + 1) / (resamples + 1))
    return Interval(float(difference((counts @ both)[None])[0]), float(low), float(high), level), p_value


def mcnemar(correct: Sequence[bool], other_correct: Sequence[bool]) -> tuple[int, int, float]:
    """Exact McNemar test: (only the first right, only the other right, two-sided p-value).

    Under the null hypothesis the records that only one system gets right are fair coin tosses, so the p-value is a
    binomial tail. McNemar 1947, https://doi.org/10.1007/BF02295996
    """
    first, second = np.asarray(correct, dtype=bool), np.asarray(other_correct, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    if tosses == 0:
        return 0, 0, 1.0
    from scipy.special import bdtr

    return only_first, only_second, float(min(1.0, 2 * bdtr(fewer, tosses, 0.5)))


def compare_runs(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Interval, float | None]:
    """Mean difference of two systems over runs in pairs, with Student's interval and p-value; none of a single run.

    Gosset ("Student") 1908, https://doi.org/10.1093/biomet/6.1.1
    """
    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    mean, count = float(difference.mean()), len(difference)
    if count < 2:
        return Interval(mean), None
    from scipy import stats

    error = float(difference.std(ddof=1)) / count**0.5
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Interval(mean, mean - reach, mean + reach), p_value


def f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """Micro F1 (R,) of summed counts (R, 3 K): K classes, for each the correct, predicted and gold items."""
    correct, predicted, gold = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    return _share(2 * correct.sum(1), predicted.sum(1) + gold.sum(1))


def macro_f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """Macro F1 (R,) of summed counts (R, 3 K): the mean over the classes that occur in gold or predicted."""
    correct, predicted, gold = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    occurs = (predicted + gold) > 0
    return _share(_share(2 * correct, predicted + gold).sum(1), occurs.sum(1))


def share_of_sums(sums: np.ndarray) -> np.ndarray:
    """First summed count divided by the second (R,): accuracy, precision, recall, or a mean with its weights."""
    return _share(sums[:, 0], sums[:, 1])


def _share(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator), dtype=float), where=denominator != 0)
