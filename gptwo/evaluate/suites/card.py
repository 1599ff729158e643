"""The figures of a report as a section of a model's card, written once and replaced when they are measured again."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from gptwo.errors import UsageError
from gptwo.evaluate.metric_names import format_value, unit_title
from gptwo.evaluate.report import Report


def card_section(report: Report, heading: str) -> str:
    """Markdown: the heading, a table of the figures with their intervals, and the protocol."""
    lines = [f"## {heading}", "", "| figure | value | 95 % interval |", "|---|---|---|"]
    for system in report.systems[:1]:
        for key, interval in system.metrics.items():
            bounds = "–"
            if interval.low is not None and interval.high is not None:
                bounds = f"{format_value(key, interval.low)} to {format_value(key, interval.high)}"
            lines.append(f"| {unit_title(key)} | {format_value(key, interval.value)} | {bounds} |")
    lines += ["", f"Measured by gptwo, {time.strftime('%Y-%m-%d', time.gmtime(report.created))}."]
    lines += [f"- {note}" for note in report.notes]
    return "\n".join(lines)


def write_section(folder: str | Path, report: Report, heading: str) -> Path:
    """Put a report's section into the README.md of a model or an adapter; an earlier one of that suite is replaced.

    Raises:
        UsageError: no model folder.
    """
    card = Path(folder) / "README.md"
    if not any((Path(folder) / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UsageError("The figures go into a model's card, and this is no model folder.", where=folder)
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {Path(folder).name}\n"
    begin, end = f"<!-- gptwo:{report.task} -->", f"<!-- /gptwo:{report.task} -->"
    text = re.sub(rf"\n*{re.escape(begin)}.*?{re.escape(end)}\n*", "\n", text, flags=re.DOTALL)
    temporary = card.with_suffix(".tmp")
    written = f"{text.rstrip()}\n\n{begin}\n{card_section(report, heading)}\n{end}\n"
    temporary.write_text(written, encoding="utf-8")
    os.replace(temporary, card)
    return card
