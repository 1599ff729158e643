"""A report on the terminal: the systems beside each other, the verdict, the per-class table, the worst examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptwo.evaluate.html_checks import scaling_text
from gptwo.evaluate.metric_names import best_of, format_value, lower_first, unit_title
from gptwo.evaluate.ranks import ranks_text
from gptwo.evaluate.verdict import verdicts

if TYPE_CHECKING:
    from rich.table import Table

    from gptwo.evaluate.report import Report

COLOURS = {"better": "green", "equal": "yellow", "worse": "bold red"}
MANY_CLASSES = 25  # more rows than this are left to the HTML report


def print_report(report: Report, console: Any = None, *, examples: int = 5) -> None:
    """Print a report.

    Args:
        console: a Rich console; default one on stderr.
        examples: worst examples and generated samples to print.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console(stderr=True, highlight=False)
    console.print()
    console.print(Text(report.title, style="bold"))
    for file in report.data:
        rejected = f", {file.rejected:,} rejected" if file.rejected else ""
        console.print(Text(f"{file.part}: {file.path}, {file.records:,} records{rejected}", style="dim"))
    console.print(_systems(report))
    for verdict in verdicts(report):
        console.print(Text(verdict.text, style=COLOURS[verdict.outcome]))
    for warning in report.warnings:
        console.print(Text(f"Warning: {warning}", style="bold red"))
    for heading, table in report.tables.items():
        if len(table.classes) <= MANY_CLASSES:
            console.print(Text(f"\n{heading}", style="bold"))
            console.print(Text(table.text(4, accuracy_row=not _is_tag_table(table))), soft_wrap=True)
        else:
            console.print(Text(f"\n{heading}: {len(table.classes)} rows, see report.html", style="dim"))
    if report.confusion and report.confusion.confusions(1):
        console.print(_confusions(report, examples))
    if report.worst:
        console.print(_worst(report, examples))
    for sample in report.samples[:examples]:
        console.print(Text(f"\n{sample.system or 'Sample'}", style="dim"))
        console.print(Text(sample.prompt, style="bold") + Text(sample.text))
    for line in checks(report):
        console.print(Text(line), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"Note: {note}", style="dim"))


def checks(report: Report) -> list[str]:
    """Calibration and abstention in a sentence, AdaLoRA's ranks, weak parts of the test set, the curve over size."""
    found = [text for text in (scaling_text(report), ranks_text(report.events)) if text]
    whole = report.tuned.value(report.slices.metric) if report.slices and report.tuned else None
    if report.slices is not None and report.tuned is not None and whole is not None:
        metric, name = report.slices.metric, report.tuned.name
        weak = [
            f"{row.name} ({format_value(metric, row.values[name].value)}, {row.records:,} records)"
            for row in report.slices.weakest(name, whole)
        ]
        if weak:
            found.append(f"Weaker than the whole in {lower_first(unit_title(metric))}: {'; '.join(weak)}.")
    for point in report.sizes:
        values = ", ".join(f"{name} {format_value(report.primary, value)}" for name, value in point.values.items())
        found.append(f"With {point.records:,} training records: {values}.")
    return found


def _is_tag_table(table: Any) -> bool:
    return any(row.name == "O" for row in table.classes)


def titled_table(title: str, *headings: str) -> Table:
    """An empty table without lines under a title; columns whose heading begins with "#" are set right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.title, table.title_justify, table.title_style = f"\n{title}", "left", "bold"
    for heading in headings:
        table.add_column(Text(heading.removeprefix("#")), justify="right" if heading.startswith("#") else "left")
    return table


def _systems(report: Report):
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="", caption_justify="left")
    table.add_column("", vertical="top")
    for system in report.systems:
        table.add_column(
            Text(system.name, style="bold" if system is report.tuned else ""), justify="right", vertical="top"
        )
    for key in report.metric_keys():
        best = best_of(key, [system.value(key) for system in report.systems])
        cells = [Text(unit_title(key))]
        for place, system in enumerate(report.systems):
            cell = Text(format_value(key, system.value(key)), style="bold" if place in best else "")
            interval = system.metrics.get(key)
            if interval is not None and interval.low is not None and system.value(key) is not None:
                bounds = f"{format_value(key, interval.low)}–{format_value(key, interval.high)}"
                cell.append(f"\n{bounds}", style="dim not bold")
            cells.append(cell)
        table.add_row(*cells)
    legend = ["best in bold"]
    if any(metric.low is not None for system in report.systems for metric in system.metrics.values()):
        legend.append("below it the 95 % interval (bootstrap)")
    if report.records:
        legend.append(f"{report.records:,} test records")
    table.caption = "; ".join(legend)
    return table


def _confusions(report: Report, count: int):
    from rich.text import Text

    table = titled_table("Most frequent confusions", "gold", "predicted", "#times", "#of")
    for gold, predicted, times, support in report.confusion.confusions(count):
        table.add_row(Text(gold), Text(predicted), f"{times:,}", f"{support:,}")
    return table


def _worst(report: Report, count: int):
    from rich.text import Text

    shown = report.worst[:count]
    sure = any(example.confidence is not None for example in shown)
    headings = ["#row", "gold", "predicted", *(["#confidence"] if sure else []), "text"]
    table = titled_table("Worst examples" + (", the surest first" if sure else ""), *headings)
    table.columns[0].no_wrap, table.columns[-1].ratio = True, 1
    for example in shown:
        cells = [str(example.row or ""), Text(_short(example.gold, 60)), Text(_short(example.predicted, 60))]
        if sure:
            cells.append("–" if example.confidence is None else f"{example.confidence:.2f}")
        table.add_row(*cells, Text(_short(example.text, 160)))
    return table


def _short(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
