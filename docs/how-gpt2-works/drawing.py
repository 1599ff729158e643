"""What the pictures of this book are put together from: SVG files in the look of gptwo's reports, light and dark."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gptwo.evaluate.charts import number, svg, text_width
from gptwo.evaluate.html_parts import safe
from gptwo.evaluate.page_style import CSS

LETTER = 6.8  # width of a Latin letter of 12 px
PAD = 14  # paper around a picture
FONT = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, "PingFang SC", "Microsoft YaHei", '
    '"Noto Sans CJK SC", sans-serif'
)
# Of the report's style sheet: its colours, and its rules for charts.
STYLE = CSS.partition("* {")[0] + "\n".join(re.findall(r"^svg .*$", CSS, re.MULTILINE))


def picture_file(inline: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    """An inline SVG of a report as a file of its own: with name space, size, style, and paper under it.

    Args:
        inline: as `gptwo.evaluate.charts.svg` makes it.
        legend: (name, colour) of each line, shown above.
    """
    head, body = re.fullmatch(r"<svg ([^>]*)>(.*)</svg>", inline, re.DOTALL).groups()
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', head).groups())
    title = re.search(r'aria-label="([^"]*)"', head).group(1)
    above = 24 if legend else 0
    left, top = -PAD, -PAD - above
    width, height = width + 2 * PAD, height + 2 * PAD + above
    place = f'x="{left}" y="{top}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {number(width)} {number(height)}" '
        f'width="{number(width)}" height="{number(height)}" role="img">\n<title>{title}</title>\n'
        f"<style>{STYLE}\nsvg {{ font-family: {FONT}; }}</style>\n"
        f'<rect {place} fill="var(--paper)"/>\n{_legend(legend, -above)}{body}\n</svg>\n'
    )


def _legend(entries: Sequence[tuple[str, str]], y: float) -> str:
    out, x = "", 46.0
    for name, colour in entries:
        out += f'<rect x="{number(x)}" y="{y}" width="14" height="3" fill="{colour}"/>'
        out += label(name, x + 20, y + 5)
        x += 44 + text_width(name) * LETTER
    return out


def label(
    text: str, x: float, y: float, *, anchor: str = "start", strong: bool = False, colour: str = "", size: int = 12
) -> str:
    """A piece of text; `strong` is ink instead of grey."""
    fill = colour or ("var(--ink)" if strong else "")
    style = ";".join([*([f"fill:{fill}"] if fill else []), *([f"font-size:{size}px"] if size != 12 else [])])
    named = f' style="{style}"' if style else ""
    return f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"{named}>{safe(text)}</text>'


def box(
    x: float, y: float, width: float, height: float, strength: float, colour: str = "var(--accent)", hint: str = ""
) -> str:
    """A filled rectangle; `strength` 0..1 is how much of the colour is seen."""
    title = f"<title>{safe(hint)}</title>" if hint else ""
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" '
        f'fill="{colour}" fill-opacity="{number(max(0.0, min(1.0, strength)))}">{title}</rect>'
    )


def image(data: str, x: float, y: float, width: float, height: float) -> str:
    """A map of `gptwo.explain.page.picture`, its pixels kept sharp, on a panel."""
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<rect {place} fill="var(--panel)"/><image {place} href="{data}" preserveAspectRatio="none" '
        'style="image-rendering:pixelated"/>'
    )


def bars(
    rows: Sequence[tuple[str, Sequence[float]]],
    heads: Sequence[str],
    *,
    title: str,
    form: str = "{:.1f}",
    colours: Sequence[str] = ("var(--accent)",),
    width: float = 150,
) -> str:
    """Named rows of horizontal bars, one column for each of `heads`; values are at least 0.

    Args:
        rows: (name, one value for each column).
        form: of the number beside a bar.
        colours: of the columns, in turn.
        width: of the longest bar of all.
    """
    names = max(text_width(name) for name, _ in rows) * LETTER + 14
    number_width = max(text_width(form.format(v)) for _, values in rows for v in values) * LETTER + 18
    top = max(value for _, values in rows for value in values) or 1.0
    column = width + number_width
    first = 22 if any(heads) else 4
    out = [label(head, names + i * column, 12) for i, head in enumerate(heads) if head]
    for k, (name, values) in enumerate(rows):
        y = first + 20 * k
        out.append(label(name, names - 10, y + 12, anchor="end", strong=True))
        for i, value in enumerate(values):
            x, length = names + i * column, width * value / top
            out.append(box(x, y + 2, max(length, 0.5), 13, 0.85, colours[i % len(colours)]))
            out.append(label(form.format(value), x + length + 6, y + 12))
    return svg(names + len(heads) * column, first + 20 * len(rows) + 2, title, out)


def named_dots(dots: Sequence[tuple[float, float, str, str]], width: float, height: float) -> list[str]:
    """Dots with their names beside them, as near as there is room, and a thin line where it is not next to the dot.

    Args:
        dots: (x, y, name, colour).
        width, height: of the place that names must not leave.
    """
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y, _, _ in dots]
    out = []
    for x, y, name, colour in dots:
        half = text_width(name) * LETTER / 2 + 1
        for step in range(160):  # outwards along a spiral
            far, angle = 11 + 0.7 * step, math.pi / 2 * (step % 4 - 1) + step // 4 * 0.4
            at_x, at_y = x + (far + half - 6) * math.cos(angle), y + far * math.sin(angle)
            area = (at_x - half, at_y - 7, at_x + half, at_y + 6)
            inside = area[0] > 0 and area[1] > 0 and area[2] < width and area[3] < height
            if inside and not any(
                area[0] < b[2] and b[0] < area[2] and area[1] < b[3] and b[1] < area[3] for b in taken
            ):
                break
        taken.append(area)
        if far > 24:
            ends = f'x1="{number(x)}" y1="{number(y)}" x2="{number(at_x)}" y2="{number(at_y)}"'
            out.insert(0, f'<line {ends} stroke="{colour}" stroke-opacity="0.3"/>')
        out.append(f'<circle cx="{number(x)}" cy="{number(y)}" r="3" fill="{colour}"/>')
        out.append(label(name, at_x, at_y + 4, anchor="middle", colour=colour))
    return out


def shown(token: bytes) -> str:
    """A token with its space and line ends made visible; bytes that are no text in hexadecimal."""
    try:
        return token.decode().replace(" ", "␣").replace("\n", "↵") or "∅"
    except UnicodeDecodeError:
        return token.hex(" ").upper()
