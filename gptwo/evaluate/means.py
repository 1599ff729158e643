"""Reports on figures that are means over records: how well each list was ranked, each question answered.

>>> report = assess_means(
...     title="Idioms", task="choice", primary="accuracy",
...     measured={"Tuned": {"accuracy": [1, 1, 0]}, "Longest choice": {"accuracy": [0, 1, 0]}},
... )
>>> round(report.tuned.value("accuracy"), 3), report.comparisons[0].test
(0.667, 'exact McNemar')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptwo.evaluate.assess import BEFORE, TUNED, Sampling, check_systems, compare_right, role_of
from gptwo.evaluate.report import Example, Report, System
from gptwo.evaluate.slices import Slices, cut_up
from gptwo.evaluate.statistics import Comparison, share_of_sums
from gptwo.evaluate.worst import WORST


def assess_means(
    *,
    title: str,
    task: str,
    measured: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
    primary: str,
    predictions: Mapping[str, list] | None = None,
    texts: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    tuned: str = TUNED,
    before: str = BEFORE,
    sampling: Sampling = Sampling(),
    **fields: Any,
) -> Report:
    """Report on systems by the value that each metric has for each record.

    A metric that is 0 or 1 for every record is compared by the exact McNemar test, any other by the paired bootstrap.

    Args:
        measured: system name to metric to N values, one for each record; the figure is their mean.
        primary: the metric that decides.
        predictions: what the systems said, for report.json.
        texts, labels: of the N records, by which the primary metric is cut into parts; None: it is not.
        Other arguments as in `assess_classification`.
    """
    check_systems(measured, tuned)
    values = {
        name: {key: np.asarray(column, dtype=float) for key, column in columns.items()}
        for name, columns in measured.items()
    }
    systems = [
        System(
            name,
            {key: sampling.mean(column) for key, column in columns.items()},
            role_of(name, tuned, before),
            (predictions or {}).get(name),
        )
        for name, columns in values.items()
    ]
    comparisons = [
        compare_means(tuned, name, key, values[tuned][key], column, sampling)
        for name, columns in values.items()
        if name != tuned
        for key, column in columns.items()
        if key in values[tuned]
    ]
    return Report(
        **{
            "title": title,
            "task": task,
            "primary": primary,
            "systems": systems,
            "records": len(values[tuned][primary]),
            "comparisons": comparisons,
            "slices": None if texts is None else _parts(values, primary, texts, labels),
            **fields,
        }
    )


def _parts(
    values: Mapping[str, Mapping[str, np.ndarray]], key: str, texts: Sequence[str], labels: Sequence[str] | None
) -> Slices | None:
    """The mean of a value on parts of the test set."""
    rows = {name: np.stack([one[key], np.ones(len(texts))], axis=1) for name, one in values.items() if key in one}
    return cut_up(key, rows, share_of_sums, texts=texts, labels=labels)


def compare_means(
    name: str, other: str, key: str, values: np.ndarray, other_values: np.ndarray, sampling: Sampling
) -> Comparison:
    """Two systems by the mean of a value for each record."""
    if not (set(np.unique(values)) | set(np.unique(other_values))) - {0.0, 1.0}:
        return compare_right(name, other, key, values.astype(int), other_values.astype(int), sampling)
    difference, p_value = sampling.paired(values[:, None], lambda sums: sums[:, 0] / len(values), other_values[:, None])
    return Comparison(name, other, key, difference, p_value, "paired bootstrap")


def worst_means(
    texts: Sequence[str],
    gold: Sequence[str],
    said: Sequence[str],
    values: Sequence[float],
    *,
    confidences: Sequence[float] | None = None,
    sources: Sequence[tuple[str, int]] | None = None,
    count: int = WORST,
) -> list[Example]:
    """The records with the lowest value (those of 1 are right), and of equal ones the surest, first."""
    sure = confidences if confidences is not None else [0.0] * len(texts)
    order = sorted((n for n in range(len(texts)) if values[n] < 1), key=lambda n: (values[n], -sure[n]))
    return [
        Example(
            texts[n],
            gold[n],
            said[n],
            None if confidences is None else float(confidences[n]),
            *(sources[n] if sources else ("", n + 1)),
        )
        for n in order[:count]
    ]
