"""The run folder: what a run was asked to do, on what, and what came of it.

recipe.toml       the resolved recipe             events.jsonl    what happened, append-only
environment.json  machine, versions, data hashes  checkpoints/    to go on from
best/             the best model                  report.json, report.html
rejects.jsonl     rows that could not be used
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from gptwo import runtime
from gptwo.errors import DataError, GptwoError, UsageError
from gptwo.recipe import Recipe, load_recipe
from gptwo.runtime import Choice
from gptwo.train.checkpoint import list_checkpoints

# What a resumed run may have changed; anything else would make another run of it.
FREE_SECTIONS = ("schedule", "track", "search")
FREE = {
    "data": ("train", "valid", "test", "strict"),  # the files are compared by their content
    "train": (
        *("steps", "epochs", "clip", "label_smoothing", "device", "precision", "threads", "compile", "log_every"),
        *("gradient_checkpointing", "evaluate_every", "evaluate_batches", "checkpoint_every", "keep_last"),
        *("sample_every", "sample_prompts", "patience"),
    ),
    "optimizer": (
        *("learning_rate", "muon_learning_rate", "head_learning_rate", "layer_decay", "weight_decay", "l2"),
        *("beta1", "beta2", "epsilon"),
    ),
}


def open_run(out: str | Path, recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Make or reopen a run folder and write the recipe into it.

    Args:
        resume: the folder may hold the same run, which will go on.
        overwrite: an earlier run in the folder is removed.

    Raises:
        UsageError: there is a run already and neither was asked for; both were; or the run to go on with was asked
            to do something else.
        GptwoError: the folder cannot be written.
    """
    folder = Path(out).expanduser()
    if resume and overwrite:
        raise UsageError("--resume goes on with a run, --overwrite removes it.", fix="give one of them")
    used = folder.is_dir() and (bool(list_checkpoints(folder)) or (folder / "events.jsonl").exists())
    if used and not resume and not overwrite:
        raise UsageError(
            "There is a run in this folder already.",
            where=folder,
            fix="go on with --resume, start anew with --overwrite, or choose another --out",
        )
    if used and resume and list_checkpoints(folder) and (folder / "recipe.toml").is_file():
        check_same_recipe(load_recipe(folder / "recipe.toml", environment={}), recipe, folder)
    try:
        if used and overwrite:
            remove_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "recipe.toml", recipe.to_toml())
    except OSError as error:
        raise GptwoError(
            "The run folder cannot be written.",
            where=folder,
            why=error.strerror or str(error),
            fix="choose another --out",
        ) from error
    return folder


def remove_run(folder: Path) -> None:
    """Remove what an earlier run has left in its folder."""
    for name in ("checkpoints", "best", "shards", "tokenizer", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("events.jsonl", "environment.json", "report.json", "report.html", "rejects.jsonl"):
        (folder / name).unlink(missing_ok=True)


def check_same_recipe(before: Recipe, now: Recipe, folder: Path) -> None:
    """A run can only go on as the run it is.

    Raises:
        UsageError: a key that makes it another run has changed; names all of them.
    """
    changed = []
    for section in Recipe.model_fields:
        old, new = getattr(before, section).model_dump(), getattr(now, section).model_dump()
        changed += [
            f"{section}.{key} was {old[key]!r} and is {new[key]!r}"
            for key in old
            if section not in FREE_SECTIONS and key not in FREE.get(section, ()) and old[key] != new[key]
        ]
    if changed:
        raise UsageError(
            "The recipe is not the one this run was begun with.",
            where=folder / "recipe.toml",
            why="; ".join(changed),
            fix="resume with the run's own recipe, start anew with --overwrite, or choose another --out",
        )


def begun_recipe(out: str | Path, *, resume: bool) -> Path | None:
    """The recipe that a resumed run was begun with: what is meant when no recipe is given."""
    path = Path(out).expanduser() / "recipe.toml"
    return path if resume and path.is_file() else None


def nothing_to_resume(out: str | Path) -> UsageError:
    """The error of --resume, with nothing else given, where no run was begun."""
    return UsageError(
        "There is no run to go on with.", where=out, why="it has no recipe.toml", fix="check --out, or begin a run"
    )


def changed_keys(recipe: Recipe) -> list[str]:
    """The keys, dotted, whose value is not their default."""
    plain = Recipe()
    return [
        f"{name}.{key}"
        for name in Recipe.model_fields
        for key, value in getattr(recipe, name)
        if value != getattr(getattr(plain, name), key)
    ]


def without_effect(verb: str, keys: list[str]) -> list[str]:
    """A note on keys that were set for nothing, where there are any."""
    return [f"Set, but not used by gptwo {verb}: {', '.join(keys)}."] if keys else []


def settle(recipe: Recipe, folder: Path, *, resume: bool) -> tuple[Choice, Choice]:
    """Choose device, precision and threads; a resumed run keeps what it began with, unless it is told otherwise.

    Returns:
        The device and the precision. The threads are set for the whole process.

    Raises:
        UsageError, MissingError: as `runtime.pick_device`.
    """
    options = recipe.train
    begun = read_environment(folder).get("run", {}) if resume else {}
    runtime.set_threads(options.threads or min(begun.get("threads", 0), runtime.available_cpus()) or None)
    device = runtime.pick_device(options.device)
    if options.precision == "auto" and begun.get("device") == device.value:
        return device, Choice(begun["precision"], "as the run began")
    return device, runtime.pick_precision(options.precision, device.value)


def write_environment(
    folder: Path, device: Choice, precision: Choice, data: dict[str, list[str]], *, resume: bool
) -> dict[str, Any]:
    """Write environment.json: the machine, what was chosen on it, and hashes of the data; returns the machine.

    Args:
        data: part ("train", "valid", "test") to the sha256 of its files; "base" to an adapter's base.
        resume: the data must be those the run was begun with (but for the test data).

    Raises:
        DataError: they are not.
    """
    import torch

    before = read_environment(folder).get("data", {}) if resume and list_checkpoints(folder) else {}
    if "base" in before and before["base"] != data.get("base"):
        raise DataError(
            "The base of the adapter is not the one this run was begun over.",
            where=folder,
            why="its fingerprint differs from that in environment.json",
            fix="bring back the old base, start anew with --overwrite, or choose another --out",
        )
    for part in ("train", "valid"):
        if part in before and sorted(before[part]) != sorted(data.get(part, [])):
            raise DataError(
                f"The {part} data are not those this run was begun with.",
                where=folder,
                why="their sha256 differ from those in environment.json",
                fix="bring back the old files, start anew with --overwrite, or choose another --out",
            )
    machine = runtime.describe_machine()
    run = {"device": device.value, "precision": precision.value, "threads": torch.get_num_threads()}
    content = {"machine": machine, "run": run, "data": data}
    write_text(folder / "environment.json", json.dumps(content, indent=2, ensure_ascii=False))
    return machine


def read_environment(folder: Path) -> dict[str, Any]:
    """What environment.json says; nothing where it is absent or damaged."""
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a kill leaves the old one or the new one."""
    scratch = path.with_name(f"{path.name}.writing")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
