"""What a report comes to, in plain sentences: which systems the tuned one beats, and where it loses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptwo.evaluate.metric_names import format_difference, format_value, lower_first, metric_name
from gptwo.evaluate.statistics import Comparison, Interval

if TYPE_CHECKING:
    from gptwo.evaluate.report import Report, System


@dataclass
class Verdict:
    """A sentence about the tuned system and another; `outcome` is "better", "equal" or "worse" for the tuned one.

    "equal" says that the interval of the difference holds 0: the test set cannot tell the two apart. `certain` is
    False where there is no interval to say so.
    """

    other: str
    outcome: str
    text: str
    certain: bool = True


def verdicts(report: Report) -> list[Verdict]:
    """One for each other system: the strongest baseline first, then the other baselines, then the rest."""
    tuned = report.tuned
    if tuned is None or tuned.value(report.primary) is None:
        return []
    others = [s for s in report.systems if s is not tuned and s.value(report.primary) is not None]
    sign = -1 if metric_name(report.primary).higher_is_better else 1
    others.sort(key=lambda system: (system.role != "baseline", sign * (system.value(report.primary) or 0.0)))
    return [_verdict(report, tuned, other) for other in others]


def _verdict(report: Report, tuned: System, other: System) -> Verdict:
    key = report.primary
    kind = metric_name(key)
    found = [c for c in report.comparisons if (c.system, c.other, c.metric) == (tuned.name, other.name, key)]
    comparison = found[0] if found else None
    ours, theirs = tuned.value(key) or 0.0, other.value(key) or 0.0
    difference = comparison.difference.value if comparison else ours - theirs
    low, high = _bounds(comparison.difference) if comparison else (difference, difference)
    gain, worst, best = (difference, low, high) if kind.higher_is_better else (-difference, -high, -low)
    outcome = "better" if worst > 0 else "worse" if best < 0 else "equal"

    title, size, amount = lower_first(kind.title), _size(key, difference), format_difference(key, difference)
    values = f"{format_value(key, ours)} against {format_value(key, theirs)}"
    evidence = f"({'; '.join([values, *_evidence(key, comparison)])})"
    who, whom = upper_first(tuned.name), f"the cheap baseline {other.name}" if other.role == "baseline" else other.name
    if other.role == "before":
        better = f"Tuning gains {size}" if kind.higher_is_better else f"Tuning lowers {title} by {amount}"
        worse = f"Tuning LOSES {size}" if kind.higher_is_better else f"Tuning RAISES {title} by {amount}"
        equal = f"Tuning shows no sure gain over the model before it: {_signed(gain, size)}"
    else:
        better = f"{who} beats {other.name} by {size}"
        worse = f"{who} LOSES to {whom} by {size}"
        where = "over these runs" if comparison and comparison.test == "paired t" else "on this test set"
        equal = f"{who} and {other.name} cannot be told apart {where}: {_signed(gain, size)}"
    sentence = f"{({'better': better, 'equal': equal, 'worse': worse})[outcome]} {evidence}."
    certain = comparison is not None and comparison.difference.low is not None
    return Verdict(other.name, outcome, sentence, certain)


def _bounds(interval: Interval) -> tuple[float, float]:
    if interval.low is None or interval.high is None:
        return interval.value, interval.value
    return interval.low, interval.high


def _evidence(key: str, comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return []
    parts = []
    interval = comparison.difference
    if interval.low is not None and interval.high is not None:
        low, high = (100 * x if metric_name(key).unit == "share" else x for x in (interval.low, interval.high))
        digits = 1 if metric_name(key).unit == "share" else 3
        bounds = f"{low:+.{digits}f} to {high:+.{digits}f}".replace("-", "−")
        parts.append(f"{100 * interval.level:g}\u00a0% interval of the difference {bounds}")
    if comparison.p_value is not None:
        parts.append(f"{comparison.test} p\u00a0{format_p(comparison.p_value)}".strip())
    return parts


def _size(key: str, difference: float) -> str:
    """The difference with its unit and its metric: "2.1 points of accuracy", "0.410 bits per byte"."""
    kind, size = metric_name(key), format_difference(key, difference)
    title = lower_first(kind.title)
    if kind.unit == "bits" and title.startswith("bits"):
        return size.removesuffix("bits") + title
    return f"{size} {'in' if kind.unit == 'number' else 'of'} {title}"


def _signed(gain: float, size: str) -> str:
    return f"{size} {'better' if gain > 0 else 'worse'}" if gain else "no difference"


def format_p(value: float) -> str:
    """A p-value with its sign of relation: "= 0.031", "< 0.001"."""
    if not math.isfinite(value):
        return "unknown"
    return "<\u00a00.001" if value < 0.001 else f"=\u00a0{value:.3f}"


def upper_first(name: str) -> str:
    """A name at the beginning of a sentence."""
    return name[:1].upper() + name[1:]
