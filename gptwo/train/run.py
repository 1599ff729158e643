"""The run folder: what a run was asked to do, on what, and what came of it.

    recipe.toml       the resolved recipe            events.jsonl    what happened, append-only
    environment.json  machine, versions, hashes      checkpoints/    to go on from
    best/             the best model                 report.json, report.html
    rejects.jsonl     rows that could not be used
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from gptwo import runtime
from gptwo.errors import UsageError
from gptwo.recipe import Recipe
from gptwo.train.checkpoint import list_checkpoints


def open_run(out: str | Path, recipe: Recipe, *, resume: bool, overwrite: bool = False) -> Path:
    """Make or reopen a run folder and write the recipe into it.

    Raises:
        UsageError: there is a run already and neither resume nor overwrite was asked for.
    """
    folder = Path(out).expanduser()
    if folder.is_file():
        raise UsageError("The run folder is a file.", where=folder, fix="choose another --out")
    used = bool(list_checkpoints(folder)) or (folder / "events.jsonl").exists()
    if used and not resume and not overwrite:
        raise UsageError(
            "There is a run in this folder already.",
            where=folder,
            fix="go on with --resume, start anew with --overwrite, or choose another --out",
        )
    if used and overwrite and not resume:
        for name in ("checkpoints", "best"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("events.jsonl", "report.json", "report.html", "rejects.jsonl"):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    return folder


def write_environment(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Write environment.json: the machine, and hashes of the data; returns what it says."""
    environment = {"machine": runtime.describe_machine(), "data": data}
    (folder / "environment.json").write_text(json.dumps(environment, indent=2, ensure_ascii=False), encoding="utf-8")
    return environment


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
