"""Checkpoints: everything a run needs to go on exactly where it was, written so that a kill cannot spoil them.

A checkpoint is a folder `checkpoints/step-000123` with tensors in safetensors and the rest in JSON. It is written
under a temporary name, flushed to the disk and then renamed, and renamed again before it is removed, so a folder of
that name is always whole.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from gptwo.errors import DataError, GptwoError
from gptwo.model.folder import flush

WRITING, REMOVING = ".writing-", ".removing-"


@dataclass
class Progress:
    """Where a run stands, beside its tensors.

    Args:
        step: optimizer steps done.
        batches: micro-batches taken from the loader.
        tokens: tokens trained on.
        best: the best value of the watched metric so far.
        best_step: the step it was reached at.
        bad_evaluations: evaluations since then.
        seconds: time trained, over all sessions.
        loss_sum, loss_count: of the steps since the last log line.
    """

    step: int = 0
    batches: int = 0
    tokens: int = 0
    best: float | None = None
    best_step: int = 0
    bad_evaluations: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: float = 0.0


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    progress: Progress,
    keep: int,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write checkpoints/step-N under `folder`, then remove all but the newest `keep`.

    Args:
        tensors: what is kept of the model, by name; None: every parameter.

    Raises:
        GptwoError: it could not be written (disk full, no permission); earlier checkpoints are untouched.
    """
    parent = folder / "checkpoints"
    final = parent / f"step-{progress.step:06d}"
    scratch = parent / f"{WRITING}{progress.step:06d}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        clear_scratch(parent)
        scratch.mkdir()
        named = dict(model.named_parameters())
        kept = named if tensors is None else tensors
        save_file({name: tensor.detach().contiguous() for name, tensor in kept.items()}, scratch / "model.safetensors")
        save_file(_optimizer_tensors(named, optimizers), scratch / "optimizer.safetensors")
        save_file(_random_state(), scratch / "random.safetensors")
        (scratch / "progress.json").write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
        for path in [*scratch.iterdir(), scratch]:
            flush(path)
        if final.exists():
            _remove(final)
        scratch.rename(final)
        flush(parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise GptwoError(
            "The checkpoint could not be written; earlier ones are untouched.",
            where=final,
            why=str(error),
            fix="free space or mend the permissions, then run the same command with --resume",
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return final


def clear_scratch(parent: Path) -> None:
    """Remove what a killed process has left half-written or half-removed."""
    for leftover in [*parent.glob(f"{WRITING}*"), *parent.glob(f"{REMOVING}*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that a kill leaves all or nothing under its name."""
    doomed = checkpoint.with_name(f"{REMOVING}{checkpoint.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    device: str,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Progress:
    """Put the tensors of a checkpoint into the model, the optimizers and the random generators.

    Args:
        folder: one checkpoint, `checkpoints/step-N`.
        tensors: as `save_checkpoint` was given them.

    Raises:
        DataError: its tensors do not fit this network or these optimizers.
    """
    named = dict(model.named_parameters())
    try:
        stored = load_file(folder / "model.safetensors", device=device)
        states = load_file(folder / "optimizer.safetensors", device=device)
        random = load_file(folder / "random.safetensors")
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            "The checkpoint is damaged.",
            where=folder,
            why=str(error),
            fix="remove this folder and resume from the checkpoint before it",
        ) from error
    kept = named if tensors is None else tensors
    wrong = sorted({*kept} ^ {*stored})
    wrong += [name for name in kept if name in stored and kept[name].shape != stored[name].shape]
    if wrong:
        raise DataError(
            "The checkpoint is of another network.",
            where=folder,
            why=f"differing: {', '.join(wrong[:5])}",
            fix="resume with the recipe of that run, or choose a new --out",
        )
    with torch.no_grad():
        for name, tensor in kept.items():
            tensor.copy_(stored[name])
    names = {id(tensor): name for name, tensor in named.items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                prefix = f"{names[id(tensor)]}|"
                found = {key.removeprefix(prefix): value for key, value in states.items() if key.startswith(prefix)}
                if found:
                    optimizer.state[tensor] = found
    _restore_random_state(random)
    known = {field.name for field in fields(Progress)}
    return Progress(**{key: value for key, value in progress.items() if key in known})


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    found = [p for p in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def check_space(folder: Path, model: nn.Module, keep: int, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
    """See that the checkpoints of a run have room before it starts.

    Args:
        tensors: as `save_checkpoint` will be given them.

    Raises:
        GptwoError: they have not.
    """
    parameters = list(model.parameters() if tensors is None else tensors.values())
    one = sum(tensor.numel() * (4 + 8 * tensor.requires_grad) for tensor in parameters)  # weights, two moments
    need = one * (keep + 1) + 2 * sum(tensor.numel() * 4 for tensor in parameters)  # one in writing; best/, old and new
    here = sum(file.stat().st_size for path in list_checkpoints(folder) for file in path.iterdir())
    free = shutil.disk_usage(folder).free
    if free + here < need:
        raise GptwoError(
            f"The disk has {free / 1e9:.1f} GB free; the checkpoints of this run need {(need - here) / 1e9:.1f} GB.",
            where=folder,
            fix="free space, choose another --out, or lower train.keep_last",
        )


def _optimizer_tensors(named, optimizers) -> dict[str, torch.Tensor]:
    names = {id(tensor): name for name, tensor in named.items()}
    return {
        f"{names[id(tensor)]}|{key}": value.detach().contiguous()
        for optimizer in optimizers
        for tensor, state in optimizer.state.items()
        for key, value in state.items()
    }


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state |= {f"cuda:{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


def _restore_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        for name, value in state.items():
            if name != "cpu":
                torch.cuda.set_rng_state(value, name)
