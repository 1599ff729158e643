"""`gptwo doctor model` and `gptwo doctor run`: a model folder and a training run looked at, with advice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.options import JsonOption, Text


def model(
    folder: Annotated[str, typer.Argument(help="A model folder, a run folder or a name.")],
    adapter: Annotated[Text, typer.Option(help="Folder of the adapter that was merged into it.")] = None,
    json: JsonOption = False,
) -> None:
    """Check a model: does it load, does its tokenizer fit, are its weights numbers. Exit code 3 for an error."""
    from gptwo.train.inspect_model import inspect_model

    tell(inspect_model(folder, adapter), folder, json=json)


def run(
    folder: Annotated[Path, typer.Argument(help="A run folder; the run may still be going on.")],
    json: JsonOption = False,
) -> None:
    """Check a run: its loss beside guessing, overfitting, divergence, collapse. Exit code 3 for an error."""
    from gptwo.train.inspect_run import inspect_run

    tell(inspect_run(folder), str(folder), json=json)


def tell(findings: list, title: str, *, json: bool) -> None:
    """Print findings as a table or as one JSON object."""
    from gptwo.cli.common import print_json
    from gptwo.data.doctor import has_errors

    if json:
        rows = [finding.as_json() for finding in findings]
        print_json({"folder": title, "ok": not has_errors(findings), "findings": rows})
    else:
        show_findings(findings, title)
    if has_errors(findings):
        raise typer.Exit(3)


def show_findings(findings: list, title: str, folders: set[str] | None = None) -> None:
    """Findings as a table, and how many errors and warnings there are.

    Args:
        folders: are left off the names of files; --json has the whole paths.
    """
    from rich.table import Column, Table
    from rich.text import Text

    from gptwo.cli.common import console
    from gptwo.errors import amount

    colours = {"error": "red", "warning": "yellow", "info": "cyan"}
    table = Table("", Column("what", ratio=4), Column("where", ratio=2, overflow="fold"), Column("fix", ratio=3))
    table.title, table.title_justify, table.show_lines = Text(title), "left", True
    for finding in findings:
        rows = "\n".join(finding.rows[:3])
        for folder in folders or ():
            rows = rows.replace(folder, "")
        if finding.count > 3 and finding.rows:
            rows += f"\n… {finding.count:,} in all"
        severity = Text(finding.severity, style=colours[finding.severity])
        table.add_row(severity, Text(finding.what), Text(rows), Text(finding.fix))
    console().print(table)
    totals = [amount(sum(finding.severity == kind for finding in findings), kind) for kind in ("error", "warning")]
    console().print(f"{', '.join(totals)}. --json lists the first ten rows of each.")
