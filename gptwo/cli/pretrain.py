"""`gptwo pretrain`: running text to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def pretrain(
    recipe: Annotated[Optional[Path], typer.Argument(help="recipe (TOML); flags and --set go over it")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="run folder")] = Path("runs/pretrain"),
    train: Annotated[Optional[list[str]], typer.Option(help="text files, folders, globs, or token shards")] = None,  # noqa: UP045
    valid: Annotated[Optional[list[str]], typer.Option(help="held-out text")] = None,  # noqa: UP045
    base: Annotated[Optional[str], typer.Option("--model", help="go on from this model (name or folder)")] = None,  # noqa: UP045
    tokenizer: Annotated[Optional[str], typer.Option(help="tokenizer folder, for fresh weights")] = None,  # noqa: UP045
    preset: Annotated[Optional[str], typer.Option(help="gpt2, gpt2-medium, gpt2-large, gpt2-xl")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="optimizer steps")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(help="rows in a micro-batch")] = None,  # noqa: UP045
    learning_rate: Annotated[Optional[float], typer.Option(help="peak learning rate")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="of weights, order and dropout")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="auto, cpu, cuda, mps")] = None,  # noqa: UP045
    precision: Annotated[Optional[str], typer.Option(help="auto, bf16, fp32")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(help="CPU threads")] = None,  # noqa: UP045
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any recipe key: train.clip=0.5")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint of --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="start anew in a used run folder")] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object at the end")] = False,
) -> None:
    """Train a language model on text, from fresh weights or going on from a model."""
    from gptwo.cli.common import console, print_json
    from gptwo.evaluate.report import read_report
    from gptwo.recipe import load_recipe, parse_assignments
    from gptwo.train.pretrain import pretrain as run
    from gptwo.train.run import begun_recipe, nothing_to_resume

    flags = {
        "data.train": train,
        "data.valid": valid,
        "model.base": base,
        "model.tokenizer": tokenizer,
        "model.preset": preset,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "train.threads": threads,
        **parse_assignments(set_ or []),
    }
    given = recipe or begun_recipe(out, resume=resume)
    if resume and given is None and train is None:
        raise nothing_to_resume(out)
    resolved = load_recipe(given, flags)
    model = run(resolved, out, resume=resume, overwrite=overwrite)
    if json:
        print_json({"run": str(out), "model": str(model.folder), **model.info})
    else:
        if (out / "report.json").is_file():
            read_report(out).print(console())
        console().print(
            f'\nmodel: {model.folder}\ntry it: gptwo generate --model {out} "a prompt"', soft_wrap=True, markup=False
        )
