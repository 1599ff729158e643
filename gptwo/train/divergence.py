"""When training has gone to pieces: what diverged, where, and the way back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gptwo.errors import DivergedError
from gptwo.recipe import Recipe
from gptwo.train.checkpoint import list_checkpoints

NAMED = 5  # records of a step that are named
STEADIER = "lower optimizer.learning_rate or lengthen schedule.warmup"


class NotFinite(ArithmeticError):
    """A step whose loss or gradient is no number; the weights were not changed.

    Args:
        loss: mean over the labels; norm: of the gradient.
        learning_rate: AdamW's at this step.
    """

    def __init__(self, loss: float, norm: float, learning_rate: float):
        super().__init__(loss, norm, learning_rate)
        self.loss, self.norm, self.learning_rate = loss, norm, learning_rate


def diverged_step(
    found: NotFinite, step: int, records: Sequence[str], recipe: Recipe, folder: Path, resumed_at: int | None
) -> DivergedError:
    """The error of a step that could not be taken.

    Args:
        step: its number, counted from 1.
        records: where its records stand, "file:row".
        resumed_at: the step this session went on from; None where it began anew.
    """
    more = f" and {len(records) - NAMED} more" if len(records) > NAMED else ""
    fixes = [STEADIER]
    if not recipe.train.clip:
        fixes.append("clip the gradient (train.clip = 1.0)")
    if math.isfinite(found.loss):
        why = "the loss is a number still, its gradient is none"
    else:
        why = "too high a rate, or damaged data, end like this"
    if records:
        fixes.append("look at these records")
    return DivergedError(
        f"The loss is {found.loss}, the norm of its gradient {found.norm}: training has diverged; "
        "the weights were not changed.",
        where=f"step {step}" + (f", records {', '.join(records[:NAMED])}{more}" if records else ""),
        why=f"at learning rate {found.learning_rate:.2e} and train.clip {recipe.train.clip:g}; {why}",
        fix=", ".join(fixes) + f"; {way_back(folder, step, resumed_at)}",
    )


def check_weights_finite(weights: Mapping[str, Tensor], step: int, folder: Path, resumed_at: int | None) -> None:
    """Whether weights are worth a checkpoint.

    Raises:
        DivergedError: one is no number after `step` steps.
    """
    for name in not_finite(weights):
        raise DivergedError(
            f"The weight {name} is not finite any more: training has diverged; no checkpoint was written.",
            where=f"step {step}",
            fix=f"{STEADIER}; {way_back(folder, step, resumed_at)}",
        )


def not_finite(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of tensors that hold NaN or infinite values."""
    for name, tensor in weights.items():
        values = tensor.detach()
        if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
            yield name


def way_back(folder: Path, step: int, resumed_at: int | None) -> str:
    """How a run that diverged in a step goes on."""
    kept = [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]
    if not kept:
        return "then begin anew with --overwrite, for there is no checkpoint yet"
    if resumed_at == step - 1 == kept[-1]:  # it could not take a single step: what it went on from was bad already
        before = f", and --resume goes on from step {kept[-2]}" if len(kept) > 1 else " and begin anew with --overwrite"
        return f"the checkpoint of step {kept[-1]} had diverged already: remove {list_checkpoints(folder)[-1]}{before}"
    return f"then --resume goes on from step {kept[-1]}, whose checkpoint is kept"
