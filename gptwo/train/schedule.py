"""Learning-rate schedules: a pure function of the step, so that a resumed run needs no state of it."""

from __future__ import annotations

import math
from typing import Literal

from gptwo.errors import UsageError

ScheduleName = Literal["cosine", "linear", "wsd", "constant"]


def learning_rate_factor(
    step: int, total: int, *, name: ScheduleName, warmup: int, floor: float = 0.0, decay: float = 0.2
) -> float:
    """The factor of the learning rate at a step.

    Args:
        step: optimizer step, 0 to total - 1.
        total: steps of the whole run.
        name: after the warm-up, "cosine" and "linear" fall to `floor` at the end, "wsd" (warm-up, stable, decay:
            Hu et al. 2024, MiniCPM) stays at 1 and falls linearly over the last `decay` of the run, "constant" stays.
        warmup: steps of linear rise from 1 / (warmup + 1).
        floor: factor at the end, 0 to 1.
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
    if name == "wsd":
        left = max(0.0, min(1.0, (total - step) / max(1.0, decay * total)))
        return floor + (1 - floor) * left
    raise UsageError(f"There is no schedule {name!r}.", where="schedule.name", fix="cosine, linear, wsd or constant")
