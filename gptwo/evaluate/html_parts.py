"""The small parts report.html is put together from: escaped text, sections, figures, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from gptwo.evaluate.page_style import CSS

TEXT_LIMIT = 1200  # characters of an example or sample that are shown


def safe(value: Any) -> str:
    """Escaped for HTML; characters that no document may hold become the replacement character."""
    return escape("".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in str(value)))


def cut(value: str) -> str:
    """Escaped text of at most `TEXT_LIMIT` characters."""
    return safe(value if len(value) <= TEXT_LIMIT else value[: TEXT_LIMIT - 1] + "…")


def page(title: str, body: str) -> str:
    """A whole page around a finished body."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{safe(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, hint: str, body: str) -> str:
    """A part of the page; `hint` and `body` are HTML."""
    hint = f'<p class="hint">{hint}</p>\n' if hint else ""
    return f"<section>\n<h2>{heading}</h2>\n{hint}{body}\n</section>"


def figure(title: str, body: str, caption: str = "") -> str:
    """A chart with its title and caption; `body` is HTML."""
    heading = f"<h3>{safe(title)}</h3>" if title else ""
    return f"<figure>{heading}{body}{f'<figcaption>{safe(caption)}</figcaption>' if caption else ''}</figure>"


def cell(content: str, align: str = "number", *, best: bool = False) -> str:
    """A table cell of HTML `content`; figures are right-aligned, `align="left"` is for words."""
    names = " ".join(name for name in ("number" if align == "number" else "", "best" if best else "") if name)
    return f'<td class="{names}">{content}</td>' if names else f"<td>{content}</td>"


def rows_of(rows: Iterable[Sequence[str]], *, style: str = "") -> str:
    """A table body of rows of finished cells."""
    lines = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
    return f'<tbody class="{style}">{lines}</tbody>' if style else f"<tbody>{lines}</tbody>"


def table(head: Sequence[str], body: str, *, style: str = "") -> str:
    """A table that scrolls sideways where the page is narrower.

    Args:
        head: column names; "#" before a name marks a column of figures, "|" the column of bars.
        body: of `rows_of`.
        style: class names of the table.
    """
    cells = "".join(
        '<th class="bar"></th>'
        if name == "|"
        else f'<th class="number" scope="col">{safe(name[1:])}</th>'
        if name.startswith("#")
        else f'<th scope="col">{safe(name)}</th>'
        for name in head
    )
    return f'<div class="scroll"><table class="{style}"><thead><tr>{cells}</tr></thead>\n{body}</table></div>'
