"""Which learning curves a report shows: training and evaluation loss together, then the other metrics by unit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gptwo.evaluate.charts import COLOURS, Line, smooth
from gptwo.evaluate.metric_names import METRICS, format_value, lower_first, metric_name, unit_title

MOST_LINES = 4


@dataclass
class Panel:
    """One chart: lines of one unit; `mark` is the best point (step, value) of the deciding metric, `note` names it."""

    title: str
    lines: list[Line]
    mark: tuple[float, float] | None = None
    note: str = ""


def curve_panels(events: list[dict], primary: str) -> list[Panel]:
    """The charts of a run's step and eval events; series of a single point are left out.

    Eval metrics may be nested ({"zh": {"loss": 2.1}} is "loss/zh") and prefixed ("valid_loss" is "loss").
    """
    train = _finite((event["step"], event.get("loss")) for event in events if event.get("kind") == "step")
    series: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event.get("kind") == "eval":
            for key, value in _numbers(event.get("metrics") or {}):
                series.setdefault(key, []).append((event["step"], value))
    series = {key: points for key, points in ((k, _finite(p)) for k, p in series.items()) if len(points) > 1}

    panels = []
    losses = {key: points for key, points in series.items() if key.partition("/")[0] == "loss"}
    if len(train) > 1 or losses:
        panels.append(_loss_panel(train, losses, primary))
    rest = {key: points for key, points in series.items() if key not in losses}
    for group in _by_unit(rest, primary):
        lines = []
        for place, key in enumerate(group[:MOST_LINES]):
            x, y = zip(*rest[key], strict=True)
            factor = 100 if metric_name(key).unit == "share" else 1
            lines.append(Line(metric_name(key).title, x, [factor * value for value in y], COLOURS[place]))
        share = metric_name(group[0]).unit == "share"
        title = "Validation metrics, %" if share and len(group) > 1 else unit_title(group[0].partition("/")[0])
        if len(group) == 1:
            lines[0].name = group[0].partition("/")[2]
        panels.append(Panel(title, lines, *(_mark(rest, primary) if primary in group[:MOST_LINES] else ())))
    return panels


def _loss_panel(train: list[tuple[float, float]], losses: dict, primary: str) -> Panel:
    lines = []
    if len(train) > 1:
        x, y = zip(*train, strict=True)
        lines.append(Line("training", x, smooth(y).tolist(), COLOURS[0], faint=y))
    for place, (key, points) in enumerate(losses.items()):
        x, y = zip(*points, strict=True)
        name = "validation" + (f", {key.partition('/')[2]}" if "/" in key else "")
        lines.append(Line(name, x, y, COLOURS[(place + 1) % len(COLOURS)]))
    return Panel("Loss, nats", lines, *_mark(losses, primary))


def _mark(series: dict[str, list[tuple[float, float]]], primary: str) -> tuple:
    """((step, value), note) of the best point of the deciding metric; () where it is not among the series."""
    if primary not in series:
        return ()
    choose = max if metric_name(primary).higher_is_better else min
    step, value = choose(series[primary], key=lambda point: point[1])
    factor = 100 if metric_name(primary).unit == "share" else 1
    title = metric_name(primary).title
    return (
        step,
        factor * value,
    ), f"Circled: best {lower_first(title)}, {format_value(primary, value)} at step {step:,}."


def _by_unit(series: dict, primary: str) -> list[list[str]]:
    """Keys in groups that share an axis: all shares together, otherwise the parts of one metric; primary first."""
    groups: dict[str, list[str]] = {}
    for key in sorted(series, key=lambda key: (key != primary, list(series).index(key))):
        kind = metric_name(key)
        groups.setdefault("share" if kind.unit == "share" else key.partition("/")[0], []).append(key)
    return list(groups.values())


def _numbers(metrics: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from _numbers(value, (*path, key))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield _metric_key("/".join((*path, key)).split("/")), float(value)


def _metric_key(names: list[str]) -> str:
    """The metric first, then the part of the data: zh/valid_loss is "loss/zh"."""
    names = [name.removeprefix("valid_").removeprefix("eval_") for name in names if name not in ("valid", "eval")]
    metric = next((name for name in names if name in METRICS), names[-1])
    return "/".join([metric, *(name for name in names if name != metric)])


def _finite(points) -> list[tuple[float, float]]:
    return [(x, float(y)) for x, y in points if isinstance(y, (int, float)) and math.isfinite(y)]
