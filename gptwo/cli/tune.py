"""`gptwo tune`: search the ranges of a recipe, or the learning rate alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwo.cli.flags import READ, RUN, RecordFlags, RunFlags, flat
from gptwo.cli.options import (
    Count,
    FailUnderOption,
    JsonOption,
    RecipeArgument,
    RecordsOption,
    StartOption,
    Text,
    Texts,
)

if TYPE_CHECKING:
    from gptwo.tune.search import Found

SHOWN = 15  # trials in the table


@flat
def tune(
    recipe: RecipeArgument = None,
    model: StartOption = None,
    task: Annotated[Text, typer.Option(help="What is learned.")] = None,
    train: RecordsOption = None,
    valid: Annotated[Texts, typer.Option(help="Records that decide; none: a share of train.")] = None,
    test: Annotated[Texts, typer.Option(help="Records the best trial is measured on, once, at the end.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the search.")] = Path("runs/tune"),
    records: RecordFlags = READ,
    trials: Annotated[Count, typer.Option(min=1, help="Trials in all, those of earlier calls among them.")] = None,
    metric: Annotated[Text, typer.Option(help="What is to become best; none: train.metric or the task's own.")] = None,
    parallel: Annotated[Count, typer.Option(min=1, help="Trials at the same time.")] = None,
    machine: RunFlags = RUN,
    lr_range: Annotated[bool, typer.Option("--lr-range", help="Range test of the learning rate instead.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a used folder.")] = False,
    fail_under: FailUnderOption = None,
    json: JsonOption = False,
) -> None:
    """Search the ranges in a recipe's [search]; write the best recipe, a page and the best trial's report."""
    from gptwo.cli.common import check_gate, console, parse_gate, print_json, say
    from gptwo.errors import UsageError

    gate = parse_gate(fail_under)
    settings = {
        "search.trials": trials,
        "search.metric": metric,
        "search.parallel": parallel,
        **records.settings(),
        **machine.settings(),
    }
    given = {"task": task, "train": train, "valid": valid, "out": out, "recipe": recipe, "settings": settings}
    if lr_range:
        from gptwo.tune.rate_range import find_rates

        if resume or gate:
            raise UsageError("A range test is neither resumed nor held against a gate.", where="--lr-range")
        rates = find_rates(model, **given, overwrite=overwrite)
        if json:
            print_json(rates.to_dict())
            return
        say(
            f"\nlowest loss at {rates.lowest:.2e}, steepest fall at {rates.steepest:.2e}\n"
            f"try:  --learning-rate {rates.suggested:.1e}\npage: {out / 'rates.html'}"
        )
        return
    from gptwo.tune.search import tune as run

    found = run(model, test=test, **given, resume=resume, overwrite=overwrite, say=say)
    if json:
        print_json(found.to_dict() | {"report": found.report.to_dict()})
    else:
        found.report.print(console())
        show(found)
    check_gate(found.report, gate)


def show(found: Found) -> None:
    """The trials in a table, the best first, and what to do next."""
    from rich.text import Text as Cell

    from gptwo.cli.common import console, say
    from gptwo.evaluate.metric_names import format_value, unit_title
    from gptwo.evaluate.printing import titled_table
    from gptwo.evaluate.search_page import ranked, written

    keys = list(found.best.values)
    headings = ("#trial", f"#{unit_title(found.metric)}", *(f"#{key}" for key in keys), "#seconds", "state")
    table = titled_table("Trials, on the validation data", *headings)
    order = ranked(found.trials, found.metric)
    for trial in order[:SHOWN]:
        style = "bold" if trial.number == found.best.number else ""
        cells = [str(trial.number), format_value(found.metric, trial.value)]
        cells += [written(trial.values[key]) if key in trial.values else "–" for key in keys]
        cells += [
            "–" if trial.seconds is None else f"{trial.seconds:,.0f}",
            trial.error.partition("\n")[0] or trial.state,
        ]
        table.add_row(*(Cell(text, style=style) for text in cells))
    console().print(table)
    if len(order) > SHOWN:
        console().print(f"… {len(order) - SHOWN} more in search.html", style="dim")
    if found.importance:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in found.importance.items())
        say(f"importance: {shares}")
    say(
        f"\nmodel:  {found.run / 'best'}\nreport: {found.run / 'report.html'}\nsearch: {found.folder / 'search.html'}\n"
        f"again:  gptwo finetune {found.folder / 'best.toml'} --out runs/best"
    )
