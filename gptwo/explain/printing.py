"""An explanation on the terminal: coloured tokens, the lens, the parts that matter most, neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptwo.evaluate.printing import titled_table

if TYPE_CHECKING:
    from gptwo.explain.explanation import Explanation

FOR, AGAINST = (31, 95, 168), (191, 74, 48)
STRONGEST = 8  # heads and layers listed


def print_explanation(found: Explanation, console: Any = None) -> None:
    """Print an explanation.

    Args:
        console: a Rich console; default one on stderr.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console(stderr=True, highlight=False)
    console.print(_outcomes(found))
    for title, values in (
        ("Integrated gradients", found.integrated_gradients),
        ("Leave one out", found.leave_one_out),
    ):
        top = max((abs(value) for value in values), default=0.0)
        console.print(Text(f"\n{title}: blue speaks for it, red against; strongest {top:.3f} nats", style="bold"))
        console.print(coloured(found.tokens, values))
    console.print(_lens(found))
    console.print(_parts(found))
    if found.neighbours:
        console.print(_neighbours(found))
    for note in found.notes:
        console.print(Text(f"Note: {note}", style="dim"))


def coloured(tokens: list[str], values: list[float]) -> Any:
    """Tokens on a ground whose colour says how much each speaks for (blue) or against (red)."""
    from rich.text import Text

    top = max((abs(value) for value in values), default=0.0) or 1.0
    line = Text()
    for token, value in zip(tokens, values, strict=True):
        share = abs(value) / top
        ground = FOR if value >= 0 else AGAINST
        if share < 0.08:
            line.append(_visible(token))
            continue
        mixed = tuple(round(255 - share * (255 - part)) for part in ground)
        ink = "white" if share > 0.55 else "black"
        line.append(_visible(token), style=f"{ink} on rgb({mixed[0]},{mixed[1]},{mixed[2]})")
    return line


def _outcomes(found: Explanation) -> Any:
    from rich.text import Text

    table = titled_table(f"What {found.model} says", "outcome", "#probability")
    for outcome in found.outcomes:
        style = "bold" if outcome["id"] == found.target["id"] else ""
        table.add_row(Text(_visible(outcome["name"]), style), Text(f"{100 * outcome['probability']:.2f} %", style))
    return table


def _lens(found: Explanation) -> Any:
    from rich.text import Text

    table = titled_table("Layer by layer, at the explained token", "after", "#explained", "#rank", "likeliest")
    for line in found.lens:
        name = "embeddings" if line["layer"] == 0 else f"block {line['layer']}"
        said = "  ".join(f"{_visible(one['name'])} {100 * one['probability']:.1f} %" for one in line["top"][-1])
        table.add_row(name, f"{100 * line['target']:.2f} %", f"{line['rank']:,}", Text(said))
    return table


def _parts(found: Explanation) -> Any:
    parts = [
        (f"block {i}, head {h}", value) for i, layer in enumerate(found.heads, 1) for h, value in enumerate(layer, 1)
    ]
    for i, layer in enumerate(found.layers, 1):
        parts += [(f"block {i}, attention", layer["attention"]), (f"block {i}, MLP", layer["mlp"])]
    table = titled_table("Parts that matter most", "part", "#nats lost without it")
    for name, value in sorted(parts, key=lambda part: -abs(part[1]))[:STRONGEST]:
        table.add_row(name, f"{value:+.3f}")
    return table


def _neighbours(found: Explanation) -> Any:
    from rich.text import Text

    language = "next" in found.neighbours[0]
    table = titled_table(
        "Nearest in the training texts", "#similarity", "next" if language else "label", "where", "text"
    )
    for one in found.neighbours:
        said = _visible(str(one.get("next", one.get("label", "–"))))
        text = " ".join(one["text"].split())
        where = f"{one['file']}:{one['row']}"
        table.add_row(f"{one['similarity']:.3f}", Text(said), Text(where), Text(text[-100:]))
    return table


def _visible(token: str) -> str:
    return token.replace("\r", "␍").replace("\n", "↵") or "∅"
