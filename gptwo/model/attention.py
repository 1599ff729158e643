"""Who sees whom; and causal attention for training on a CPU: blocks of queries that stay in the processor's cache,
through matrix products.

PyTorch's own CPU kernel recomputes with a slow exponential; here the scores of a block of queries against the keys
before it go through the machine's matrix unit in bf16, and the backward pass recomputes them block by block
(Dao et al. 2022, "FlashAttention", without its tiling over keys). Nothing of size T x T is ever held; what dropout
hides is drawn again from the same seed.

    B rows    H heads    T tokens    D width of a head    N = B * H
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128  # queries at a time
HEADS = 16  # heads at a time: with BLOCK queries their scores stay in the cache


def attention_mask(T: int, documents: Tensor | None, past: int, device: torch.device, before: int = 0) -> Tensor | None:
    """Which of the S = past + T tokens each of the T new ones sees; all see the `before` slots ahead of those.

    Returns:
        (1 or B, 1, T, before + S) boolean, or None where plain causal attention says it all.
    """
    if documents is None and (past + before == 0 or T == 1):
        return None
    mask = torch.ones(T, past + T, dtype=torch.bool, device=device).tril(past)[None]  # (1, T, S)
    if documents is not None:
        mask = mask & (documents[:, past:, None] == documents[:, None, :])  # (B, T, S)
    if before:
        mask = F.pad(mask, (before, 0), value=True)
    return mask[:, None]


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """Causal attention, equal to `scaled_dot_product_attention(..., is_causal=True)` up to rounding.

    Args:
        query, key, value: (B, H, T, D), the same length T.
        mask: (B, 1, T, T) boolean, True where a token sees another (at least itself, never a later one);
            None for plain causal attention.
        scale: factor of the scores.
        dropout: share of the probabilities that is set to zero, the others growing by 1 / (1 - dropout); in
            steps of 1 / 65,536. The seed comes from PyTorch's generator.

    Returns:
        (B, H, T, D).
    """
    return _BlockedAttention.apply(query, key, value, mask, scale, dropout)


def blocked_attention_pays(query: Tensor, key: Tensor) -> bool:
    """Whether `blocked_attention` is the faster one here: bf16 on a CPU, whole rows."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] == key.shape[2] >= 64


class _Block(NamedTuple):
    """Queries start..end, which see keys first..end; `hidden` is to be added to their scores.

    With short documents packed into a row, most earlier keys are of documents before the block's own.
    """

    first: int
    start: int
    end: int
    hidden: Tensor  # (1 or B, queries, keys): 0 where seen, -inf where not


_planned: tuple[Tensor | None, int, torch.dtype, list[_Block]] | None = None


def _plan(mask: Tensor | None, T: int, dtype: torch.dtype) -> list[_Block]:
    """The blocks of a batch; made once, since all layers have the same."""
    global _planned
    if _planned is not None and _planned[0] is mask and _planned[1:3] == (T, dtype):
        return _planned[3]
    blocks = []
    size = BLOCK if T > 2 * BLOCK else T
    for start in range(0, T, size):
        end = min(T, start + size)
        if mask is None:
            first, seen = 0, torch.ones(end - start, end, dtype=torch.bool).tril(start)[None]
        else:
            first = int(mask[:, 0, start:end, :end].any(1).any(0).int().argmax())
            seen = mask[:, 0, start:end, first:end]
        hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        blocks.append(_Block(first, start, end, hidden))
    _planned = mask, T, dtype, blocks
    return blocks


def _groups(N: int, heads: int, blocks: list[_Block]) -> Iterator[tuple[slice, int]]:
    """Which of the N heads go together, and the place of what is hidden from them."""
    alike = heads if len(blocks[0].hidden) > 1 else N
    for start in range(0, N, alike):
        for first in range(start, start + alike, HEADS):
            yield slice(first, min(first + HEADS, start + alike)), start // alike


def _probabilities(query: Tensor, key: Tensor, block: _Block, row: int) -> Tensor:
    """Softmax of the scores of a block of scaled queries against its keys, (n, queries, keys)."""
    scores = torch.bmm(query[:, block.start : block.end], key[:, block.first : block.end].transpose(1, 2))
    scores.add_(block.hidden[row])
    return torch.softmax(scores, -1)


class _Dropout:
    """Which probabilities stay, block after block; the same ones for the same seed and order of blocks."""

    def __init__(self, rate: float, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.least = round(rate * 65536) - 32768  # of 16 random bits as a signed number

    def draw(self, probabilities: Tensor) -> Tensor:
        """True where an entry of the next block stays."""
        count = probabilities.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64)
        bits.random_(-(2**63), None, generator=self.generator)  # four entries from each number drawn
        return bits.view(torch.int16)[:count].view_as(probabilities) >= self.least


def _kept(block: Tensor, kept: Tensor | None) -> Tensor:
    """A block, zero where dropped; the entries that stay have yet to grow."""
    return block if kept is None else block * kept


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, scale, rate):
        B, H, T, D = query.shape
        query, key, value = (
            (query * scale).reshape(-1, T, D),
            key.reshape(-1, T, D),
            value.reshape(-1, T, D),
        )  # (N, …)
        out = torch.empty_like(value)
        blocks = _plan(mask, T, query.dtype)
        seed = int(torch.randint(2**62, ())) if rate else 0
        dropout = _Dropout(rate, seed) if rate else None
        for heads, row in _groups(B * H, H, blocks):
            q, k, v = query[heads], key[heads], value[heads]
            for block in blocks:
                p = _probabilities(q, k, block, row)
                p = _kept(p, dropout.draw(p) if dropout else None)
                torch.bmm(p, v[:, block.first : block.end], out=out[heads, block.start : block.end])
        ctx.save_for_backward(query, key, value)
        ctx.heads, ctx.scale, ctx.blocks, ctx.rate, ctx.seed = H, scale, blocks, rate, seed
        return out.mul_(1 / (1 - rate)).view(B, H, T, D) if rate else out.view(B, H, T, D)

    @staticmethod
    def backward(ctx, grad):
        query, key, value = ctx.saved_tensors  # the queries are scaled
        N, T, D = query.shape
        grad = grad.reshape(N, T, D)
        dropout = None
        if ctx.rate:
            grad = grad / (1 - ctx.rate)
            dropout = _Dropout(ctx.rate, ctx.seed)
        grad_query, grad_key, grad_value = torch.empty_like(grad), torch.zeros_like(key), torch.zeros_like(value)
        for heads, row in _groups(N, ctx.heads, ctx.blocks):
            q, k, v = query[heads], key[heads], value[heads]
            for block in ctx.blocks:
                queries, keys = slice(block.start, block.end), slice(block.first, block.end)
                p = _probabilities(q, k, block, row)
                g = grad[heads, queries]
                kept = dropout.draw(p) if dropout else None
                grad_value[heads, keys].add_(torch.bmm(_kept(p, kept).transpose(1, 2), g))
                grad_p = _kept(torch.bmm(g, v[:, keys].transpose(1, 2)), kept)
                grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
                torch.bmm(grad_s, k[:, keys], out=grad_query[heads, queries])
                grad_key[heads, keys].add_(torch.bmm(grad_s.transpose(1, 2), q[:, queries]))
        shape = (N // ctx.heads, ctx.heads, T, D)
        return grad_query.mul_(ctx.scale).view(shape), grad_key.view(shape), grad_value.view(shape), None, None, None
