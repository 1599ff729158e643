"""AdaLoRA's ranks over a run, from its `ranks` events: a heat map for report.html, a sentence for the terminal.

R rows, one a layer of the network    S times at which the budget was allotted
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gptwo.evaluate.charts import number, tick_text, ticks
from gptwo.evaluate.html_parts import safe, section

COLUMNS = 120  # times that a heat map shows at most
FAINTEST = 0.14  # opacity of rank 1 in a map of high ranks: it must not look like none
LABEL = 13  # pixels that the number of a layer needs


@dataclass(frozen=True)
class RankPattern:
    """How many singular values each layer kept.

    Args:
        steps: (S,) optimizer steps from which on the ranks held.
        end: last step of the run.
        ranks: module ("attn.c_attn") to layer to its (S,) ranks.
    """

    steps: list[int]
    end: int
    ranks: dict[str, dict[int, list[int]]]

    @property
    def most(self) -> int:
        """The highest rank of all."""
        return max(max(row) for rows in self.ranks.values() for row in rows.values())

    def total(self, place: int) -> int:
        """Singular values in the whole network at one of the S times."""
        return sum(row[place] for rows in self.ranks.values() for row in rows.values())


def rank_pattern(events: Sequence[dict]) -> RankPattern | None:
    """The pattern of a run's events; None where no ranks were allotted."""
    found = [event for event in events if event.get("kind") == "ranks" and event.get("ranks")]
    if not found:
        return None
    ranks: dict[str, dict[int, list[int]]] = {}
    for place in found[-1]["ranks"]:
        named = re.fullmatch(r"h\.(\d+)\.(.+)", place)
        if named:
            row = [int(event["ranks"].get(place, 0)) for event in found]
            ranks.setdefault(named[2], {})[int(named[1])] = row
    if not ranks:
        return None
    end = max(int(event["step"]) for event in events if "step" in event)
    return RankPattern([int(event["step"]) for event in found], end, ranks)


def ranks_text(events: Sequence[dict]) -> str:
    """What became of the budget, in a sentence; nothing where there was none."""
    pattern = rank_pattern(events)
    if pattern is None:
        return ""
    last = {f"h.{layer}.{name}": row[-1] for name, rows in pattern.ranks.items() for layer, row in rows.items()}
    top = max(last, key=lambda place: last[place])
    none = sum(rank == 0 for rank in last.values())
    empty = f"; {none:,} of {len(last):,} layers have none" if none else ""
    return (
        f"AdaLoRA kept {pattern.total(-1):,} of {pattern.total(0):,} singular values: {last[top]:,} in {top}, "
        f"the most{empty}."
    )


def ranks_part(events: Sequence[dict]) -> str:
    """The section of report.html: a panel for each module, a row for each layer, steps across, the rank as colour."""
    pattern = rank_pattern(events)
    if pattern is None:
        return ""
    hint = (
        "How many singular values each layer kept over the steps of the run: the stronger the colour, the higher the "
        "rank. Rows are the blocks of the network, the first at the top; the number behind a row is its last rank."
    )
    key = f'<p class="key"><span>0</span><i></i><span>{pattern.most:,} singular values</span></p>'
    panels = "".join(_panel(name, rows, pattern) for name, rows in pattern.ranks.items())
    text = f'<p class="hint after">{safe(ranks_text(events))}</p>'
    return section("Ranks that AdaLoRA chose", safe(hint), f'<div class="ranks">{key}{panels}</div>{text}')


def _panel(name: str, rows: dict[int, list[int]], pattern: RankPattern) -> str:
    height = 16 if len(rows) <= 16 else 11 if len(rows) <= 32 else 7
    every = -(-LABEL // height)  # rows from one number to the next
    edges = [*pattern.steps, max(pattern.end, pattern.steps[-1] + 1)]
    span = edges[-1] - edges[0]
    layers = sorted(rows)
    out = []
    for line, layer in enumerate(layers):
        y = line * height
        out.append(f'<rect x="0" y="{y}" width="100%" height="{height - 1}" fill="var(--panel)"/>')
        for first, last, rank in _runs(rows[layer]):
            if rank:
                left, right = (100 * (edges[place] - edges[0]) / span for place in (first, last + 1))
                strength = FAINTEST + (1 - FAINTEST) * (rank - 1) / max(1, pattern.most - 1)
                steps = f"steps {edges[first]:,} to {edges[last + 1]:,}"
                out.append(
                    f'<rect x="{number(left)}%" y="{y}" width="{number(right - left)}%" height="{height - 1}" '
                    f'fill="var(--accent)" fill-opacity="{number(strength)}">'
                    f"<title>{safe(f'h.{layer}.{name}: rank {rank}, {steps}')}</title></rect>"
                )
    ends = ", ".join(f"{layer}: {rows[layer][-1]}" for layer in layers)
    chart = (
        f'<svg height="{len(layers) * height}" role="img" '
        f'aria-label="{safe(f"Ranks of {name} at the end, by block: {ends}")}">{"".join(out)}</svg>'
    )
    named = [str(layer) if line % every == 0 else "" for line, layer in enumerate(layers)]
    last_ranks = [str(rows[layer][-1]) if line % every == 0 else "" for line, layer in enumerate(layers)]
    return (
        f'<figure><h3>{safe(name)}</h3><div class="map">{_column(named, height)}{chart}{_column(last_ranks, height)}'
        f"<div></div>{_step_axis(edges[0], edges[-1])}<div></div></div></figure>"
    )


def _runs(row: Sequence[int]) -> list[tuple[int, int, int]]:
    """Stretches of one rank: first and last place, and the rank.

    >>> _runs([3, 3, 2, 0])
    [(0, 1, 3), (2, 2, 2), (3, 3, 0)]
    """
    found: list[tuple[int, int, int]] = []
    for place, rank in enumerate(row):
        if found and found[-1][2] == rank:
            found[-1] = (found[-1][0], place, rank)
        else:
            found.append((place, place, rank))
    return found


def _column(texts: Sequence[str], height: int) -> str:
    lines = "".join(f'<span style="height:{height}px;line-height:{height - 1}px">{text}</span>' for text in texts)
    return f'<div class="side" aria-hidden="true">{lines}</div>'


def _step_axis(low: int, high: int) -> str:
    """Labels of steps below a panel; the first says what they are."""
    places = ticks(low, high, 4)
    step = places[1] - places[0] if len(places) > 1 else 1.0
    labels = []
    for place in places:
        share = 100 * (place - low) / (high - low)
        anchor = "start" if share < 5 else "end" if share > 95 else "middle"
        word = f"step {tick_text(place, step)}" if place == places[0] else tick_text(place, step)
        labels.append(f'<text x="{number(share)}%" y="13" text-anchor="{anchor}">{word}</text>')
    return f'<svg height="18" aria-hidden="true">{"".join(labels)}</svg>'
