"""Which tokens of a text speak for a prediction, and which parts of the network.

Signs are the same everywhere: above 0 speaks for the explained outcome, in nats of its log-probability.
T tokens    C width    H heads
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptwo.explain.trace import Objective, removing, scaled, scaled_input
from gptwo.generate.decoder import evaluating
from gptwo.model.heads import Model

ROW_TOKENS = 4096  # tokens that go through the network at once


def score(model: Model, ids: Tensor, objective: Objective, positions: Tensor | None = None) -> Tensor:
    """The objective at the last token of each row: (B, T) ids -> (B,)."""
    hidden = model.transformer(ids, positions)[:, -1]  # (B, C)
    return objective(model.logits(hidden).float())


@dataclass(frozen=True)
class Gradients:
    """Integrated gradients of a text.

    Args:
        tokens: T attributions.
        gap: what they miss of the difference between the text and the baseline; 0 with infinitely many steps.
        difference: that difference, in nats.
    """

    tokens: list[float]
    gap: float
    difference: float


def integrated_gradients(model: Model, ids: Tensor, objective: Objective, *, steps: int = 32) -> Gradients:
    """Attributions along the straight way from the mean token to the text (Sundararajan, Taly & Yan 2017).

    The baseline is the mean of all token embeddings at every place; positions stay. Their sum is the difference
    between the text's score and the baseline's, up to `gap`.

    Args:
        ids: (T,).
        steps: points on the way, at the middle of equal parts.
    """
    embedding = model.transformer.wte
    with torch.no_grad():
        text = embedding(ids)  # (T, C)
        way = text - embedding.weight.mean(0)
    start = text - way
    total = torch.zeros_like(text)
    shares = (torch.arange(steps, device=ids.device) + 0.5) / steps
    rows = max(1, ROW_TOKENS // len(ids))
    with evaluating(model), torch.enable_grad():
        for part in shares.split(rows):
            points = (start + part[:, None, None].to(way.dtype) * way).requires_grad_()  # (b, T, C)
            hook = embedding.register_forward_hook(lambda module, args, output, points=points: points)
            with removing([hook]):
                value = score(model, ids.expand(len(part), -1), objective).sum()
            total += torch.autograd.grad(value, points)[0].sum(0)
        attributions = (total / steps * way).sum(-1)  # (T, C) -> (T,)
        with torch.no_grad():
            hook = embedding.register_forward_hook(lambda module, args, output: start.expand_as(output))
            with removing([hook]):
                empty = float(score(model, ids[None], objective))
            difference = float(score(model, ids[None], objective)) - empty
    return Gradients(attributions.tolist(), difference - float(attributions.sum()), difference)


@torch.no_grad()
def leave_one_out(model: Model, ids: Tensor, objective: Objective) -> list[float]:
    """What the score loses when a token is taken out; the others keep their positions. (T,) ids -> T values.

    The last token is read where the one before it stands. Of a single token nothing is left: the score is held
    against even odds.
    """
    T = len(ids)
    with evaluating(model):
        whole = score(model, ids[None], objective)
        if T == 1:
            even = objective(torch.zeros_like(model.logits(model.transformer(ids[None])[0, -1])).float())
            return [float(whole - even)]
        places = torch.arange(T, device=ids.device)
        kept = torch.stack([torch.cat([places[:i], places[i + 1 :]]) for i in range(T)])  # (T, T - 1)
        values = [score(model, ids[part], objective, part) for part in kept.split(max(1, ROW_TOKENS // T))]
    return (whole - torch.cat(values)).tolist()


@dataclass(frozen=True)
class Contributions:
    """What the score loses when a part gives zero.

    Args:
        heads: L lists of H values.
        attention, mlp: L values: the whole attention of a block, its MLP.
    """

    heads: list[list[float]]
    attention: list[float]
    mlp: list[float]


@torch.no_grad()
def contributions(model: Model, ids: Tensor, objective: Objective) -> Contributions:
    """Zero ablation, one part at a time (Michel, Levy & Neubig 2019): (T,) ids.

    A head's part of what the attention's projection reads is set to zero, or all that a block's attention or MLP
    adds to the residual stream.
    """
    heads, attention, mlp = [], [], []
    with evaluating(model):
        whole = score(model, ids[None], objective)
        for block in model.transformer.h:
            H, C = block.attn.heads, model.config.n_embd
            kinds = H + 2  # each head, then the attention, then the MLP
            like = {"device": ids.device, "dtype": model.transformer.wte.weight.dtype}
            by_head = torch.ones(kinds, H, **like)
            by_head[:H].fill_diagonal_(0)
            inputs = by_head.repeat_interleave(C // H, dim=1)[:, None]  # (kinds, H) -> (kinds, 1, C)
            rows = [torch.ones(kinds, 1, 1, **like) for _ in range(2)]
            rows[0][H], rows[1][H + 1] = 0, 0
            values = []
            for part in torch.arange(kinds, device=ids.device).split(max(1, ROW_TOKENS // len(ids))):
                hooks = [
                    scaled_input(block.attn.c_proj, inputs[part]),
                    scaled(block.attn, rows[0][part]),
                    scaled(block.mlp, rows[1][part]),
                ]
                with removing(hooks):
                    values.append(score(model, ids.expand(len(part), -1), objective))
            lost = (whole - torch.cat(values)).tolist()
            heads.append(lost[:H])
            attention.append(lost[H])
            mlp.append(lost[H + 1])
    return Contributions(heads, attention, mlp)
