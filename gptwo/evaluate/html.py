"""report.html: one self-contained page without scripts or external resources, every piece of data escaped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from gptwo.evaluate import charts
from gptwo.evaluate.curves import curve_panels
from gptwo.evaluate.html_checks import scaling_text, size_part, slices_part, warnings_part
from gptwo.evaluate.html_parts import cell, cut, figure, page, rows_of, safe, section, table
from gptwo.evaluate.metric_names import best_of, format_value, metric_name, unit_title
from gptwo.evaluate.ranks import ranks_part
from gptwo.evaluate.verdict import upper_first, verdicts

if TYPE_CHECKING:
    from gptwo.evaluate.metrics import ClassScore, ClassTable
    from gptwo.evaluate.report import Example, Report, Sample, System

MANY_ROWS = 25  # a longer table shows its weakest rows and folds the rest away
WEAKEST = 12


def render(report: Report) -> str:
    """The page of a report."""
    sections = [
        _header(report),
        _verdict(report),
        warnings_part(report),
        _systems(report),
        _curves(report),
        ranks_part(report.events),
        size_part(report),
        _samples(report),
        _confusion(report),
        _calibration(report),
        _tables(report),
        slices_part(report),
        _examples(report),
        _data(report),
        _particulars(report),
    ]
    body = "\n".join(part for part in sections if part)
    return page(f"{report.title}: report", body)


def _header(report: Report) -> str:
    facts = [f"{report.records:,} test records"] if report.records else []
    facts.append(time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(report.created)).removeprefix("0"))
    return (
        f'<header>\n<p class="kicker">gptwo · {safe(report.task)}</p>\n<h1>{safe(report.title)}</h1>\n'
        f'<p class="facts">{safe(" · ".join(facts))}</p>\n</header>'
    )


def _verdict(report: Report) -> str:
    found = verdicts(report)
    if not found:
        return ""
    lead, _, evidence = found[0].text.removesuffix(").").partition(" (")
    rest = "".join(f'<li class="{verdict.outcome}">{safe(verdict.text)}</li>' for verdict in found[1:])
    rest = f"<ul>{rest}</ul>" if rest else ""
    return (
        f'<div class="verdict {found[0].outcome}">\n<p class="lead">{safe(lead)}.</p>\n'
        f'<p class="detail">{safe(upper_first(evidence))}.</p>{rest}\n</div>'
    )


def _systems(report: Report) -> str:
    if not report.systems:
        return ""
    better = "More" if metric_name(report.primary).higher_is_better else "Less"
    hint = f"{unit_title(report.primary)}. {better} is better."
    if any(metric.low is not None for system in report.systems for metric in system.metrics.values()):
        hint += " Bars and small figures are 95 % intervals, from resampling the test set."
    if report.tuned and len(report.systems) > 1:
        hint += " The dotted line is the tuned system."
    notes = " ".join(f"{system.name}: {system.note}." for system in report.systems if system.note)
    after = f'<p class="hint after">{safe(notes)}</p>' if notes else ""
    return section("Systems on the same test set", safe(hint), _intervals(report) + _system_table(report) + after)


def _intervals(report: Report) -> str:
    key, tuned = report.primary, report.tuned
    shown = [(system, system.metrics[key]) for system in report.systems if system.value(key) is not None]
    if len(shown) < 2:
        return ""
    scale = _interval_scale(key, [x for _, m in shown for x in (m.value, m.low, m.high) if x is not None])
    rows = []
    for system, metric in shown:
        mine = system is tuned
        line = tuned.value(key) if tuned and not mine else None
        track = charts.interval_track(metric.value, metric.low, metric.high, scale, strong=mine, baseline=line)
        rows.append(
            f'<div class="row{" tuned" if mine else ""}"><div class="name">{safe(system.name)}</div>'
            f'<div class="track">{track}</div>'
            f'<div class="value"><b>{format_value(key, metric.value)}</b>{_bounds(key, system)}</div></div>'
        )
    axis = charts.interval_axis(scale, 100 if metric_name(key).unit == "share" else 1)
    return (
        f'<div class="intervals">{"".join(rows)}<div class="axis"><div class="name"></div>'
        f'<div class="track">{axis}</div><div class="value"></div></div></div>'
    )


def _interval_scale(key: str, ends: Sequence[float]) -> tuple[float, float]:
    low, high = min(ends), max(ends)
    pad = 0.08 * (high - low) or abs(low) * 0.1 or 1.0
    if metric_name(key).unit == "share":
        return max(0.0, low - pad), min(1.0, high + pad)
    return low - pad, high + pad


def _bounds(key: str, system: System) -> str:
    metric = system.metrics.get(key)
    if metric is None or metric.low is None or system.value(key) is None:
        return ""
    return f"<small>{format_value(key, metric.low)}–{format_value(key, metric.high)}</small>"


def _system_table(report: Report) -> str:
    rows = []
    for key in report.metric_keys():
        best = best_of(key, [system.value(key) for system in report.systems])
        direction = "" if metric_name(key).higher_is_better else "<small>less is better</small>"
        cells = [
            cell(format_value(key, system.value(key)) + _bounds(key, system), best=place in best)
            for place, system in enumerate(report.systems)
        ]
        rows.append([f'<th scope="row">{safe(unit_title(key))}{direction}</th>', *cells])
    return table(["Metric", *(f"#{system.name}" for system in report.systems)], rows_of(rows), style="pinned")


def _curves(report: Report) -> str:
    figures = []
    for panel in curve_panels(report.events, report.primary):
        names = [(line.name, line.colour) for line in panel.lines if line.name]
        legend = "".join(f'<span style="--swatch:{colour}">{safe(name)}</span>' for name, colour in names)
        chart = charts.line_chart(panel.lines, title=f"{panel.title} over steps", x_title="step", mark=panel.mark)
        figures.append(figure(panel.title, f'<div class="legend">{legend}</div>{chart}', panel.note))
    return section("Learning curves", "", f'<div class="figures">{"".join(figures)}</div>') if figures else ""


def _samples(report: Report) -> str:
    def one(sample: Sample) -> str:
        whose = [sample.system] if sample.system else []
        whose += [f"step {sample.step:,}"] if sample.step is not None else []
        words = f"<b>{cut(sample.prompt)}</b>{cut(sample.text)}"
        return f"<div><h3>{safe(', '.join(whose) or 'Sample')}</h3><p>{words}</p></div>"

    groups = [list(group) for _, group in groupby(report.samples, key=lambda sample: sample.prompt)]
    blocks = "".join(f'<div class="sample">{"".join(map(one, group))}</div>' for group in groups)
    return section("Samples", "The prompt in bold, then what was generated.", blocks) if groups else ""


def _confusion(report: Report) -> str:
    if report.confusion is None or len(report.confusion.labels) < 2:
        return ""
    hint = (
        "Tuned system; gold classes in rows, predicted classes in columns. Strength is the share of the gold class: "
        "blue is right, red is wrong."
    )
    unnamed = len(report.confusion.labels) > charts.MANY_LABELS
    caption = f"{len(report.confusion.labels)} classes; point at a cell for its names." if unnamed else ""
    found = report.confusion.confusions(12 if len(report.confusion.labels) > 3 else 6)
    rows = [
        [
            cell(safe(gold), "left"),
            cell(safe(said), "left"),
            cell(f"{times:,}"),
            cell(f"{support:,}"),
            cell(f"{100 * times / support:.1f}"),
        ]
        for gold, said, times, support in found
    ]
    common = table(["gold", "predicted", "#times", "#of", "#%"], rows_of(rows)) if rows else "<p>No errors.</p>"
    return section(
        "Confusion matrix",
        hint,
        f'<div class="columns">{figure("", charts.heat_map(report.confusion), caption)}'
        f"<div><h3>Most frequent confusions</h3>{common}</div></div>",
    )


def _calibration(report: Report) -> str:
    if report.calibration is None:
        return ""
    hint = (
        "How often the tuned system is right, by how sure it says it is. On the dashed line confidence means what it "
        "says; below it the system is too sure of itself."
    )
    bins = report.calibration.bins
    caption = (
        f"Expected calibration error {100 * report.calibration.ece:.1f} points over {len(bins)} bins. "
        "Vertical lines are 95 % intervals."
    )
    rows = [
        [
            cell(f"{100 * row.lower:.0f}–{100 * row.upper:.0f}"),
            cell(f"{row.count:,}"),
            cell(f"{100 * row.confidence:.1f}"),
            cell(f"{100 * row.accuracy:.1f}"),
        ]
        for row in bins
        if row.count
    ]
    counted = table(["#confidence, %", "#predictions", "#mean, %", "#correct, %"], rows_of(rows))
    hint += f" {scaling_text(report)}".rstrip()
    chart = figure("Share correct", charts.reliability_diagram(report.calibration), caption)
    return section("Calibration", hint, f'<div class="columns">{chart}<div><h3>By confidence</h3>{counted}</div></div>')


def _tables(report: Report) -> str:
    blocks = []
    for heading, scores in report.tables.items():
        count = len(scores.classes)
        if count > MANY_ROWS:
            weakest = sorted(scores.classes, key=lambda row: (row.f1, -row.support))[:WEAKEST]
            blocks.append(
                f"<div><h3>{safe(heading)}: the weakest {WEAKEST} of {count}</h3>{_scores(weakest, scores)}</div>"
                f"<div><details><summary>All {count} rows</summary>{_scores(scores.classes, None)}</details></div>"
            )
        elif count:
            blocks.append(f"<div><h3>{safe(heading)}</h3>{_scores(scores.classes, scores)}</div>")
    columns = f'<div class="columns">{"".join(blocks)}</div>'
    return section("Precision, recall and F1", "Tuned system, in %.", columns) if blocks else ""


def _scores(rows: Sequence[ClassScore], scores: ClassTable | None) -> str:
    def line(row: ClassScore, graph: str) -> list[str]:
        shares = [cell(f"{100 * share:.1f}") for share in (row.precision, row.recall, row.f1)]
        return [
            f'<th scope="row">{safe(row.name)}</th>',
            *shares,
            f'<td class="bar">{graph}</td>',
            cell(f"{row.support:,}"),
        ]

    body = rows_of([line(row, f'<span><i style="width:{100 * row.f1:.1f}%"></i></span>') for row in rows])
    if scores is not None:
        body += rows_of([line(row, "") for row in scores.averages], style="averages")
    return table(["", "#precision", "#recall", "#F1", "|", "#support"], body, style="wide pinned")


def _examples(report: Report) -> str:
    if not report.worst:
        return ""
    sure = any(example.confidence is not None for example in report.worst)
    head = ["text", "gold", "predicted", *(["#confidence"] if sure else []), "where"]
    rows = rows_of([_example(example, sure) for example in report.worst])
    hint = "Test records the tuned system gets wrong, the worst first. Wrong gold labels often show here too."
    if any(table.startswith("Entit") for table in report.tables):
        hint += " Entities: only those missed (gold) and those that are not there (predicted)."
    return section("Worst examples", hint, table(head, rows, style="examples"))


def _example(example: Example, sure: bool) -> list[str]:
    where = f"{example.file}:{example.row}" if example.file else f"record {example.row}"
    cells = [
        f'<td class="text">{cut(example.text)}</td>',
        f'<td class="right" data-label="gold">{cut(example.gold)}</td>',
        f'<td class="wrong" data-label="predicted">{cut(example.predicted)}</td>',
    ]
    if sure:
        confidence = "–" if example.confidence is None else f"{example.confidence:.3f}"
        cells.append(f'<td class="number" data-label="confidence">{confidence}</td>')
    return [*cells, f'<td class="where" data-label="where">{safe(where) if example.row is not None else ""}</td>']


def _data(report: Report) -> str:
    rows = [
        [
            cell(safe(file.part), "left"),
            cell(safe(file.path), "left"),
            cell(f"{file.records:,}"),
            cell(f"{file.rejected:,}"),
            f'<td><code title="{safe(file.sha256)}">{safe(file.sha256[:12])}</code></td>',
        ]
        for file in report.data
    ]
    return (
        section("Data", "", table(["part", "file", "#records", "#rejected", "sha256"], rows_of(rows))) if rows else ""
    )


def _particulars(report: Report) -> str:
    notes = "".join(f"<li>{safe(note)}</li>" for note in report.notes)
    folded = "".join(
        f'<details><summary>{name}</summary><dl class="facts-list">{_facts(content)}</dl></details>'
        for name, content in (("Recipe", report.recipe), ("Machine", report.machine))
        if content
    )
    return (section("Notes", "", f'<ul class="notes">{notes}</ul>') if notes else "") + (
        section("How it was made", "", folded) if folded else ""
    )


def _facts(content: dict) -> str:
    return "".join(f"<dt>{safe(key)}</dt><dd>{safe(value)}</dd>" for key, value in _flat(content, ""))


def _flat(content: dict, prefix: str) -> Iterable[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{key}", f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
