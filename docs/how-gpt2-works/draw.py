"""Draws every picture of this book from gptwo-mini, in English and in Chinese: seconds on one core.

    python docs/how-gpt2-works/draw.py

The pictures of the Chinese book are of Chinese texts. On another machine, digits may round the other way.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import LETTER, bars, box, image, label, named_dots, picture_file, shown
from words import WORDS

import gptwo
from gptwo.evaluate.charts import COLOURS, Line, line_chart, number, scale_of, svg, text_width
from gptwo.explain.lens import logit_lens
from gptwo.explain.page import picture
from gptwo.explain.trace import trace
from gptwo.generate.sampling import keep_min_p, keep_top_k, keep_top_p, scale_temperature
from gptwo.model.config import GPT2Config
from gptwo.model.gpt2 import attention_mask
from gptwo.model.heads import Model
from gptwo.model.pretrained import Pretrained
from gptwo.train.schedule import learning_rate_factor

HERE = Path(__file__).resolve().parent
FOLDERS = {"en": HERE / "pictures", "zh": HERE.parent / "how-gpt2-works.zh-CN" / "pictures"}
BLUE, RED, GREEN, YELLOW, GREY = COLOURS


@dataclass
class Book:
    """A language of the book: its words, and the model that is drawn."""

    words: dict[str, Any]
    mini: Pretrained

    @property
    def model(self) -> Model:
        return self.mini.model

    def ids(self, text: str) -> list[int]:
        return [self.mini.tokenizer.end_id, *self.mini.tokenizer.encode(text)]

    def pieces(self, ids: list[int]) -> list[str]:
        return [shown(self.mini.tokenizer.token_bytes(i)) for i in ids]

    @torch.no_grad()
    def logits(self, text: str) -> torch.Tensor:
        """(T, V) scores of a text that begins with the end token."""
        return self.model(torch.tensor([self.ids(text)]))[0]

    def __getitem__(self, name: str) -> Any:
        return self.words[name]


# --- 1 the objective


def surprise(book: Book) -> str:
    ids = book.ids(book["sentence"])
    cost = -book.logits(book["sentence"])[:-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    rows = [(piece, [value]) for piece, value in zip(book.pieces(ids[1:]), cost.tolist(), strict=True)]
    heads = [book["surprise"].format(float(cost.mean()), math.exp(cost.mean()))]
    return picture_file(bars(rows, heads, title=book["surprise title"], form="{:.2f}", width=330))


def gradient(book: Book) -> str:
    scores = book.logits(book["prompt"])[-1]
    (target,) = book.mini.tokenizer.encode(book["next"])[:1]
    p = scores.softmax(-1)
    best = [i for i in p.topk(9).indices.tolist() if i != target][:8]
    values = [(i, float(p[i]) - (i == target)) for i in [target, *best]]
    zero, unit = 290.0, 140.0
    out = [label(book["gradient"].format(book["prompt"]), 0, 12, strong=True)]
    for k, (i, value) in enumerate(values):
        y, length = 26 + 20 * k, abs(value) * unit
        out.append(label(book.pieces([i])[0], 80, y + 12, anchor="end", strong=True))
        out.append(box(zero if value > 0 else zero - length, y + 2, length, 13, 0.85, RED if value > 0 else BLUE))
        at = zero + length + 6 if value > 0 else zero - length - 6
        out.append(label(f"{value:+.3f}".replace("-", "−"), at, y + 12, anchor="start" if value > 0 else "end"))
    bottom = 26 + 20 * len(values)
    out.append(f'<line x1="{zero}" x2="{zero}" y1="24" y2="{bottom}" class="axis-line"/>')
    return picture_file(svg(460, bottom + 4, book["gradient title"], out))


# --- 2 tokens


def tokens(book: Book) -> str:
    out, y = [], 0.0
    for text in book["texts"]:
        x = 0.0
        for k, i in enumerate(book.mini.tokenizer.encode(text)):
            (name,) = book.pieces([i])
            width = max(text_width(name), len(str(i))) * LETTER + 14
            if x + width > 620:
                x, y = 0.0, y + 50
            out.append(box(x, y, width - 3, 26, 0.16 if k % 2 else 0.34))
            out.append(label(name, x + (width - 3) / 2, y + 17, anchor="middle", strong=True))
            out.append(label(str(i), x + (width - 3) / 2, y + 39, anchor="middle", size=10))
            x += width
        y += 58
    return picture_file(svg(620, y - 8, book["tokens title"], out))


# --- 3 embeddings and positions


def embeddings(book: Book) -> str:
    encode, table = book.mini.tokenizer.encode, book.model.transformer.wte.weight.detach()
    groups = [[(word, encode(word)) for word in group] for group in book["groups"]]
    kept = [[(word, ids[0]) for word, ids in group if len(ids) == 1] for group in groups]
    points = torch.cat([table[[i for _, i in group]] for group in kept]).double()
    points = points - points.mean(0)
    _, _, axes = torch.linalg.svd(points, full_matrices=False)
    axes = axes[:2] * axes[:2].sum(1, keepdim=True).sign()  # a direction has no sign of its own
    places = (points @ axes.T).numpy()
    x_scale = scale_of(places[:, 0].min(), places[:, 0].max(), 70, 530)
    y_scale = scale_of(places[:, 1].min(), places[:, 1].max(), 330, 34)
    named = [(word.strip(), colour) for group, colour in zip(kept, COLOURS, strict=False) for word, _ in group]
    dots = [(x_scale(x), y_scale(y), *name) for (x, y), name in zip(places, named, strict=True)]
    out = named_dots(dots, 600, 364)
    return picture_file(
        svg(600, 364, book["embeddings title"], out), list(zip(book["group names"], COLOURS, strict=False))
    )


def positions(book: Book) -> str:
    table = book.model.transformer.wpe.weight.detach()
    every = len(table) // 64
    chosen = torch.nn.functional.normalize(table[::every], dim=1)
    likeness = (chosen @ chosen.T).clamp(0, 1) ** 2  # `picture` draws square roots
    side = 260.0
    out = [image(picture(likeness.tolist()), 46, 0, side, side)]
    for at in range(0, len(table) + 1, len(table) // 4):
        place = at / len(table) * side
        out.append(label(str(at), 40, min(place + 12, side), anchor="end"))
        out.append(label(str(at), 46 + place, side + 17, anchor="middle"))
    out.append(label(book["position"], 46 + side, side + 34, anchor="end"))
    return picture_file(svg(330, side + 38, book["positions title"], out))


# --- 4 attention


def scale(book: Book) -> str:
    widths = [2**k for k in range(1, 11)]
    random = np.random.default_rng(0)
    largest: dict[bool, list[float]] = {True: [], False: []}
    for width in widths:
        scores = np.einsum("nd,nkd->nk", random.standard_normal((200, width)), random.standard_normal((200, 64, width)))
        for scaled, found in largest.items():
            z = torch.from_numpy(scores / math.sqrt(width) if scaled else scores)
            found.append(float(z.softmax(-1).amax(-1).mean()))
    x = [math.log2(width) for width in widths]
    lines = [Line(book["unscaled"], x, largest[False], RED), Line(book["scaled"], x, largest[True], BLUE)]
    return chart(lines, book["scale title"], book["width of a head"])


def attention(book: Book) -> str:
    ids = book.ids(book["repeating"])
    weights = trace(book.model, torch.tensor(ids)).attention(book.model)  # (L, H, T, T)
    size, step = 58.0, 64.0
    out = [label(f"{book['head']} {h + 1}", 46 + h * step + size / 2, 12, anchor="middle") for h in range(5)]
    for i, layer in enumerate(weights):
        out.append(label(f"{book['block']} {i + 1}", 38, 20 + i * step + size / 2 + 4, anchor="end"))
        for h, head in enumerate(layer):
            out.append(image(picture(head.tolist()), 46 + h * step, 20 + i * step, size, size))
    return picture_file(svg(46 + 5 * step, 20 + 8 * step, book["attention title"], out))


def heads(book: Book) -> str:
    ids = book.ids(book["repeating"])
    weights = trace(book.model, torch.tensor(ids)).attention(book.model)
    last: dict[int, int] = {}
    after = []  # (token, the one that followed the same token before)
    for t, i in enumerate(ids):
        if i in last and t:
            after.append((t, last[i] + 1))
        last[i] = t
    T = len(ids)
    measures = [
        weights[:, :, range(1, T), range(T - 1)].mean(-1),  # to the token before
        weights[:, :, 1:, 0].mean(-1),  # to the first
        weights[:, :, [t for t, _ in after], [s for _, s in after]].mean(-1),  # to what came next the last time
    ]
    names, cell, out = book.pieces(ids), 13.0, []
    margin = max(map(text_width, names)) * LETTER + 10
    for k, (measure, title) in enumerate(zip(measures, book["heads"], strict=True)):
        layer, head = divmod(int(measure.argmax()), measure.shape[1])
        x, y = margin + k * (T * cell + 22), 44.0
        named = book["block and head"].format(layer + 1, head + 1)
        out += [label(title, x, 14, strong=True), label(f"{named}, {100 * float(measure.max()):.0f} %", x, 32)]
        out.append(image(picture(weights[layer, head].tolist()), x, y, T * cell, T * cell))
    out += [label(name, margin - 8, 44 + (t + 0.5) * cell + 4, anchor="end", size=11) for t, name in enumerate(names)]
    width = margin + 3 * (T * cell + 22) - 22
    return picture_file(svg(width, 44 + T * cell + 2, book["heads title"], out))


# --- 5 the block


def gelu(book: Book) -> str:
    x = torch.linspace(-4, 3, 71)
    curves = [("ReLU", torch.relu(x), GREY), ("GELU", torch.nn.functional.gelu(x, approximate="tanh"), BLUE)]
    slope = torch.autograd.functional.jvp(
        lambda v: torch.nn.functional.gelu(v, approximate="tanh"), x, torch.ones_like(x)
    )[1]
    curves.append((book["slope"], slope, RED))
    return chart([Line(name, x.tolist(), y.tolist(), colour) for name, y, colour in curves], "GELU", "x")


def residual(book: Book) -> str:
    config = GPT2Config(512, n_positions=64, n_embd=128, n_layer=24, n_head=4).with_dropout(0.0)
    ids = torch.randint(512, (64,), generator=torch.Generator().manual_seed(1))
    found = []
    for factor in (math.sqrt(2 * config.n_layer), 1.0):
        model = Model(config).initialise(torch.Generator().manual_seed(0)).eval()
        with torch.no_grad():
            for block in model.transformer.h:
                for part in (block.attn, block.mlp):
                    part.c_proj.weight.mul_(factor)
        found.append([float(x.std()) for x in trace(model, ids).residual])
    layers = list(range(config.n_layer + 1))
    lines = [Line(book["equal"], layers, found[0], RED), Line(book["smaller"], layers, found[1], BLUE)]
    return chart(lines, book["residual title"], book["after block"])


# --- 6 from states to words


def lens(book: Book) -> str:
    ids = book.ids(book["lens"])
    inside = trace(book.model, torch.tensor(ids))
    target = int(book.logits(book["lens"])[-1].argmax())
    rows = logit_lens(book.model, inside, target, lambda scores: scores.log_softmax(-1)[target], count=1)
    names, first = book.pieces(ids), max(1, len(ids) - 8)
    columns = [[book.pieces([row.top[t][0][0]])[0] for row in rows] for t in range(first, len(ids))]
    widths = [max(map(text_width, [names[first + k], *column])) * LETTER + 14 for k, column in enumerate(columns)]
    margin, height, out = 88.0, 25.0, []
    x = margin
    for k, (column, width) in enumerate(zip(columns, widths, strict=True)):
        out.append(label(names[first + k], x + width / 2, 14, anchor="middle", strong=True))
        for j, row in enumerate(rows):
            y = 22 + (len(rows) - 1 - j) * height
            share = row.top[first + k][0][1]
            out.append(box(x, y, width - 2, height - 2, 0.06 + 0.6 * share, hint=f"{100 * share:.1f} %"))
            out.append(label(column[j], x + width / 2 - 1, y + 16, anchor="middle", strong=True))
        x += width
    for j in range(len(rows)):
        name = f"{book['block']} {j}" if j else book["embedding"]
        out.append(label(name, margin - 8, 22 + (len(rows) - 1 - j) * height + 16, anchor="end"))
    return picture_file(svg(x, 24 + len(rows) * height, book["lens title"], out))


# --- 7 the training step


def loss(book: Book) -> str:
    card = (book.mini.folder / "README.md").read_text(encoding="utf-8")
    steps, values = (
        [float(cell) for cell in re.search(rf"^\| {name} \|(.*)\|$", card, re.MULTILINE).group(1).split("|")]
        for name in ("step", "loss")
    )
    fall = [0.4 * steps[-1]] * 2  # the last 60 % of the run
    lines = [Line(book["held out"], steps, values), Line(book["fall"], fall, [min(values), max(values)], RED)]
    return chart(lines, book["loss title"], book["step"])


def schedules(book: Book) -> str:
    total, steps = 1000, range(0, 1000, 5)
    lines = [
        Line(name, list(steps), [learning_rate_factor(s, total, name=name, warmup=60, floor=0.1) for s in steps], c)
        for name, c in (("cosine", BLUE), ("linear", RED), ("wsd", GREEN))
    ]
    return chart(lines, book["schedules title"], book["step"])


# --- 8 the cache, 10 packing


def cache(book: Book) -> str:
    T, cell, out = 9, 17.0, []
    for k, title in enumerate(book["cache"]):
        x = k * (T * cell + 60)
        out.append(label(title, x, 12, strong=True))
        for i in range(T):
            for j in range(i + 1):
                new = not k or i == T - 1
                out.append(box(x + j * cell, 24 + i * cell, cell - 2, cell - 2, 0.8 if new else 0.14))
    return picture_file(svg(2 * T * cell + 60, 26 + T * cell, book["cache title"], out))


def packing(book: Book) -> str:
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3 + [-1] * 2])
    T, cell, out = documents.shape[1], 17.0, []
    mask = attention_mask(T, documents, 0, torch.device("cpu"))[0, 0]
    for i in range(T):
        document = int(documents[0, i])
        colour = GREY if document < 0 else (BLUE, RED, GREEN)[document]
        position = i - int((documents[0] == document).nonzero()[0])
        out.append(label("–" if document < 0 else str(position), 28, 14 + i * cell + 12, anchor="end", colour=colour))
        for j in range(T):
            seen = bool(mask[i, j])
            out.append(box(40 + j * cell, 14 + i * cell, cell - 2, cell - 2, 0.8 if seen else 0.1, colour))
    out.append(label(book["position"], 0, 8, size=10))
    return picture_file(svg(44 + T * cell, 18 + T * cell, book["packing title"], out))


# --- 9 sampling


def temperature(book: Book) -> str:
    scores = book.logits(book["warm"])[-1:]
    best = scores[0].topk(10).indices.tolist()
    at = (0.5, 1.0, 2.0)
    shares = [scale_temperature(scores, value).softmax(-1)[0] for value in at]
    rows = [(book.pieces([i])[0], [100 * float(share[i]) for share in shares]) for i in best]
    rows.append((book["others"], [100 * float(1 - share[best].sum()) for share in shares]))
    named = [book["temperature"].format(value) for value in at]
    return picture_file(bars(rows, named, title=book["temperature title"], colours=(BLUE, GREEN, RED), width=110))


def filters(book: Book) -> str:
    filtered = [("top_k 5", lambda z: keep_top_k(z, 5)), ("top_p 0.9", lambda z: keep_top_p(z, 0.9)),
                ("min_p 0.1", lambda z: keep_min_p(z, 0.1))]  # fmt: skip
    out, left, rows = [], 0.0, 14
    for text in (book["sure"], book["unsure"]):
        scores = book.logits(text)[-1:]
        best = scores[0].topk(rows).indices.tolist()
        shares = scores.softmax(-1)[0]
        kept = [(name, torch.isfinite(function(scores))[0]) for name, function in filtered]
        out.append(label(f"{text} …", left, 12, strong=True))
        names = max(text_width(piece) for piece in book.pieces(best)) * LETTER + 10
        bar = left + names + 100
        for c, (_, found) in enumerate(kept):
            out.append(
                label(f"{filtered[c][0]}: {int(found.sum()):,}", bar + 10 + 86 * c, 34, anchor="middle", size=11)
            )
        for k, i in enumerate(best):
            y = 42 + 18 * k
            share = float(shares[i])
            out.append(label(book.pieces([i])[0], left + names - 6, y + 12, anchor="end", strong=True))
            out.append(box(left + names, y + 3, max(0.6, 48 * share / float(shares[best[0]])), 11, 0.85))
            for c, (_, found) in enumerate(kept):
                dot = f'cx="{number(bar + 10 + 86 * c)}" cy="{y + 8}" r="4" fill="{(BLUE, RED, GREEN)[c]}"'
                out.append(f"<circle {dot}/>" if found[i] else "")
        left = bar + 232
    return picture_file(svg(left - 14, 44 + 18 * rows, book["filters title"], out))


# --- all of them


def chart(lines: list[Line], title: str, x_title: str) -> str:
    return picture_file(line_chart(lines, title=title, x_title=x_title), [(line.name, line.colour) for line in lines])


PICTURES: dict[str, Callable[[Book], str]] = {
    one.__name__: one
    for one in (surprise, gradient, tokens, embeddings, positions, scale, attention, heads, gelu, residual, lens, loss,
                schedules, cache, packing, temperature, filters)
}  # fmt: skip


def draw(folders: dict[str, Path]) -> None:
    """Write NAME.svg of every picture into the folder of each language ("en", "zh")."""
    torch.set_num_threads(1)
    mini = gptwo.load("gptwo-mini")
    for language, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name, make in PICTURES.items():
            (folder / f"{name}.svg").write_text(make(Book(WORDS[language], mini)), encoding="utf-8")


if __name__ == "__main__":
    draw({**FOLDERS, **({"en": Path(sys.argv[1]) / "en", "zh": Path(sys.argv[1]) / "zh"} if sys.argv[1:] else {})})
