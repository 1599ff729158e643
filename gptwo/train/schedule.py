"""When things happen in a run, and the learning rate of each step: functions of the step, which need no saved state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gptwo.errors import UsageError
from gptwo.recipe import Recipe

ScheduleName = Literal["cosine", "linear", "wsd", "constant", "ramp"]


def learning_rate_factor(
    step: int, total: int, *, name: ScheduleName, warmup: int, floor: float = 0.0, decay: float = 0.2
) -> float:
    """The factor of the learning rate at a step.

    Args:
        step: optimizer step, 0 to total - 1.
        total: steps of the whole run.
        name: after the warm-up, "cosine" and "linear" fall to `floor` at the end, "wsd" (warm-up, stable, decay:
            Hu et al. 2024, MiniCPM) stays at 1 and falls linearly over the last `decay` of the run, "constant" stays,
            "ramp" rises from `floor` to 1 by the same factor each step (for the range test of learning rates).
        warmup: steps of linear rise from 1 / (warmup + 1).
        floor: factor at the end, 0 to 1; of "ramp" at the beginning, above 0.
        decay: share of the run in which "wsd" falls, 0 to 1.

    Returns:
        A factor in 0..1.

    >>> [round(learning_rate_factor(s, 10, name="linear", warmup=2), 2) for s in (0, 1, 2, 6, 9)]
    [0.33, 0.67, 1.0, 0.5, 0.12]
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))  # 0 at the end of the warm-up, 1 at the end
    if name == "constant":
        return 1.0
    if name == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if name == "linear":
        return floor + (1 - floor) * (1 - progress)
    if name == "ramp":
        return max(floor, 1e-8) ** (1 - (step - warmup) / max(1, total - 1 - warmup))
    if name == "wsd":
        left = max(0.0, min(1.0, (total - step) / max(1.0, decay * total)))
        return floor + (1 - floor) * left
    raise UsageError(
        f"There is no schedule {name!r}.", where="schedule.name", fix="cosine, linear, wsd, constant or ramp"
    )


@dataclass
class Plan:
    """When things happen, in optimizer steps."""

    total: int
    warmup: int
    evaluate_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, recipe: Recipe, batches_per_epoch: int) -> Plan:
        """From a recipe and the size of the data; epochs are counted in micro-batches, so that none is lost."""
        options, schedule = recipe.train, recipe.schedule
        total = options.steps or max(1, math.ceil(batches_per_epoch * options.epochs / options.accumulate - 1e-9))
        evaluate_every = options.evaluate_every or math.ceil(batches_per_epoch / options.accumulate)
        return cls(
            total=total,
            warmup=round(schedule.warmup * total if schedule.warmup < 1 else schedule.warmup),
            evaluate_every=evaluate_every,
            checkpoint_every=options.checkpoint_every or evaluate_every,
        )
