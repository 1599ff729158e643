"""`gptwo augment`: more labelled records out of few, and whether they help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gptwo.cli.flags import READ, RUN, RecordFlags, RunFlags, flat
from gptwo.cli.options import (
    FailUnderOption,
    File,
    JsonOption,
    OverwriteOption,
    RecipeArgument,
    ResumeOption,
    StrictOption,
    Text,
    Texts,
)


@flat
def augment(
    recipe: RecipeArgument = None,
    model: Annotated[Text, typer.Option(help="Model that learns to write: a name or a folder.")] = None,
    train: Annotated[Texts, typer.Option(help="Records of text and label to begin with.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("runs/augment"),
    times: Annotated[float, typer.Option(help="Texts wanted for each given record.")] = 1.0,
    tries: Annotated[float, typer.Option(help="Texts written for each one wanted at most.")] = 6.0,
    confidence: Annotated[float, typer.Option(help="Least probability that the judge gives the label.")] = 0.5,
    judge: Annotated[Text, typer.Option(help="tfidf, or a tuned classifier: its folder.")] = None,
    measure: Annotated[
        Text, typer.Option(help="Measure what it changes with so many given records of each label: 10,50,100.")
    ] = None,
    test: Annotated[Texts, typer.Option(help="Records to measure on; nothing like them is kept.")] = None,
    classify: Annotated[File, typer.Option(help="Measure: recipe of a network that is to be helped, too.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Measure: how often the given records are drawn.")] = 3,
    records: RecordFlags = READ,
    machine: RunFlags = RUN,
    strict: StrictOption = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    fail_under: FailUnderOption = None,
    json: JsonOption = False,
) -> None:
    """Write more labelled records: a tuned model writes, a classifier chooses, copies are left out."""
    from gptwo.cli.common import check_gate, console, parse_gate, print_json, say
    from gptwo.errors import UsageError
    from gptwo.train.augment import TFIDF, Wish, augment, test_texts

    gate = parse_gate(fail_under)
    if gate and not measure:
        raise UsageError("Nothing is measured.", where="--fail-under", fix="--measure 10,50,100 --test test.jsonl")
    if resume and (overwrite or not measure):
        raise UsageError("Only a measurement can go on.", where="--resume", fix="--measure …, without --overwrite")
    settings: dict[str, Any] = {
        "data.strict": strict or None,
        **records.settings(),
        **machine.settings(),
    }
    wish = Wish(times, tries, confidence)
    shared: dict[str, Any] = {
        "train": train,
        "out": out,
        "recipe": recipe,
        "settings": settings,
        "wish": wish,
        "overwrite": overwrite,
    }
    if measure:
        from gptwo.train.augment_measure import measure_augmentation
        from gptwo.tune.sizes import parse_sizes

        report = measure_augmentation(
            model,
            test=test or [],
            classify=classify,
            sizes=parse_sizes(measure, where="--measure"),
            draws=draws,
            judge=judge,
            resume=resume,
            **shared,
        )
        if json:
            print_json(report.to_dict())
        else:
            report.print(console())
        check_gate(report, gate)
        return
    held_out = test_texts(test, recipe, settings) if test else []
    done = augment(model, judge=judge or TFIDF, held_out=held_out, **shared)
    if json:
        print_json(done.to_dict())
        return
    for label, count in done.written.items():
        console().print(f"{label}: {done.given[label]:,} given, {count:,} written", markup=False)
    refused = ", ".join(f"{count:,} {reason}" for reason, count in done.refused.items())
    say(f"{done.drawn:,} texts were written; refused: {refused or 'none'}")
    for note in done.notes:
        console().print(note, markup=False, style="yellow", soft_wrap=True)
    say(f"\nrecords: {done.folder / 'train.jsonl'}")
