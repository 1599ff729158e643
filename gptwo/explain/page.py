"""An explanation as one self-contained page: no scripts, nothing loaded from elsewhere, every piece of data escaped."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptwo.evaluate.html_parts import cell, cut, rows_of, safe, section, table
from gptwo.evaluate.page_style import CSS

if TYPE_CHECKING:
    from gptwo.explain.explanation import Explanation

LENS_COLUMNS = 12  # tokens of the logit lens shown, the last ones
INK = (58, 118, 190)  # of attention maps; readable on white and on black
STYLE = """
.tokens { line-height: 2.1; font-size: 17px; overflow-wrap: anywhere; margin: 0 0 14px; }
.tokens span { padding: 3px 0; border-radius: 3px; white-space: pre-wrap; }
.for { background: color-mix(in srgb, var(--accent) calc(var(--w) * 1%), transparent); }
.against { background: color-mix(in srgb, var(--warm) calc(var(--w) * 1%), transparent); }
table.lens td { padding: 4px 8px; white-space: pre; font-size: 13px; border-left: 1px solid var(--line); }
table.lens thead th, table.parts thead th { padding: 4px 8px; }
table.lens th:first-child, table.parts th:first-child { padding-left: 0; }
table.parts td { padding: 4px 8px; text-align: right; font-variant-numeric: tabular-nums; font-size: 13px; }
table.maps td, table.maps th { padding: 3px; border: 0; vertical-align: middle; }
table.maps thead th { text-align: center; }
table.maps { margin-bottom: 18px; }
.map { display: block; width: 64px; height: 64px; image-rendering: pixelated; background: var(--panel); }
.large { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 18px 22px; }
.large .map { width: 100%; height: auto; aspect-ratio: 1; }
.large figcaption { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def render(found: Explanation) -> str:
    """The page."""
    sections = [_header(found), _outcomes(found), _tokens(found), _lens(found), _parts(found), _attention(found)]
    sections += [_neighbours(found), _notes(found)]
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{safe(found.target['name'])}: explained</title>\n<style>{CSS}{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(found: Explanation) -> str:
    kind = {"language": "the next token", "sequence": "the label of the text", "token": "the tag of a word"}[found.head]
    return (
        f'<header>\n<p class="kicker">gptwo · explain</p>\n<h1>{cut(found.text)}</h1>\n'
        f'<p class="facts">{safe(found.model)} · {kind} · {len(found.tokens)} tokens · explained: '
        f"<b>{_shown(found.target['name'])}</b>, {100 * found.target['probability']:.1f} %</p>\n</header>"
    )


def _outcomes(found: Explanation) -> str:
    rows = []
    for outcome in found.outcomes:
        width = 100 * outcome["probability"]
        bar = f'<td class="bar"><span><i style="width:{width:.1f}%"></i></span></td>'
        chosen = outcome["id"] == found.target["id"]
        rows.append([cell(_shown(outcome["name"]), "left", best=chosen), cell(f"{width:.2f}", best=chosen), bar])
    body = table(["Outcome", "#Probability, %", "|"], rows_of(rows), style="wide")
    return section("What the model says", "The likeliest outcomes; the explained one is bold.", body)


def _tokens(found: Explanation) -> str:
    parts = []
    for title, values in (
        ("Integrated gradients", found.integrated_gradients),
        ("Leave one out", found.leave_one_out),
    ):
        top = max((abs(value) for value in values), default=0.0) or 1.0
        spans = "".join(
            f'<span class="{"for" if value >= 0 else "against"}" style="--w:{round(70 * abs(value) / top)}" '
            f'title="{value:+.3f} nats">{_shown(token)}</span>'
            for token, value in zip(found.tokens, values, strict=True)
        )
        parts.append(f'<h3>{title} <small class="hint">strongest: {top:.3f} nats</small></h3>')
        parts.append(f'<p class="tokens">{spans}</p>')
    hint = (
        "Blue speaks for the explained outcome, red against it, in nats of its log-probability; rest the pointer on a "
        "token for its figure. Integrated gradients go from the mean token to the text; their sum misses "
        f"{found.gap:+.3f} nats of the difference. Leave one out: what is lost without the token."
    )
    return section("Which tokens speak for it", safe(hint), "\n".join(parts))


def _lens(found: Explanation) -> str:
    first = max(0, len(found.tokens) - LENS_COLUMNS)
    rows = []
    for line in reversed(found.lens):
        name = "embeddings" if line["layer"] == 0 else f"block {line['layer']}"
        cells = [f'<th scope="row">{name}</th>', cell(f"{100 * line['target']:.2f}"), cell(f"{line['rank']:,}")]
        for token in line["top"][first:]:
            best = token[0]
            others = ", ".join(f"{one['name']} {100 * one['probability']:.1f} %" for one in token)
            cells.append(
                f'<td class="for" style="--w:{round(70 * best["probability"])}" title="{safe(others)}">'
                f"{_shown(best['name'])}</td>"
            )
        rows.append(cells)
    head = ["After", "#Target, %", "#Rank", *(f" {_visible(token)}" for token in found.tokens[first:])]
    hint = (
        "What the network would say if it stopped after each block: the likeliest outcome at each of the "
        f"{'last ' if first else ''}{len(found.tokens) - first} tokens, darker where it is surer, and the explained "
        "outcome's probability and rank at the last one."
    )
    return section("Layer by layer", hint, table(head, rows_of(rows), style="lens pinned"))


def _parts(found: Explanation) -> str:
    by_head = max((abs(value) for layer in found.heads for value in layer), default=0.0) or 1.0
    by_layer = max((abs(value) for layer in found.layers for value in layer.values()), default=0.0) or 1.0
    rows = []
    for i, (heads, layer) in enumerate(zip(found.heads, found.layers, strict=True), 1):
        cells = [f'<th scope="row">block {i}</th>', *(_signed(value, by_head) for value in heads)]
        rows.append([*cells, _signed(layer["attention"], by_layer), _signed(layer["mlp"], by_layer)])
    head = ["", *(f"#{i}" for i in range(1, len(found.heads[0]) + 1)), "#attention", "#MLP"]
    hint = (
        "What the explained outcome's log-probability loses when a part gives zero: each head, the whole attention of "
        "a block, its MLP. Blue speaks for the outcome, red against it; nats. Heads have a colour scale of their own."
    )
    return section("Heads and layers", hint, table(head, rows_of(rows), style="parts pinned"))


def _signed(value: float, top: float) -> str:
    kind = "for" if value >= 0 else "against"
    return f'<td class="{kind}" style="--w:{round(70 * abs(value) / top)}">{value:+.2f}</td>'


def _attention(found: Explanation) -> str:
    if found.attention is None:
        return ""
    heads = len(found.attention[0])
    rows, details = [], []
    for i, layer in enumerate(found.attention, 1):
        maps = [picture(head) for head in layer]
        rows.append(
            [
                f'<th scope="row">{i}</th>',
                *(f'<td><img class="map" alt="block {i}, head {h}" src="{m}"></td>' for h, m in enumerate(maps, 1)),
            ]
        )
        large = "".join(
            f'<figure><h3>head {h}</h3><img class="map" alt="block {i}, head {h}" src="{m}">'
            f"<figcaption>{_strongest(found.tokens, head)}</figcaption></figure>"
            for h, (m, head) in enumerate(zip(maps, layer, strict=True), 1)
        )
        details.append(f'<details><summary>Block {i}, large</summary><div class="large">{large}</div></details>')
    head_row = ["block", *(f"head {h}" for h in range(1, heads + 1))]
    hint = (
        "Row: the token that looks, from the top; column: the token it sees, from the left. Below the large maps: "
        "where the last token looks."
    )
    return section("Attention", hint, table(head_row, rows_of(rows), style="maps") + "".join(details))


def _strongest(tokens: Sequence[str], head: Sequence[Sequence[float]], count: int = 3) -> str:
    last = head[-1]
    best = sorted(range(len(last)), key=lambda i: -last[i])[:count]
    return "\n".join(f"{_shown(tokens[i])} {100 * last[i]:.0f} %" for i in best)


def picture(weights: Sequence[Sequence[float]]) -> str:
    """A map of weights 0..1 as a PNG in a data URI, one pixel a weight, transparent where the weight is 0."""
    lines = []
    for row in weights:
        pixels = b"".join(bytes((*INK, round(255 * min(1.0, max(0.0, weight)) ** 0.5))) for weight in row)
        lines.append(b"\0" + pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(weights[0]), len(weights), 8, 6, 0, 0, 0)  # 8 bits, RGBA
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines), 9))
    return "data:image/png;base64," + base64.b64encode(png + chunk(b"IEND", b"")).decode()


def _neighbours(found: Explanation) -> str:
    if not found.neighbours:
        return ""
    language = "next" in found.neighbours[0]
    rows = []
    for one in found.neighbours:
        where = f"{one['file']}:{one['row']}"
        said = _shown(one["next"]) if language else safe(one.get("label", "–"))
        rows.append([cell(f"{one['similarity']:.3f}"), cell(cut(one["text"]), "left"), cell(said, "left"),
                     cell(safe(where), "left")])  # fmt: skip
    hint = (
        "Places in the training text whose hidden state is nearest (cosine), and what follows there."
        if language
        else "Training texts whose hidden state is nearest (cosine), and their labels."
    )
    head = ["#Similarity", "Text", "Next" if language else "Label", "Where"]
    return section("Nearest in the training texts", hint, table(head, rows_of(rows), style="examples"))


def _notes(found: Explanation) -> str:
    if not found.notes:
        return ""
    return section("Notes", "", f'<ul class="notes">{"".join(f"<li>{safe(note)}</li>" for note in found.notes)}</ul>')


def _visible(token: str) -> str:
    """A token with its line ends made visible."""
    return token.replace("\r", "␍").replace("\n", "↵") or "∅"


def _shown(token: str) -> str:
    return safe(_visible(token))
