"""`gptwo init`: a commented recipe to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STARTERS: dict[str, dict[str, dict[str, object]]] = {
    "pretrain": {
        "model": {"tokenizer": "tokenizer", "n_layer": 6, "n_embd": 320, "n_head": 5, "n_positions": 512},
        "data": {"train": ["texts/*.txt"], "valid": ["held-out/*.txt"]},
        "train": {"steps": 2000, "batch_size": 8, "accumulate": 2, "evaluate_every": 200},
        "optimizer": {"name": "muon", "learning_rate": 3e-3, "weight_decay": 0.05, "beta2": 0.95},
        "schedule": {"name": "wsd", "warmup": 50},
    },
    "language": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.jsonl"], "valid": ["valid.jsonl"]},
        "task": {"name": "language"},
        "train": {"epochs": 3, "batch_size": 16},
        "optimizer": {"learning_rate": 5e-4},
    },
    "classify": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.csv"], "test": ["test.csv"], "columns": {"text": "text", "label": "label"}},
        "task": {"name": "classify"},
        "train": {"epochs": 8, "batch_size": 16, "patience": 3},
        "optimizer": {"learning_rate": 5e-4},
    },
    "tag": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.conll"], "valid": ["valid.conll"], "test": ["test.conll"], "format": "conll"},
        "task": {"name": "tag"},
        "train": {"epochs": 6, "batch_size": 16, "patience": 3},
        "optimizer": {"learning_rate": 5e-4},
    },
    "match": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"]},
        "task": {"name": "match"},
        "train": {"epochs": 8, "batch_size": 16, "patience": 3},
        "optimizer": {"learning_rate": 5e-4},
    },
    "rank": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "max_length": 128},
        "task": {"name": "rank", "loss": "listwise"},
        "train": {"epochs": 5, "patience": 2},
        "optimizer": {"learning_rate": 5e-4},
    },
    "choice": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "max_length": 160},
        "task": {"name": "choice", "score": "likelihood"},
        "train": {"epochs": 5, "patience": 2},
        "optimizer": {"learning_rate": 1e-4},
    },
    "extract": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "max_length": 512},
        "task": {"name": "extract", "context": "both"},
        "train": {"epochs": 4, "patience": 2},
        "optimizer": {"learning_rate": 5e-4},
    },
    "joint": {
        "model": {"base": "gptwo-mini"},
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"]},
        "task": {"name": "joint", "kinds": ["topic", "sentiment"]},
        "train": {"epochs": 8, "batch_size": 16, "patience": 3},
        "optimizer": {"learning_rate": 5e-4},
    },
}


def init(
    task: Annotated[str, typer.Argument(help=f"{', '.join(STARTERS)}.")] = "classify",
    out: Annotated[Path, typer.Option(help="The file.")] = Path("recipe.toml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a recipe with every key, its default and what it means."""
    from gptwo.cli.common import say
    from gptwo.errors import UsageError, did_you_mean
    from gptwo.recipe import commented_recipe

    if task not in STARTERS:
        raise UsageError(f"There is no starter for {task!r}.", fix=did_you_mean(task, STARTERS))
    if out.exists() and not overwrite:
        raise UsageError("The file is there already.", where=out, fix="--overwrite, or another --out")
    verb = "pretrain" if task == "pretrain" else "finetune"
    out.write_text(f"# gptwo {verb} {out} --out runs/mine\n\n{commented_recipe(STARTERS[task])}", encoding="utf-8")
    say(f"{out}: set data.train to your files, then run: gptwo {verb} {out} --out runs/mine")
