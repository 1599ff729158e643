"""The range test of learning rates: training begins at a tiny rate that rises by a factor each step.

The loss stays, falls, and then grows again; a good peak lies well below where it is lowest (Smith 2017, "Cyclical
Learning Rates for Training Neural Networks", https://arxiv.org/abs/1506.01186, section 3.3).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptwo.errors import DivergedError, UsageError
from gptwo.evaluate.charts import COLOURS, Line
from gptwo.evaluate.html_parts import figure, page, safe, section
from gptwo.evaluate.scatter import Dots, scatter_chart
from gptwo.recipe import Recipe, SearchSection
from gptwo.train.events import read_events
from gptwo.train.finetune import finetune, resolve
from gptwo.train.run import write_text

BELOW_LOWEST = 10.0  # the suggestion is the rate of the lowest loss divided by this
MEMORY = 0.9  # of the moving average
TOO_HIGH = 4.0  # times the lowest smoothed loss: what comes after is left out


@dataclass
class RateRange:
    """What the test found.

    Args:
        rates, losses, smoothed: of each step.
        lowest: the rate at which the smoothed loss is lowest.
        steepest: the rate at which it falls fastest.
        suggested: a peak to begin with: a tenth of `lowest`.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    lowest: float
    steepest: float
    suggested: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def find_rates(
    model: str | Path | None = None,
    *,
    task: str | None = None,
    train: str | Path | Sequence[str | Path] | None = None,
    valid: str | Path | Sequence[str | Path] | None = None,
    out: str | Path = "runs/rates",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    low: float = 1e-7,
    high: float = 0.1,
    steps: int = 100,
    overwrite: bool = False,
) -> RateRange:
    """Train `steps` steps while the learning rate rises from `low` to `high`.

    Args:
        model, task, train, valid, recipe, settings: as `gptwo.finetune` has them.
        out: folder of rates.html, rates.json and the events of the run.

    Raises:
        UsageError: bounds that are none, fewer than 20 steps; otherwise as `gptwo.finetune`.
    """
    if not 0 < low < high or steps < 20:
        raise UsageError("The rate must rise from above 0, over 20 steps or more.", where="--lr-range")
    resolved = resolve(recipe, model, task, {"train": train, "valid": valid, "test": None}, settings)
    resolved.search, resolved.data.test = SearchSection(), []
    resolved.optimizer.learning_rate = high
    resolved.schedule.name, resolved.schedule.warmup, resolved.schedule.floor = "ramp", 0.0, low / high
    resolved.train.steps, resolved.train.log_every = steps, 1
    resolved.train.evaluate_every = resolved.train.checkpoint_every = steps
    resolved.train.patience, resolved.train.metric = None, None
    folder = Path(out).expanduser()
    try:
        finetune(recipe=resolved, out=folder, overwrite=overwrite)
    except DivergedError:
        if not _course(folder):
            raise
    for name in ("checkpoints", "best"):  # a network that was trained to pieces is of no use
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("report.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    found = judge(*zip(*_course(folder), strict=True))
    write_text(folder / "rates.json", json.dumps(found.to_dict(), indent=1) + "\n")
    write_text(
        folder / "rates.html", render_rates(found, f"{resolved.model.base}: {Path(resolved.data.train[0]).name}")
    )
    return found


def _course(folder: Path) -> list[tuple[float, float]]:
    """(rate, loss) of each step whose loss is a number."""
    steps = [event for event in read_events(folder) if event["kind"] == "step"]
    return [(event["learning_rate"], event["loss"]) for event in steps if event.get("loss") is not None]


def judge(rates: Sequence[float], losses: Sequence[float]) -> RateRange:
    """The three rates of a course; what comes after the loss has grown fourfold is left out.

    >>> losses = [2 - min(i, 60) / 60 + max(0, i - 60) for i in range(100)]
    >>> found = judge([10 ** (-6 + i / 20) for i in range(100)], losses)
    >>> found.steepest < found.lowest, round(found.lowest / found.suggested)
    (True, 10)
    """
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = MEMORY * average + (1 - MEMORY) * loss
        smoothed.append(average / (1 - MEMORY**count))
        if smoothed[-1] > TOO_HIGH * min(smoothed):
            break
    place = min(range(len(smoothed)), key=smoothed.__getitem__)
    slopes = [
        (smoothed[i + 1] - smoothed[i - 1]) / (math.log(rates[i + 1]) - math.log(rates[i - 1]))
        for i in range(1, max(2, place))
        if i + 1 < len(smoothed)
    ]
    steepest = 1 + min(range(len(slopes)), key=slopes.__getitem__) if slopes else 0
    kept = len(smoothed)
    return RateRange(
        rates=list(rates[:kept]),
        losses=list(losses[:kept]),
        smoothed=smoothed,
        lowest=rates[place],
        steepest=rates[steepest],
        suggested=rates[place] / BELOW_LOWEST,
    )


def render_rates(found: RateRange, title: str) -> str:
    """rates.html: the loss over the learning rate, with the suggestion."""
    marks = [
        Dots(name, [rate], [found.smoothed[_nearest(found.rates, rate)]], colour, [f"{name}: {rate:.2e}"])
        for name, rate, colour in (
            ("lowest loss", found.lowest, COLOURS[1]),
            ("steepest fall", found.steepest, COLOURS[3]),
            ("suggested", found.suggested, COLOURS[2]),
        )
        if rate >= found.rates[0]
    ]
    line = Line("smoothed loss", found.rates, found.smoothed, COLOURS[0])
    legend = "".join(f'<span style="--swatch:{part.colour}">{safe(part.name)}</span>' for part in (line, *marks))
    chart = scatter_chart(marks, title="Loss over the learning rate", x_title="learning rate", log=True, lines=[line])
    body = figure("Training loss, nats", f'<div class="legend">{legend}</div>{chart}')
    hint = (
        "The rate rises by the same factor each step. Below the fall nothing is learned; beyond the lowest loss "
        "training breaks. The suggestion is a tenth of the rate with the lowest loss."
    )
    return page(
        f"{title}: learning rates",
        f'<header>\n<p class="kicker">gptwo · learning rates</p>\n<h1>{safe(title)}</h1>\n</header>\n'
        f'<div class="verdict better">\n<p class="lead">Try {found.suggested:.1e} as the peak learning rate.</p>\n'
        f'<p class="detail">The loss fell fastest at {found.steepest:.1e} and was lowest at {found.lowest:.1e}.</p>\n'
        f"</div>\n{section('Range test', safe(hint), body)}",
    )


def _nearest(rates: Sequence[float], rate: float) -> int:
    return min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / rate)))
