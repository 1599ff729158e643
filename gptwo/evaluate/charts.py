"""Small charts as inline SVG: lines over steps, a confusion heat map, a reliability diagram, interval bars.

Each function returns an SVG element without script or external resource; colours are the variables of `page_style`,
so light and dark follow the page. Every text that comes from data is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptwo.evaluate.html_parts import safe
from gptwo.evaluate.metrics import Calibration, ConfusionMatrix

WIDTH, HEIGHT = 460, 250
COLOURS = ("var(--accent)", "var(--warm)", "var(--good)", "var(--warn)", "var(--muted)")
MANY_LABELS = 40  # a heat map of more classes has no room for their names


@dataclass
class Line:
    """A series of a line chart; `faint` values are drawn thin behind it (the unsmoothed course)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[0]
    faint: Sequence[float] | None = None


def number(value: float) -> str:
    """A coordinate: at most two digits, no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within low..high, about `count` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick's label with as many digits as its distance from the next needs; thousands as 2k, millions as 2M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size and step >= size / 10:
            return f"{value / size:.1f}".removesuffix(".0") + suffix
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def smooth(values: Sequence[float]) -> np.ndarray:
    """Centred moving average over about a fortieth of the series, narrower towards both ends, so without lag."""
    count = len(values)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    place = np.arange(count)
    half = np.minimum(np.minimum(place, count - 1 - place), count // 80)
    return (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)


def line_chart(lines: Sequence[Line], *, title: str, x_title: str, mark: tuple[float, float] | None = None) -> str:
    """Lines over a common x axis.

    Args:
        title: what a screen reader says.
        x_title: name of the x axis.
        mark: (x, y) of a point to circle.
    """
    xs = np.concatenate([np.asarray(line.x, float) for line in lines])
    ys = np.concatenate([np.asarray(line.y, float) for line in lines])
    faint = [np.asarray(line.faint, float) for line in lines if line.faint is not None and len(line.faint)]
    low, high = float(ys.min()), float(ys.max())
    if faint:  # the bulk of the noisy values; single spikes may leave the frame
        raw = np.concatenate(faint)
        low, high = min(low, float(np.quantile(raw, 0.01))), max(high, float(np.quantile(raw, 0.99)))
    pad = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
    x_scale = scale_of(float(xs.min()), float(xs.max()), 46, WIDTH - 14)
    y_scale = scale_of(low - pad, high + pad, HEIGHT - 36, 10)

    out = [grid(low - pad, high + pad, y_scale)]
    clip = f'<svg x="46" y="6" width="{WIDTH - 54}" height="{HEIGHT - 42}" viewBox="46 6 {WIDTH - 54} {HEIGHT - 42}">'
    out.append(clip)
    for line in lines:
        if line.faint is not None:
            out.append(polyline(line.x, line.faint, x_scale, y_scale, line.colour, width=1, opacity=0.25))
    for line in lines:
        out.append(polyline(line.x, line.y, x_scale, y_scale, line.colour, width=2))
        if len(line.x) <= 30:
            out += [
                f'<circle cx="{number(x_scale(x))}" cy="{number(y_scale(y))}" r="2.5" fill="{line.colour}"/>'
                for x, y in zip(line.x, line.y, strict=True)
            ]
    out.append("</svg>")
    out.append(x_axis(float(xs.min()), float(xs.max()), x_scale, x_title))
    if mark:
        out.append(
            f'<circle cx="{number(x_scale(mark[0]))}" cy="{number(y_scale(mark[1]))}" r="6" fill="none" '
            'stroke="var(--ink)" stroke-width="1.5"/>'
        )
    return svg(WIDTH, HEIGHT, title, out)


def reliability_diagram(calibration: Calibration) -> str:
    """Share correct over confidence with 95 % intervals (Wilson), and how many predictions lie where."""
    width, top, base, floor = 460, 12, 262, 330
    x_scale, y_scale = scale_of(0, 1, 46, width - 14), scale_of(0, 1, base, top)
    out = [grid(0, 1, y_scale)]
    out.append(
        f'<line x1="{number(x_scale(0))}" y1="{base}" x2="{number(x_scale(1))}" y2="{top}" '
        'stroke="var(--muted)" stroke-dasharray="4 4"/>'
    )
    filled = [row for row in calibration.bins if row.count]
    most = max((row.count for row in filled), default=1)
    for row in filled:
        x = x_scale(row.confidence)
        low, high = wilson(row.accuracy, row.count)
        hint = f"{row.count:,} predictions: confidence {row.confidence:.3f}, share correct {row.accuracy:.3f}"
        out.append(
            f'<line x1="{number(x)}" x2="{number(x)}" y1="{number(y_scale(low))}" y2="{number(y_scale(high))}" '
            'stroke="var(--accent)" stroke-width="1.5" opacity=".55"/>'
        )
        out.append(
            f'<circle cx="{number(x)}" cy="{number(y_scale(row.accuracy))}" r="4" fill="var(--accent)">'
            f"<title>{hint}</title></circle>"
        )
        left, right = x_scale(row.lower) + 1, x_scale(row.upper) - 1
        height = max(1.0, (floor - base - 22) * row.count / most)
        out.append(
            f'<rect x="{number(left)}" y="{number(floor - height)}" width="{number(right - left)}" '
            f'height="{number(height)}" fill="var(--accent)" opacity=".45"><title>{hint}</title></rect>'
        )
    out.append(f'<text x="46" y="{base + 16}">predictions (tallest bar: {most:,})</text>')
    out.append(x_axis(0, 1, x_scale, "confidence", y=floor))
    return svg(width, floor + 36, "Reliability diagram: share correct over confidence", out)


def heat_map(matrix: ConfusionMatrix) -> str:
    """Gold classes in rows, predicted in columns; strength is the share of the gold class, blue right, red wrong."""
    counts = np.asarray(matrix.counts)
    size = len(matrix.labels)
    cell = 84 if size <= 3 else 54 if size <= 6 else 38 if size <= 12 else 16 if size <= MANY_LABELS else 620 / size
    font = 12 if size <= 12 else 10
    named, counted = size <= MANY_LABELS, size <= 12
    names = [shorten(label, 16) for label in matrix.labels] if named else []
    margin = round(max((text_width(name) for name in names), default=0) * font * 0.56) + 14 if named else 2
    edge = size * cell

    faintest = 0.05 if counted else 0.2 if named else 0.45  # a single record shall be seen in a small cell too
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    out = []
    for i, j in zip(*np.nonzero(counts), strict=True):
        x, y, part = margin + j * cell, 2 + i * cell, float(share[i, j])
        hint = f"{matrix.labels[i]} → {matrix.labels[j]}: {counts[i, j]:,} of {counts[i].sum():,}"
        out.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(cell)}" height="{number(cell)}" '
            f'fill="{COLOURS[0] if i == j else COLOURS[1]}" fill-opacity="{number(max(faintest, part**0.7))}">'
            f"<title>{safe(hint)}</title></rect>"
        )
        if counted:
            out.append(_cell_text(int(counts[i, j]), x + cell / 2, y + cell / 2 + 4, strong=part > 0.5))
    rules = range(size + 1) if counted else (0, size)
    out += [f'<path d="M{margin} {number(2 + k * cell)}h{number(edge)}" class="grid"/>' for k in rules]
    out += [f'<path d="M{number(margin + k * cell)} 2v{number(edge)}" class="grid"/>' for k in rules]
    below = 8.0
    if named:
        flat = max(map(text_width, names)) * font * 0.56 < cell - 6
        out += _class_names(matrix.labels, names, margin, cell, font, flat=flat)
        below = 24.0 if flat else margin * 0.72 + 16
    return svg(margin + edge + 4, 2 + edge + below, "Confusion matrix, gold in rows, predicted in columns", out)


def _cell_text(count: int, x: float, y: float, *, strong: bool) -> str:
    text = f"{count:,}" if count < 10_000 else tick_text(float(count), 100)
    style = 'style="fill:var(--on-strong)"' if strong else 'class="label"'
    return f'<text x="{number(x)}" y="{number(y)}" text-anchor="middle" {style}>{text}</text>'


def _class_names(
    labels: Sequence[str], names: Sequence[str], margin: float, cell: float, font: int, *, flat: bool
) -> list[str]:
    """Names left of the rows and below the columns; slanted where they are wider than a cell."""
    edge, out = len(names) * cell, []
    for k, (label, name) in enumerate(zip(labels, names, strict=True)):
        middle = (k + 0.5) * cell
        text = f'style="font-size:{font}px">{safe(name)}<title>{safe(label)}</title></text>'
        out.append(f'<text x="{margin - 8}" y="{number(6 + middle)}" text-anchor="end" {text}')
        if flat:
            out.append(f'<text x="{number(margin + middle)}" y="{number(edge + 18)}" text-anchor="middle" {text}')
        else:
            place = f"translate({number(margin + middle + 4)} {number(edge + 14)}) rotate(-45)"
            out.append(f'<text transform="{place}" text-anchor="end" {text}')
    return out


def interval_track(
    value: float,
    low: float | None,
    high: float | None,
    scale: tuple[float, float],
    *,
    strong: bool,
    baseline: float | None = None,
) -> str:
    """One system's value and interval on a horizontal track that stretches with the page."""

    def at(x: float) -> str:
        return f"{number(100 * (x - scale[0]) / (scale[1] - scale[0]))}%"

    colour = "var(--accent)" if strong else "var(--muted)"
    out = [f'<line x1="{at(t)}" x2="{at(t)}" y1="0" y2="30" class="grid"/>' for t in ticks(*scale)]
    if baseline is not None:
        out.append(
            f'<line x1="{at(baseline)}" x2="{at(baseline)}" y1="0" y2="30" stroke="var(--muted)" '
            'stroke-dasharray="2 3"/>'
        )
    if low is not None and high is not None:
        out.append(
            f'<line x1="{at(low)}" x2="{at(high)}" y1="15" y2="15" stroke="{colour}" '
            f'stroke-width="{6 if strong else 4}" stroke-opacity=".4"/>'
        )
    out.append(f'<circle cx="{at(value)}" cy="15" r="{6 if strong else 5}" fill="{colour}"/>')
    return f'<svg height="30" aria-hidden="true">{"".join(out)}</svg>'


def interval_axis(scale: tuple[float, float], factor: float = 1.0) -> str:
    """The axis below `interval_track`s; labels are values times `factor`."""
    places = ticks(*scale)
    step = places[1] - places[0] if len(places) > 1 else 1.0
    labels = "".join(
        f'<text x="{number(100 * (place - scale[0]) / (scale[1] - scale[0]))}%" y="14" text-anchor="middle">'
        f"{tick_text(place * factor, step * factor)}</text>"
        for place in places
    )
    return f'<svg height="20" aria-hidden="true">{labels}</svg>'


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a binomial share."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def text_width(text: str) -> float:
    """Width in Latin letters; Chinese characters count nearly twice."""
    return sum(1.75 if ord(character) > 0x2E7F else 1.0 for character in text)


def shorten(text: str, width: float) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` Latin letters."""
    if text_width(text) <= width:
        return text
    kept = ""
    for character in text:
        if text_width(kept + character) > width - 1:
            break
        kept += character
    return kept + "…"


def scale_of(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Places on the page for the values low..high: from start to end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def grid(low: float, high: float, y_scale: Callable[[float], float]) -> str:
    """Horizontal rules with their labels."""
    places = ticks(low, high)
    step = places[1] - places[0] if len(places) > 1 else 1.0
    return "".join(
        f'<line x1="46" x2="{WIDTH - 14}" y1="{number(y_scale(t))}" y2="{number(y_scale(t))}" class="grid"/>'
        f'<text x="38" y="{number(y_scale(t) + 4)}" text-anchor="end">{tick_text(t, step)}</text>'
        for t in places
    )


def x_axis(low: float, high: float, x_scale: Callable[[float], float], title: str, *, y: float = HEIGHT - 36) -> str:
    """The axis below a chart, with its ticks and title."""
    places = ticks(low, high)
    step = places[1] - places[0] if len(places) > 1 else 1.0
    out = f'<line x1="46" x2="{WIDTH - 14}" y1="{y}" y2="{y}" class="axis-line"/>'
    for t in places:
        x = number(x_scale(t))
        out += (
            f'<line x1="{x}" x2="{x}" y1="{y}" y2="{y + 4}" class="axis-line"/>'
            f'<text x="{x}" y="{y + 17}" text-anchor="middle">{tick_text(t, step)}</text>'
        )
    return out + f'<text x="{WIDTH - 14}" y="{y + 32}" text-anchor="end">{safe(title)}</text>'


def polyline(
    xs: Sequence[float],
    ys: Sequence[float],
    x_scale: Callable[[float], float],
    y_scale: Callable[[float], float],
    colour: str,
    *,
    width: float,
    opacity: float = 1.0,
) -> str:
    """A line through points."""
    points = " ".join(f"{number(x_scale(x))},{number(y_scale(y))}" for x, y in zip(xs, ys, strict=True))
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-linejoin="round"/>'
    )


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """The element around finished parts; `title` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {number(width)} {number(height)}" style="--natural:{number(width)}px" role="img" '
        f'aria-label="{safe(title)}">{"".join(parts)}</svg>'
    )
