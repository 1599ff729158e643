"""`gptwo finetune`: records and a task to a tuned model and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.flags import READ, RUN, RecordFlags, RunFlags, flat
from gptwo.cli.options import (
    BatchSizeOption,
    Count,
    FailUnderOption,
    JsonOption,
    LearningRateOption,
    Number,
    OverwriteOption,
    RecipeArgument,
    RecordsOption,
    ResumeOption,
    StartOption,
    StrictOption,
    Text,
    Texts,
)
from gptwo.tasks import NAMES


@flat
def finetune(
    recipe: RecipeArgument = None,
    model: StartOption = None,
    task: Annotated[Text, typer.Option(help=f"{', '.join(NAMES)}.")] = None,
    train: RecordsOption = None,
    valid: Annotated[Texts, typer.Option(help="Records for early stopping; none: a share of train.")] = None,
    test: Annotated[Texts, typer.Option(help="Records for the report; none: those of valid.")] = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/finetune"),
    records: RecordFlags = READ,
    epochs: Annotated[Number, typer.Option(help="Passes over the training data.")] = None,
    steps: Annotated[Count, typer.Option(help="Optimizer steps, instead of epochs.")] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    patience: Annotated[Count, typer.Option(help="Stop after this many evaluations without a better one.")] = None,
    freeze: Annotated[Text, typer.Option(help="Tune all, head, last, embeddings or pattern.")] = None,
    adapter: Annotated[
        Text, typer.Option(help="Tune an adapter and freeze the model: lora, adalora, prefix, ….")
    ] = None,
    machine: RunFlags = RUN,
    strict: StrictOption = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    learning_curve: Annotated[Text, typer.Option(help="Also tune on so many training records each: 10,50,100.")] = None,
    fail_under: FailUnderOption = None,
    json: JsonOption = False,
) -> None:
    """Tune a model for a task; report it before and after, beside cheap baselines."""
    from gptwo.cli.common import check_gate, console, parse_gate, print_json, say
    from gptwo.train.finetune import finetune as run
    from gptwo.tune.sizes import learning_curve as add_sizes
    from gptwo.tune.sizes import parse_sizes

    gate = parse_gate(fail_under)
    sizes = parse_sizes(learning_curve) if learning_curve else []
    settings = {
        "data.strict": strict or None,
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "train.patience": patience,
        "freeze.policy": freeze,
        "adapter.name": adapter,
        **records.settings(),
        **machine.settings(),
    }
    done = run(
        model,
        task=task,
        train=train,
        valid=valid,
        test=test,
        out=out,
        recipe=recipe,
        settings=settings,
        resume=resume,
        overwrite=overwrite,
    )
    if sizes:
        add_sizes(done, sizes, resume=resume)
    if json:
        print_json(done.report.to_dict())
    else:
        done.report.print(console())
        verb = 'generate --model {} "a prompt"' if done.report.task == "language" else 'predict --model {} "a text"'
        say(
            f"\nmodel:  {done.folder / 'best'}\nreport: {done.folder / 'report.html'}\n"
            f"use it: gptwo {verb.format(done.folder)}"
        )
    check_gate(done.report, gate)
