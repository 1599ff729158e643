"""What a search may try: the ranges of a recipe as values of a trial, and a recipe with such values."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptwo.errors import UsageError
from gptwo.recipe import Range, Recipe
from gptwo.train.finetune import resolve

if TYPE_CHECKING:
    import optuna

EXAMPLE = '"optimizer.learning_rate" = { low = 1e-5, high = 1e-3, log = true }'


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with other values of dotted keys; raises `UsageError` where one does not fit."""
    return resolve(recipe, None, None, {}, values)


def check_ranges(recipe: Recipe) -> None:
    """See that there is something to search, and that both ends of a range and every choice fit its key.

    Raises:
        UsageError: nothing to search, no choice, a value that does not fit, or a grid over a range without steps.
    """
    ranges = recipe.search.ranges
    if not ranges:
        raise UsageError("There is nothing to search.", where="[search]", fix=EXAMPLE)
    for key, span in ranges.items():
        if isinstance(span, list) and not span:
            raise UsageError("There is nothing to choose from.", where=f"search: {key}", fix=EXAMPLE)
        for value in span if isinstance(span, list) else (span.low, span.high):
            with_values(recipe, {key: value})
        if recipe.search.sampler == "grid":
            grid_values(key, span)


def suggest(trial: optuna.trial.BaseTrial, ranges: Mapping[str, Range | list[Any]], *, grid: bool) -> dict[str, Any]:
    """The values of a trial; a trial that has them already gives the same again."""
    found: dict[str, Any] = {}
    for key, span in ranges.items():
        if grid or isinstance(span, list):
            choices = grid_values(key, span)
            found[key] = json.loads(trial.suggest_categorical(key, [json.dumps(choice) for choice in choices]))
        elif is_whole(span):
            step = int(span.step or 1)
            found[key] = trial.suggest_int(key, int(span.low), int(span.high), step=step, log=span.log)
        else:
            found[key] = trial.suggest_float(key, span.low, span.high, step=span.step, log=span.log)
    return found


def values_of(ranges: Mapping[str, Range | list[Any]], parameters: Mapping[str, Any], *, grid: bool) -> dict[str, Any]:
    """The values of a trial from its stored parameters: choices are stored as JSON."""
    return {
        key: json.loads(value) if grid or isinstance(ranges.get(key), list) else value
        for key, value in parameters.items()
    }


def grid_values(key: str, span: Range | Sequence[Any]) -> list[Any]:
    """All values of a list, or of a range with steps.

    >>> grid_values("freeze.last", Range(low=1, high=3))
    [1, 2, 3]

    Raises:
        UsageError: a range between whose ends lies anything.
    """
    if not isinstance(span, Range):
        return list(span)
    step = span.step or (1 if is_whole(span) and not span.log else None)
    if step is None:
        raise UsageError(
            "A grid needs choices or a step.", where=f"search: {key}", fix=f'"{key}" = [{span.low}, {span.high}]'
        )
    count = math.floor((span.high - span.low) / step + 1e-9) + 1
    return [span.low + i * step for i in range(count)]


def grid_points(recipe: Recipe) -> list[dict[str, str]]:
    """Every combination of the choices and steps, as a trial stores them, in an order drawn by the seed."""
    spans = {key: grid_values(key, span) for key, span in recipe.search.ranges.items()}
    points = [dict(zip(spans, map(json.dumps, choice), strict=True)) for choice in itertools.product(*spans.values())]
    random.Random(recipe.train.seed).shuffle(points)
    return points


def is_whole(span: Range) -> bool:
    """Whether a range is one of whole numbers."""
    return all(isinstance(value, int) for value in (span.low, span.high, span.step or 1))
