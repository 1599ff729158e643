"""The next token of texts that run together, each under options of its own.

R rows (texts)    V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gptwo.generate.randomness import uniforms
from gptwo.generate.sampling import MINUS_INFINITY, History, constrain, draw, shape
from gptwo.serve.work import Chosen, Row, Scored

BROKEN = "The model's logits are not numbers (NaN)."


def choose(logits: Tensor, rows: Sequence[Row], end_id: int | None) -> list[Chosen]:
    """One token for each row; rows with equal options are drawn together.

    Args:
        logits: (R, V) float32, only ids that have a token.
        rows: R texts.
        end_id: the token that min_new_tokens holds back.
    """
    found: dict[int, Chosen] = {}
    broken = set(torch.isnan(logits).any(-1).nonzero().flatten().tolist())
    groups: dict[tuple, list[int]] = {}
    for place, row in enumerate(rows):
        if place in broken:
            found[place] = Chosen(row, -1, error=BROKEN)
        else:
            groups.setdefault(row.kind, []).append(place)
    for places in groups.values():
        part = logits if len(places) == len(rows) else logits[places]
        tokens = _choose_alike(part, [rows[place] for place in places], end_id)
        for place, token in zip(places, tokens, strict=True):
            found[place] = Chosen(rows[place], token)
    asked = [place for place, row in enumerate(rows) if row.options.logprobs and place not in broken]
    if asked:
        tokens = [found[place].token for place in asked]
        tops = [rows[place].top for place in asked]
        for place, scored in zip(asked, score(logits[asked], tokens, tops), strict=True):
            found[place] = Chosen(rows[place], scored.token, scored)
    return [found[place] for place in range(len(rows))]


def _choose_alike(logits: Tensor, rows: Sequence[Row], end_id: int | None) -> list[int]:
    """One token for each of several rows with the same options; (R, V) -> R ids."""
    options, first = rows[0].options, rows[0]
    if first.history is None:
        size, device = logits.shape[-1], logits.device
        texts = [row.text for row in rows]
        history = History(options, [t.prompt for t in texts], [t.ids for t in texts], size, end_id, device)
        if first.alone:
            first.history = history
    else:
        history = first.history
        history.append(torch.tensor([first.text.ids[-1]], device=logits.device))
    if first.constraint is not None:
        allowed = torch.from_numpy(first.constraint.allowed(logits.shape[-1])).to(logits.device)
        logits = logits.masked_fill(~allowed, MINUS_INFINITY)
    shaped = constrain(logits, options, history)
    if options.greedy:
        return shaped.argmax(-1).tolist()
    keys = np.array([row.text.key for row in rows], np.uint64)
    steps = np.array([len(row.text.ids) for row in rows], np.uint64)
    drawn = torch.from_numpy(uniforms(keys, steps)).to(logits.device)
    return draw(shape(shaped, options), drawn).tolist()


def score(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Scored]:
    """How likely tokens are, with the likeliest at their places; (R, V) logits, R tokens."""
    logprobs = logits.log_softmax(-1)
    index = torch.tensor(list(tokens), device=logits.device)[:, None]
    own = logprobs.gather(1, index).squeeze(1).tolist()
    count = min(max(tops), logits.shape[-1])
    if not count:
        return [Scored(token, value) for token, value in zip(tokens, own, strict=True)]
    values, ids = logprobs.topk(count)
    return [
        Scored(token, value, tuple(zip(best[:top], at[:top], strict=True)))
        for token, value, best, at, top in zip(tokens, own, ids.tolist(), values.tolist(), tops, strict=True)
    ]
