"""`gptwo pretrain`: running text to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.flags import RUN, RunFlags, flat
from gptwo.cli.options import (
    BatchSizeOption,
    Count,
    JsonOption,
    LearningRateOption,
    OverwriteOption,
    RecipeArgument,
    ResumeOption,
    Text,
    Texts,
)


@flat
def pretrain(
    recipe: RecipeArgument = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/pretrain"),
    train: Annotated[Texts, typer.Option(help="Text files, folders, globs, or token shards.")] = None,
    valid: Annotated[Texts, typer.Option(help="Held-out text.")] = None,
    base: Annotated[Text, typer.Option("--model", help="Go on from this model (name or folder).")] = None,
    tokenizer: Annotated[Text, typer.Option(help="Tokenizer folder, for fresh weights.")] = None,
    preset: Annotated[Text, typer.Option(help="gpt2, gpt2-medium, gpt2-large, gpt2-xl.")] = None,
    steps: Annotated[Count, typer.Option(help="Optimizer steps.")] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    machine: RunFlags = RUN,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Train a language model on text, from fresh weights or going on from a model."""
    from gptwo.cli.common import console, print_json, say
    from gptwo.evaluate.report import read_report
    from gptwo.recipe import load_recipe
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
        **machine.settings(),
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
        say(f'\nmodel: {model.folder}\ntry it: gptwo generate --model {out} "a prompt"')
