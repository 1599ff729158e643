"""`gptwo finetune`: records and a task to a tuned model and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Text = Optional[str]  # noqa: UP045 - Typer reads these at run time
Texts = Optional[list[str]]  # noqa: UP045
Number = Optional[float]  # noqa: UP045
Count = Optional[int]  # noqa: UP045
File = Optional[Path]  # noqa: UP045


def finetune(
    recipe: Annotated[File, typer.Argument(help="recipe (TOML); flags and --set go over it")] = None,
    model: Annotated[Text, typer.Option(help="model to start from: a name or a folder")] = None,
    task: Annotated[Text, typer.Option(help="language, classify or tag")] = None,
    train: Annotated[Texts, typer.Option(help="training records: files, folders or globs")] = None,
    valid: Annotated[Texts, typer.Option(help="records for early stopping; none: a share of train")] = None,
    test: Annotated[Texts, typer.Option(help="records for the report; none: those of valid")] = None,
    out: Annotated[Path, typer.Option(help="run folder")] = Path("runs/finetune"),
    columns: Annotated[Text, typer.Option(help="our name = theirs: text=review,label=stars")] = None,
    format: Annotated[Text, typer.Option(help="csv, tsv, jsonl, json, parquet, conll, label-first")] = None,
    encoding: Annotated[Text, typer.Option(help="of the records' files, e.g. gb18030")] = None,
    epochs: Annotated[Number, typer.Option(help="passes over the training data")] = None,
    steps: Annotated[Count, typer.Option(help="optimizer steps, instead of epochs")] = None,
    batch_size: Annotated[Count, typer.Option(help="records in a micro-batch")] = None,
    learning_rate: Annotated[Number, typer.Option(help="peak learning rate")] = None,
    patience: Annotated[Count, typer.Option(help="stop after this many evaluations without a better one")] = None,
    freeze: Annotated[Text, typer.Option(help="tune all, head, last, embeddings or pattern")] = None,
    seed: Annotated[Count, typer.Option(help="of the new head, order and dropout")] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu, cuda, mps")] = None,
    precision: Annotated[Text, typer.Option(help="auto, bf16, fp32")] = None,
    threads: Annotated[Count, typer.Option(help="CPU threads")] = None,
    set_: Annotated[Texts, typer.Option("--set", help="any recipe key: train.clip=0.5")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="stop at the first bad row (exit 3)")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint of --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="start anew in a used run folder")] = False,
    fail_under: Annotated[Text, typer.Option(help="metric=value the tuned model must reach, else exit 5")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the report as JSON on stdout")] = False,
) -> None:
    """Tune a model for a task; report it before and after, beside cheap baselines."""
    from gptwo.cli.common import check_gate, console, parse_columns, parse_gate, print_json
    from gptwo.recipe import parse_assignments
    from gptwo.train.finetune import finetune as run

    gate = parse_gate(fail_under)
    settings = {
        "data.columns": parse_columns(columns),
        "data.format": format,
        "data.encoding": encoding,
        "data.strict": strict or None,
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "train.patience": patience,
        "freeze.policy": freeze,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "train.threads": threads,
        **parse_assignments(set_ or []),
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
    if json:
        print_json(done.report.to_dict())
    else:
        done.report.print(console())
        verb = 'generate --model {} "a prompt"' if done.report.task == "language" else 'predict --model {} "a text"'
        console().print(
            f"\nmodel:  {done.folder / 'best'}\nreport: {done.folder / 'report.html'}\n"
            f"use it: gptwo {verb.format(done.folder)}",
            soft_wrap=True,
            markup=False,
        )
    check_gate(done.report, gate)
