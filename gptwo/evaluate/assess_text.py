"""From figures of written texts to a `Report`: intervals, comparisons, and the texts that are furthest from right.

    >>> report = assess_texts(
    ...     title="Captions", task="translate", primary="chrf",
    ...     figures={"Tuned": {"chrf": mean_of([60.0, 40.0])}, "Copy of the source": {"chrf": mean_of([10.0, 20.0])}},
    ...     texts={"Tuned": ["ein Hund", "ein Mann"], "Copy of the source": ["a dog", "a man"]},
    ...     sources=["a dog", "a man"], references=[["ein Hund"], ["der Mann"]],
    ... )
    >>> report.tuned.value("chrf"), report.worst[0].gold
    (50.0, 'der Mann')

Axis legend: N records, C counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptwo.evaluate import statistics
from gptwo.evaluate.assess import BEFORE, TUNED, Sampling, check_systems, role_of
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.report import Example, Report, Sample, System
from gptwo.evaluate.slices import Slices, cut_up
from gptwo.evaluate.statistics import Comparison
from gptwo.evaluate.worst import WORST

SHOWN = 3  # records whose texts the report shows beside each other


@dataclass(frozen=True)
class Counted:
    """A figure of a test set.

    Args:
        rows: (N, C) counts of each record.
        statistic: what sums (R, C) of them mean, (R,).
        right: every row is (0 or 1, 1), so that two systems can be compared by McNemar's test.
    """

    rows: np.ndarray
    statistic: Callable[[np.ndarray], np.ndarray]
    right: bool = False

    @property
    def value(self) -> float:
        """The figure of the whole test set; NaN without records."""
        return float(self.statistic(self.rows.sum(0)[None])[0]) if len(self.rows) else float("nan")

    @property
    def each(self) -> np.ndarray:
        """(N,) the figure of each record by itself."""
        return self.statistic(self.rows)


def mean_of(values: Sequence[float] | np.ndarray, weights: Any = None, *, right: bool = False) -> Counted:
    """The mean of N values, of those with a weight where some do not count."""
    values = np.asarray(values, dtype=float)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    return Counted(np.stack([values * counts, counts], axis=1), statistics.share_of_sums, right and weights is None)


def perplexity_of(costs: np.ndarray) -> Counted:
    """Perplexity per token from (N, 2) nats and tokens."""
    return Counted(np.asarray(costs, dtype=float), perplexity_of_sums)


def perplexity_of_sums(sums: np.ndarray) -> np.ndarray:
    """exp(nats / tokens) (R,) of summed nats and tokens (R, 2); bounded by what a float holds."""
    return np.exp(np.minimum(statistics.share_of_sums(sums), 700.0))


def assess_texts(
    *,
    title: str,
    task: str,
    primary: str,
    figures: Mapping[str, Mapping[str, Counted | float]],
    texts: Mapping[str, Sequence[str]],
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    places: Sequence[tuple[str, int]] | None = None,
    labels: Sequence[str] | None = None,
    worst_by: str | None = None,
    tuned: str = TUNED,
    before: str = BEFORE,
    sampling: Sampling = Sampling(),
    **fields: Any,
) -> Report:
    """Report on a task that writes.

    Args:
        figures: system to metric key to its figure; a plain number gets no interval. A system may lack metrics.
        texts: system to the N texts it wrote.
        sources: N texts as the reader knows the records by.
        references: the right texts of each; none where there is no answer.
        places: (file, row) of each record.
        labels: of the N records, by which the test set is cut into parts, beside length and writing of the sources.
        worst_by: metric by which the worst texts are found; default the primary one.
        fields: further fields of `Report`.
    """
    check_systems(dict(figures), tuned)
    systems, comparisons = [], []
    for name, measured in figures.items():
        values = {
            key: sampling.bootstrap(one.rows, one.statistic) if isinstance(one, Counted) else one
            for key, one in measured.items()
        }
        systems.append(System(name, values, role_of(name, tuned, before), list(texts[name])))
        if name != tuned:
            comparisons += [
                _compare(tuned, name, key, figures[tuned][key], one, sampling)
                for key, one in measured.items()
                if isinstance(one, Counted) and isinstance(figures[tuned].get(key), Counted)
            ]
    places = places or [("", i) for i in range(1, len(sources) + 1)]
    fields["samples"] = fields.get("samples") or _samples(sources, references, texts, (before, tuned))
    return Report(
        **{
            "title": title,
            "task": task,
            "primary": primary,
            "systems": systems,
            "records": len(sources),
            "comparisons": comparisons,
            "slices": _parts(figures, primary, sources, labels),
            "worst": _worst(figures[tuned], worst_by or primary, sources, references, texts[tuned], places),
            **fields,
        }
    )


def _parts(
    figures: Mapping[str, Mapping[str, Counted | float]],
    key: str,
    sources: Sequence[str],
    labels: Sequence[str] | None,
) -> Slices | None:
    """A figure that is made of counts of each record, on parts of the test set."""
    counted = {name: one[key] for name, one in figures.items() if isinstance(one.get(key), Counted)}
    if not counted:
        return None
    rows = {name: one.rows for name, one in counted.items() if isinstance(one, Counted)}
    statistic = next(one.statistic for one in counted.values() if isinstance(one, Counted))
    return cut_up(key, rows, statistic, texts=sources, labels=labels)


def _compare(tuned: str, name: str, key: str, ours: Any, theirs: Any, sampling: Sampling) -> Comparison:
    difference, p_value = sampling.paired(ours.rows, ours.statistic, theirs.rows)
    if not (ours.right and theirs.right):
        return Comparison(tuned, name, key, difference, p_value, "paired bootstrap")
    only, only_other, p_value = statistics.mcnemar(ours.rows[:, 0] == 1, theirs.rows[:, 0] == 1)
    return Comparison(tuned, name, key, difference, p_value, "exact McNemar", only, only_other)


def _worst(
    figures: Mapping[str, Counted | float],
    key: str,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    texts: Sequence[str],
    places: Sequence[tuple[str, int]],
) -> list[Example]:
    """Texts that are no reference, the furthest first."""
    found = figures.get(key)
    rank = found.each if isinstance(found, Counted) else np.zeros(len(texts))
    rank = rank if metric_name(key).higher_is_better else -rank
    wrong = [i for i, text in enumerate(texts) if text not in (references[i] or [""])]
    return [
        Example(sources[i], _shown(references[i]), texts[i] or "(nothing)", None, *places[i])
        for i in sorted(wrong, key=lambda i: rank[i])[:WORST]
    ]


def _samples(
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    texts: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> list[Sample]:
    """The first records with the reference and what the systems wrote."""
    return [
        Sample(f"{source}\n", text, system)
        for i, source in enumerate(sources[:SHOWN])
        for system, text in [
            ("Reference", _shown(references[i])),
            *((name, texts[name][i] or "(nothing)") for name in names if name in texts),
        ]
    ]


def _shown(references: Sequence[str]) -> str:
    return " ‖ ".join(references) or "(no answer)"
