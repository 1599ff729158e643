"""search.html: what a search has tried, how it went on, and which keys mattered; one page without scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gptwo.evaluate.charts import COLOURS, Line, line_chart
from gptwo.evaluate.html_parts import cell, figure, page, rows_of, safe, section, table
from gptwo.evaluate.metric_names import format_value, lower_first, metric_name, unit_title
from gptwo.evaluate.scatter import Dots, scatter_chart

MOST_CURVES = 40
MUTED = "var(--muted)"


@dataclass
class Trial:
    """One trial of a search in plain values.

    Args:
        number: from 0.
        state: "finished", "pruned", "failed", "running" or "waiting".
        value: of the metric; of a pruned trial the last one.
        values: recipe key to value.
        evaluations: the metric at its evaluations, in order.
        seconds: how long it took.
        error: why it failed.
    """

    number: int
    state: str
    value: float | None
    values: dict[str, Any]
    evaluations: list[float] = field(default_factory=list)
    seconds: float | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The best of the trials that came to an end, the first of equals."""
    done = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    sign = -1 if metric_name(metric).higher_is_better else 1
    return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Finished trials from the best on, then the others by number."""
    sign = -1 if metric_name(metric).higher_is_better else 1
    order = {"finished": 0, "pruned": 1, "failed": 3}

    def key(trial: Trial) -> tuple:
        known = trial.state == "finished" and trial.value is not None
        return order.get(trial.state, 2), sign * (trial.value or 0.0) if known else 0.0, trial.number

    return sorted(trials, key=key)


def written(value: Any) -> str:
    """A value of a key for a table: short, and as a recipe writes it."""
    return f"{value:.3g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def render_search(
    title: str,
    trials: Sequence[Trial],
    *,
    metric: str,
    ranges: Mapping[str, Any],
    importance: Mapping[str, float],
    notes: Sequence[str] = (),
) -> str:
    """The page of a search.

    Args:
        ranges: recipe key to a list of choices, or to whether its range is logarithmic.
        importance: recipe key to its share, 0 to 1.
    """
    best = best_of(trials, metric)
    ended = [trial for trial in trials if trial.state in ("finished", "pruned", "failed")]
    counts = ", ".join(
        f"{sum(trial.state == state for trial in trials)} {state}"
        for state in ("finished", "pruned", "failed", "running")
        if any(trial.state == state for trial in trials)
    )
    lead = "No trial has come to an end yet."
    detail = ""
    if best is not None:
        lead = f"Best {lower_first(unit_title(metric))}: {format_value(metric, best.value)}, in trial {best.number}."
        detail = ", ".join(f"{key} = {written(value)}" for key, value in best.values.items())
    body = [
        f'<header>\n<p class="kicker">gptwo · search</p>\n<h1>{safe(title)}</h1>\n'
        f'<p class="facts">{safe(f"{len(ended):,} trials: {counts}")}</p>\n</header>',
        f'<div class="verdict better">\n<p class="lead">{safe(lead)}</p>\n<p class="detail">{safe(detail)}</p>\n</div>',
        _history(trials, metric),
        _importance(importance),
        _keys(trials, metric, ranges),
        _table(trials, metric, list(ranges)),
        section("Notes", "", f'<ul class="notes">{"".join(f"<li>{safe(note)}</li>" for note in notes)}</ul>')
        if notes
        else "",
    ]
    return page(title, "\n".join(part for part in body if part))


def _shown(metric: str, value: float) -> float:
    return 100 * value if metric_name(metric).unit == "share" else value


def _groups(trials: Sequence[Trial], metric: str, x_of: Any) -> list[Dots]:
    """Finished and pruned trials as dots; `x_of` gives a trial's place."""
    found = []
    for state, colour in (("pruned", MUTED), ("finished", COLOURS[0])):
        chosen = [trial for trial in trials if trial.state == state and trial.value is not None]
        hints = [f"trial {trial.number}: {format_value(metric, trial.value)}" for trial in chosen]
        ys = [_shown(metric, trial.value or 0.0) for trial in chosen]
        found.append(Dots(state, [x_of(trial) for trial in chosen], ys, colour, hints))
    return [dots for dots in found if len(dots.x)]


def _history(trials: Sequence[Trial], metric: str) -> str:
    groups = _groups(trials, metric, lambda trial: float(trial.number))
    if not groups:
        return ""
    better = max if metric_name(metric).higher_is_better else min
    steps: list[tuple[float, float]] = []
    for trial in trials:
        if trial.state == "finished" and trial.value is not None:
            value = _shown(metric, trial.value)
            if steps:
                steps.append((float(trial.number), steps[-1][1]))  # a stair, not a slope
                value = better(value, steps[-1][1])
            steps.append((float(trial.number), value))
    lines = [Line("best so far", [x for x, _ in steps], [y for _, y in steps], COLOURS[1])] if len(steps) > 1 else []
    legend = "".join(f'<span style="--swatch:{part.colour}">{safe(part.name)}</span>' for part in (*groups, *lines))
    chart = scatter_chart(groups, title=f"{unit_title(metric)} of each trial", x_title="trial", lines=lines)
    figures = [figure(unit_title(metric), f'<div class="legend">{legend}</div>{chart}')]
    best = best_of(trials, metric)
    curves = [trial for trial in trials if len(trial.evaluations) > 1][-MOST_CURVES:]
    if curves:
        ordered = sorted(curves, key=lambda trial: best is not None and trial.number == best.number)
        drawn = [
            Line(
                str(trial.number),
                range(1, len(trial.evaluations) + 1),
                [_shown(metric, value) for value in trial.evaluations],
                COLOURS[0] if best is not None and trial.number == best.number else MUTED,
            )
            for trial in ordered
        ]
        course = line_chart(drawn, title="Each trial by its evaluations", x_title="evaluation")
        figures.append(figure("The trials by their evaluations", course, "The best one in colour."))
    return section("History", "", f'<div class="figures">{"".join(figures)}</div>')


def _importance(importance: Mapping[str, float]) -> str:
    if not importance:
        return ""
    rows = [
        [
            f'<th scope="row">{safe(key)}</th>',
            cell(f"{100 * share:.0f}"),
            f'<td class="bar"><span><i style="width:{100 * share:.1f}%"></i></span></td>',
        ]
        for key, share in importance.items()
    ]
    hint = (
        "The share of each key in what made the finished trials differ (fANOVA). With few trials it is a rough guess, "
        "and it speaks of the ranges that were given only."
    )
    return section("Importance", hint, table(["key", "#%", "|"], rows_of(rows), style="wide"))


def _keys(trials: Sequence[Trial], metric: str, ranges: Mapping[str, Any]) -> str:
    figures = []
    for key, span in ranges.items():
        names = [written(choice) for choice in span] if isinstance(span, list) else []

        def at(trial: Trial, key: str = key, names: list[str] = names) -> float:
            value = trial.values[key]
            return float(names.index(written(value))) if names else float(value)

        groups = _groups([trial for trial in trials if key in trial.values], metric, at)
        if groups:
            log = not isinstance(span, list) and bool(span)
            chart = scatter_chart(groups, title=f"{unit_title(metric)} by {key}", x_title=key, log=log, names=names)
            figures.append(figure(key, chart))
    body = f'<div class="figures">{"".join(figures)}</div>'
    return section("Keys", f"{safe(unit_title(metric))} of every trial by each key.", body) if figures else ""


def _table(trials: Sequence[Trial], metric: str, keys: Sequence[str]) -> str:
    best = best_of(trials, metric)
    rows = []
    for trial in ranked(trials, metric):
        first = best is not None and trial.number == best.number
        seconds = "–" if trial.seconds is None else f"{trial.seconds:,.0f}"
        words = trial.error.partition("\n")[0] if trial.error else trial.state
        rows.append(
            [
                cell(str(trial.number)),
                cell(format_value(metric, trial.value), best=first),
                *(cell(safe(written(trial.values[key]) if key in trial.values else "–")) for key in keys),
                cell(str(len(trial.evaluations))),
                cell(seconds),
                cell(safe(words), "left"),
            ]
        )
    head = ["#trial", f"#{unit_title(metric)}", *(f"#{key}" for key in keys), "#evaluations", "#seconds", "state"]
    return section("Trials", "The best first.", table(head, rows_of(rows))) if rows else ""
