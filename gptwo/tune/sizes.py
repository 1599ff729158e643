"""The learning curve over the size of the training data: the same recipe on fewer records."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from gptwo.errors import UsageError
from gptwo.evaluate.report import Report, SizePoint
from gptwo.recipe import load_recipe
from gptwo.train.finetune import Run, finetune
from gptwo.tune.space import with_values


def parse_sizes(text: str, where: str = "--learning-curve") -> list[int]:
    """Numbers of training records, ascending.

    >>> parse_sizes("100, 10,50")
    [10, 50, 100]

    Raises:
        UsageError: not of that form, or a number below 2.
    """
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UsageError(f"{text!r} are no numbers of records.", where=where, fix="10,50,100") from error
    if sizes[0] < 2:
        raise UsageError("A run needs two records at least.", where=where, fix="10,50,100")
    return sizes


def learning_curve(run: Run, sizes: Sequence[int], *, resume: bool = False) -> Report:
    """Tune on some of a run's training records, drawn at random, and add the figures to its report.

    Every size is a run of its own in the folder `sizes` of the run, with the same test data; its weights are not kept.

    Args:
        run: a finished run with all the data.
        sizes: numbers of training records; those that the run does not exceed are left out.
        resume: go on with runs that were begun; otherwise they begin anew.

    Raises:
        Interrupted: stopped by a signal; can be resumed.
    """
    recipe = load_recipe(run.folder / "recipe.toml", environment={})
    points = []
    for size in sizes:
        if size >= run.records["train"]:
            continue
        folder = run.folder / "sizes" / f"{size:06d}"
        part = with_values(recipe, {"data.limit": size})
        one = finetune(recipe=part, out=folder, resume=resume, overwrite=not resume)
        points.append(SizePoint(one.records["train"], figures(one.report)))
        for name in ("checkpoints", "best"):
            shutil.rmtree(folder / name, ignore_errors=True)
    run.report.sizes = [*points, SizePoint(run.records["train"], figures(run.report))]
    run.report.write(run.folder)
    return run.report


def figures(report: Report) -> dict[str, float]:
    """The primary metric of each system: the tuned one first."""
    order = sorted(report.systems, key=lambda system: system is not report.tuned)
    found = {system.name: system.value(report.primary) for system in order}
    return {name: value for name, value in found.items() if value is not None}
