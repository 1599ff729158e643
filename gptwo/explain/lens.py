"""The logit lens: what the network would say if it stopped after each block (nostalgebraist 2020).

The residual stream after a block goes through the last layer norm and the head, as if the later blocks were not
there. https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gptwo.explain.trace import Objective, Trace
from gptwo.model.heads import Model


@dataclass(frozen=True)
class LensRow:
    """The lens after one block.

    Args:
        layer: 0 is after the embeddings, 1 after the first block, …
        top: for each token of the text, its likeliest outcomes (id, probability).
        target: probability of the explained outcome at the explained token.
        rank: its rank among all outcomes there, 1 is the likeliest.
    """

    layer: int
    top: list[list[tuple[int, float]]]
    target: float
    rank: int


@torch.no_grad()
def logit_lens(model: Model, trace: Trace, target: int, objective: Objective, *, count: int = 3) -> list[LensRow]:
    """What every block's output would mean, L + 1 rows.

    Args:
        target: index of the explained outcome; its token is the last one of the trace.
        objective: log-probability of that outcome from scores.
        count: outcomes for each token.
    """
    rows = []
    for layer, x in enumerate(trace.residual):
        scores = model.logits(model.transformer.ln_f(x)).float()  # (T, V)
        values, ids = scores.softmax(-1).topk(min(count, scores.shape[-1]), dim=-1)
        top = [list(zip(line, shares, strict=True)) for line, shares in zip(ids.tolist(), values.tolist(), strict=True)]
        last = scores[-1]
        rank = 1 + int((last > last[target]).sum())
        rows.append(LensRow(layer, top, float(objective(last).exp()), rank))
    return rows
