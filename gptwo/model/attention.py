"""Causal attention for training on a CPU: blocks of queries that stay in the cache, through matrix products.

PyTorch's own CPU kernel recomputes with a slow exponential; here the scores of a block of queries against the keys
before it go through the machine's matrix unit in bf16, and the backward pass recomputes them block by block
(Dao et al. 2022, "FlashAttention", without its tiling over keys). Nothing of size T x T is ever held; what dropout
hides is drawn again from the same seed.

    B rows    H heads    T tokens    D width of a head    N = B * H
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128  # queries at a time
HEADS = 16  # heads at a time: with BLOCK queries their scores stay in the cache


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


def _blocks(T: int, mask: Tensor | None) -> list[tuple[int, int, int]]:
    """Blocks of queries, each with the keys it sees: queries start..end see keys first..end.

    With short documents packed into a row, most earlier keys are of documents before the block's own.
    """
    blocks = []
    for start in range(0, T, BLOCK):
        end = min(T, start + BLOCK)
        first = 0 if mask is None else int(mask[:, 0, start:end, :end].any(1).any(0).int().argmax())
        blocks.append((first, start, end))
    return blocks


def _probabilities(query, key, hidden, block, scale):
    """Softmax of the scores of a block of queries against its keys; `hidden` is -inf where not seen."""
    first, start, end = block
    scores = torch.bmm(query[:, start:end] * scale, key[:, first:end].transpose(1, 2))  # (n, block, keys)
    scores.add_(hidden)
    return torch.softmax(scores, -1)


def _hidden(mask, rows: slice, heads: int, block: tuple[int, int, int], dtype) -> Tensor:
    """What to add to the scores of a block: 0 where seen, -inf where not; (1 or n, block, keys)."""
    first, start, end = block
    if mask is None:
        seen = torch.ones(end - start, end, dtype=torch.bool).tril(start)[None]
    else:
        seen = mask[:, 0, start:end, first:end].repeat_interleave(heads, 0)[rows]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


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
        flat = [part.reshape(B * H, T, D) for part in (query, key, value)]  # (N, T, D)
        out = torch.empty_like(flat[0])
        blocks = _blocks(T, mask)
        seed = int(torch.randint(2**62, ())) if rate else 0
        dropout = _Dropout(rate, seed) if rate else None
        for head in range(0, B * H, HEADS):
            rows = slice(head, head + HEADS)
            q, k, v = (part[rows] for part in flat)
            for block in blocks:
                first, start, end = block
                p = _probabilities(q, k, _hidden(mask, rows, H, block, q.dtype), block, scale)
                p = _kept(p, dropout.draw(p) if dropout else None)
                torch.bmm(p, v[:, first:end], out=out[rows, start:end])
        ctx.save_for_backward(*flat, mask)
        ctx.heads, ctx.scale, ctx.blocks, ctx.rate, ctx.seed = H, scale, blocks, rate, seed
        return out.mul_(1 / (1 - rate)).view(B, H, T, D) if rate else out.view(B, H, T, D)

    @staticmethod
    def backward(ctx, grad):
        *flat, mask = ctx.saved_tensors
        N, T, D = flat[0].shape
        H, scale = ctx.heads, ctx.scale
        grad = grad.reshape(N, T, D)
        dropout = None
        if ctx.rate:
            grad = grad / (1 - ctx.rate)
            dropout = _Dropout(ctx.rate, ctx.seed)
        grad_query = torch.empty_like(flat[0])
        grad_key, grad_value = torch.zeros_like(flat[0]), torch.zeros_like(flat[0])
        for head in range(0, N, HEADS):
            rows = slice(head, head + HEADS)
            q, k, v = (part[rows] for part in flat)
            for block in ctx.blocks:
                first, start, end = block
                p = _probabilities(q, k, _hidden(mask, rows, H, block, q.dtype), block, scale)
                g = grad[rows, start:end]
                kept = dropout.draw(p) if dropout else None
                grad_value[rows, first:end].add_(torch.bmm(_kept(p, kept).transpose(1, 2), g))
                grad_p = _kept(torch.bmm(g, v[:, first:end].transpose(1, 2)), kept)
                grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(scale)
                torch.bmm(grad_s, k[:, first:end], out=grad_query[rows, start:end])
                grad_key[rows, first:end].add_(torch.bmm(grad_s.transpose(1, 2), q[:, start:end]))
        shape = (N // H, H, T, D)
        return grad_query.view(shape), grad_key.view(shape), grad_value.view(shape), None, None, None
