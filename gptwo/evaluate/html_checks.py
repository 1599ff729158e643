"""Parts of report.html that say how far to trust it: warnings, parts of the test set, abstention, data size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptwo.evaluate.charts import COLOURS, Line
from gptwo.evaluate.html_parts import cell, figure, rows_of, safe, section, table
from gptwo.evaluate.metric_names import format_value, metric_name, unit_title
from gptwo.evaluate.scatter import Dots, scatter_chart

if TYPE_CHECKING:
    from gptwo.evaluate.report import Report


def warnings_part(report: Report) -> str:
    """What makes the figures untrustworthy, right below the verdict."""
    if not report.warnings:
        return ""
    lines = "".join(f'<li class="worse">{safe(warning)}</li>' for warning in report.warnings)
    return f'<div class="verdict worse">\n<p class="lead">Before you trust these figures</p><ul>{lines}</ul>\n</div>'


def slices_part(report: Report) -> str:
    """The figure of every system on parts of the test set."""
    if report.slices is None:
        return ""
    metric, names = report.slices.metric, [system.name for system in report.systems]
    names = [name for name in names if any(name in row.values for row in report.slices.rows)]
    tuned = report.tuned.name if report.tuned else ""
    whole = report.tuned.value(metric) if report.tuned else None
    weak = report.slices.weakest(tuned, whole) if whole is not None else []
    rows = []
    for row in report.slices.rows:
        mark = "<small>weaker than the whole</small>" if row in weak else ""
        cells = [f'<th scope="row">{safe(row.name)}{mark}</th>', cell(row.kind, "left"), cell(f"{row.records:,}")]
        for name in names:
            value = row.values.get(name)
            bounds = ""
            if value is not None and name == tuned and value.low is not None and value.high is not None:
                bounds = f"<small>{format_value(metric, value.low)}–{format_value(metric, value.high)}</small>"
            cells.append(cell(format_value(metric, value.value if value else None) + bounds, best=name == tuned))
        rows.append(cells)
    hint = f"{unit_title(metric)} on parts of the test set; small figures are 95 % intervals. Small parts vary much."
    head = ["part", "by", "#records", *(f"#{name}" for name in names)]
    return section("Parts of the test set", safe(hint), table(head, rows_of(rows), style="pinned"))


def scaling_text(report: Report) -> str:
    """What temperature scaling and the threshold of abstention did, in sentences; nothing where there is neither."""
    found = []
    if report.scaling is not None:
        scaling = report.scaling
        found.append(
            f"Scores are divided by a temperature of {scaling.temperature:.2f}, fitted on {scaling.records:,} "
            f"validation records: the calibration error went from {_points(scaling.ece_before)} to "
            f"{_points(scaling.ece_after)} points on the test records."
        )
    if report.abstention is not None:
        asked = report.abstention
        if asked.threshold is None:
            found.append(f"No threshold reaches a precision of {100 * asked.target:g} % on the validation records.")
        elif asked.precision is None or asked.coverage is None:
            found.append(f"No prediction on the test records is as sure as {asked.threshold:.3f}.")
        else:
            found.append(
                f"Predictions below a confidence of {asked.threshold:.3f} are marked as abstained, for a precision of "
                f"{100 * asked.target:g} %: on the test records {100 * asked.coverage:.1f} % are kept, and "
                f"{100 * asked.precision:.1f} % of those are right."
            )
    return " ".join(found)


def size_part(report: Report) -> str:
    """The learning curve over the size of the training data."""
    points = [point for point in report.sizes if point.values]
    if not points:
        return ""
    metric = report.primary
    factor = 100 if metric_name(metric).unit == "share" else 1
    lines, dots = [], []
    for place, name in enumerate(dict.fromkeys(name for point in points for name in point.values)):
        known = [(point.records, factor * point.values[name]) for point in points if name in point.values]
        colour = COLOURS[place % len(COLOURS)]
        x, y = [float(records) for records, _ in known], [value for _, value in known]
        lines.append(Line(name, x, y, colour))
        dots.append(Dots(name, x, y, colour, [f"{name}, {records:,} records" for records, _ in known]))
    legend = "".join(f'<span style="--swatch:{line.colour}">{safe(line.name)}</span>' for line in lines)
    chart = scatter_chart(dots, title="Learning curve", x_title="training records", log=True, lines=lines)
    names = [line.name for line in lines]
    rows = [
        [
            cell(f"{point.records:,}"),
            *(cell(format_value(metric, point.values.get(name)), best=name == names[0]) for name in names),
        ]
        for point in points
    ]
    counted = table(["#training records", *(f"#{name}" for name in names)], rows_of(rows))
    hint = "How much more data would help: a curve that still rises at its end asks for more records."
    body = f'<div class="legend">{legend}</div>{chart}'
    return section(
        "Learning curve over data size",
        hint,
        f'<div class="columns">{figure(unit_title(metric), body)}<div><h3>In numbers</h3>{counted}</div></div>',
    )


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
