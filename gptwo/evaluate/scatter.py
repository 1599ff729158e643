"""A scatter chart as inline SVG: dots over a linear or logarithmic axis, or over named choices; lines behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gptwo.evaluate.charts import (
    COLOURS,
    HEIGHT,
    WIDTH,
    Line,
    grid,
    number,
    polyline,
    scale_of,
    shorten,
    svg,
    x_axis,
)
from gptwo.evaluate.html_parts import safe

LEFT, RIGHT, TOP, BASE = 46, WIDTH - 14, 10, HEIGHT - 36


@dataclass
class Dots:
    """Points of one kind; `hints` are shown where one points at them."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[0]
    hints: Sequence[str] = field(default_factory=list)


def scatter_chart(
    groups: Sequence[Dots],
    *,
    title: str,
    x_title: str,
    log: bool = False,
    names: Sequence[str] = (),
    lines: Sequence[Line] = (),
) -> str:
    """Dots, and lines behind them, over a common axis; at least one dot.

    Args:
        title: what a screen reader says.
        log: the x axis is logarithmic; all x lie above 0.
        names: of the x values 0, 1, 2, …: choices instead of numbers.
    """
    place: Callable[[float], float] = math.log10 if log else float
    xs = np.array([place(x) for dots in (*groups, *lines) for x in dots.x])
    ys = np.array([y for dots in (*groups, *lines) for y in dots.y], dtype=float)
    low, high = float(ys.min()), float(ys.max())
    pad = 0.08 * (high - low) or max(abs(high) * 0.05, 0.01)
    first, last = (-0.5, len(names) - 0.5) if names else _ends(float(xs.min()), float(xs.max()))
    x_scale, y_scale = scale_of(first, last, LEFT, RIGHT), scale_of(low - pad, high + pad, BASE, TOP)
    out = [grid(low - pad, high + pad, y_scale)]
    for line in lines:
        out.append(polyline([place(x) for x in line.x], line.y, x_scale, y_scale, line.colour, width=1.5))
    for dots in groups:
        hints = list(dots.hints) or [""] * len(dots.x)
        for x, y, hint in zip(dots.x, dots.y, hints, strict=True):
            out.append(
                f'<circle cx="{number(x_scale(place(x)))}" cy="{number(y_scale(y))}" r="4" fill="{dots.colour}" '
                f'fill-opacity=".75"><title>{safe(hint)}</title></circle>'
            )
    if log:
        out.append(_powers(first, last, x_scale, x_title))
    elif names:
        out.append(_choices(names, x_scale, x_title))
    else:
        out.append(x_axis(first, last, x_scale, x_title))
    return svg(WIDTH, HEIGHT, title, out)


def _ends(low: float, high: float) -> tuple[float, float]:
    """Room on both sides, so that no dot lies on the edge."""
    pad = 0.04 * (high - low) or max(abs(high) * 0.05, 0.5)
    return low - pad, high + pad


def _axis(ticks: Sequence[tuple[float, str]], x_scale: Callable[[float], float], title: str) -> str:
    out = f'<line x1="{LEFT}" x2="{RIGHT}" y1="{BASE}" y2="{BASE}" class="axis-line"/>'
    for x, text in ticks:
        at = number(x_scale(x))
        out += (
            f'<line x1="{at}" x2="{at}" y1="{BASE}" y2="{BASE + 4}" class="axis-line"/>'
            f'<text x="{at}" y="{BASE + 17}" text-anchor="middle">{safe(text)}</text>'
        )
    return out + f'<text x="{RIGHT}" y="{BASE + 32}" text-anchor="end">{safe(title)}</text>'


def _powers(first: float, last: float, x_scale: Callable[[float], float], title: str) -> str:
    """An axis of powers of ten, with twos and fives between them where there is room."""
    factors = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [
        (math.log10(factor) + power, f"{factor}e{power}")
        for power in range(math.floor(first), math.ceil(last) + 1)
        for factor in factors
        if first <= math.log10(factor) + power <= last
    ]
    return _axis(ticks, x_scale, title)


def _choices(names: Sequence[str], x_scale: Callable[[float], float], title: str) -> str:
    room = max(4, int((RIGHT - LEFT) / len(names) / 7))
    return _axis([(float(i), shorten(name, room)) for i, name in enumerate(names)], x_scale, title)
