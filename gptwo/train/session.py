"""One session of a run: seeded and told to its trackers, with a best model at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gptwo.data.loader import BatchSource
from gptwo.errors import DivergedError
from gptwo.model.heads import Model
from gptwo.recipe import Recipe
from gptwo.runtime import Choice
from gptwo.train.step import Objective
from gptwo.train.track import make_trackers
from gptwo.train.trainer import Hooks, Outcome, train


def run_session(
    model: Model,
    objective: Objective,
    source: BatchSource,
    *,
    recipe: Recipe,
    folder: Path,
    hooks: Hooks,
    tuned: list[str],
    precision: Choice,
    resume: bool,
    notices: Sequence[str] = (),
) -> Outcome:
    """Train with the recipe's seed and trackers; arguments as `trainer.train` has them.

    Args:
        notices: what the trackers are told before the first step.

    Raises:
        DivergedError: as `train`; or no evaluation gave a number, so that there is no best model.
    """
    torch.manual_seed(recipe.train.seed)  # of dropout
    with make_trackers(
        recipe.track.trackers, folder, project=recipe.track.project, recipe=recipe.model_dump()
    ) as trackers:
        for notice in notices:
            trackers.emit("notice", message=notice)
        outcome = train(
            model,
            objective,
            source,
            recipe=recipe,
            folder=folder,
            trackers=trackers,
            hooks=hooks,
            tuned=tuned,
            precision=precision,
            resume=resume,
        )
    if hooks.evaluate is not None and outcome.progress.best is None:
        raise DivergedError(
            f"No evaluation gave a number for {hooks.metric!r}, so there is no best model.",
            where=folder / "events.jsonl",
            why="the network's scores were not finite",
            fix="lower optimizer.learning_rate, or look at the data",
        )
    return outcome
