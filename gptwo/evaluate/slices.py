"""Where a system is weak: the deciding figure on parts of the test set, by length, by writing, by label.

Axis legend: N records, C counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gptwo.evaluate import statistics
from gptwo.evaluate.baselines import cjk_share
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.statistics import Interval

FEWEST = 40  # records of a test set that is worth cutting up
SMALLEST = 5  # records of a part
MOST_LABELS = 12
CJK, MIXED, OTHER = "Chinese, Japanese, Korean", "mixed writing", "other writing"


@dataclass
class Slice:
    """A part of the test set.

    Args:
        kind: what it was cut by: "length", "writing" or "label".
        name: of the part.
        records: how many lie in it.
        values: system name to the figure on these records.
    """

    kind: str
    name: str
    records: int
    values: dict[str, Interval]


@dataclass
class Slices:
    """Parts of the test set, and the metric that is measured on each."""

    metric: str
    rows: list[Slice] = field(default_factory=list)

    @classmethod
    def from_dict(cls, value: dict) -> Slices:
        """The inverse of `report.plain`."""
        rows = [
            Slice(**{**row, "values": {name: _interval(found) for name, found in row["values"].items()}})
            for row in value["rows"]
        ]
        return cls(value["metric"], rows)

    def weakest(self, system: str, whole: float) -> list[Slice]:
        """The parts on which a system is surely worse than on the whole, the worst first."""
        sign = 1 if metric_name(self.metric).higher_is_better else -1
        found = []
        for row in self.rows:
            value = row.values.get(system)
            nearest = None if value is None else value.high if sign > 0 else value.low
            if nearest is not None and sign * nearest < sign * whole:
                found.append(row)
        return sorted(found, key=lambda row: sign * row.values[system].value)


def cut_up(
    metric: str,
    rows: Mapping[str, np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    texts: Sequence[str | Sequence[str]],
    labels: Sequence[str] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Slices | None:
    """The figure of every system on the parts of the test set; None where it has too few records.

    Args:
        metric: key of the figure.
        rows: system name to (N, C) counts of each record.
        statistic: maps summed counts (R, C) to values (R,), e.g. `statistics.share_of_sums`.
        texts: N texts, or lists of tokens, whose lengths are counted.
        labels: N gold labels.
    """
    if len(texts) < FEWEST:
        return None
    words = [text if isinstance(text, str) else " ".join(text) for text in texts]
    kinds = {"length": by_length(texts), "writing": by_writing(words)}
    if labels is not None:
        kinds["label"] = by_label(labels)
    found = []
    for kind, names in kinds.items():
        for name in dict.fromkeys(sorted(filter(None, names), key=_order(kind, names))):
            chosen = np.array([one == name for one in names])
            if SMALLEST <= chosen.sum() < len(texts):
                values = {
                    system: statistics.bootstrap(counts[chosen], statistic, resamples=resamples, seed=seed)
                    for system, counts in rows.items()
                }
                found.append(Slice(kind, name.partition("\t")[2] or name, int(chosen.sum()), values))
    return Slices(metric, found) if found else None


def by_length(texts: Sequence[str | Sequence[str]]) -> list[str]:
    """Four parts of about equal size by length, in characters or in tokens; the order stands before a tab.

    >>> by_length(["a" * length for length in (1, 3, 5, 9)])
    ['0\\tup to 1 characters', '1\\t2 to 3 characters', '2\\t4 to 5 characters', '3\\tfrom 6 characters']
    """
    lengths = np.array([len(text) for text in texts])
    unit = "characters" if isinstance(texts[0], str) else "tokens"
    edges = sorted({int(edge) for edge in np.quantile(lengths, [0.25, 0.5, 0.75], method="lower")} - {lengths.max()})
    names = []
    for place in range(len(edges) + 1):
        if place == 0:
            names.append(f"0\tup to {edges[0]} {unit}" if edges else "")
        elif place == len(edges):
            names.append(f"{place}\tfrom {edges[-1] + 1} {unit}")
        else:
            names.append(f"{place}\t{edges[place - 1] + 1} to {edges[place]} {unit}")
    return [names[int(np.searchsorted(edges, length))] for length in lengths]


def by_writing(texts: Sequence[str]) -> list[str]:
    """What the letters of each text are: a test set in two languages falls apart here.

    >>> by_writing(["good film", "好电影", "好电影 film", "123"])
    ['other writing', 'Chinese, Japanese, Korean', 'mixed writing', 'other writing']
    """
    shares = [cjk_share([text]) for text in texts]
    return [CJK if share > 0.75 else MIXED if share > 0.25 else OTHER for share in shares]


def by_label(labels: Sequence[str]) -> list[str]:
    """The gold labels; of more than twelve the rarer ones fall into no part."""
    common = {label for label, _ in Counter(labels).most_common(MOST_LABELS)}
    return [label if label in common else "" for label in labels]


def _order(kind: str, names: Sequence[str]) -> Callable[[str], tuple]:
    counts = Counter(names)
    return (lambda name: (0, name)) if kind == "length" else lambda name: (-counts[name], name)


def _interval(value: dict) -> Interval:
    return Interval(**{**value, "value": float("nan") if value["value"] is None else value["value"]})
