"""Kernels for one step of a few texts on a GPU, in Triton.

What bounds such a step is how fast weights come from memory, and how many kernels must start one after the other. So
layer norm, bias, GELU and the residual are done by the matrix product that needs them; attention writes the new keys
and values itself, and reads no more columns than each text has.

    R rows (texts)    C width of the hidden states    H heads, D width of a head    S columns of the cache
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

COLUMNS = 128  # of the cache that a program of `attend` reads at a time
TILE = 4096  # weights that a program of `linear` holds


@triton.jit
def _embed(ids, lengths, tokens, positions, out, last, C: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    token = tl.load(ids + row)
    position = tl.minimum(tl.load(lengths + row), last)
    x = tl.load(tokens + token * C + c, mask=c < C).to(tl.float32)
    x += tl.load(positions + position * C + c, mask=c < C).to(tl.float32)
    tl.store(out + row * C + c, x.to(out.dtype.element_ty), mask=c < C)


def embed(ids: Tensor, lengths: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Token and position embeddings of each row's newest token, (R,) and (R,) -> (R, C)."""
    C = tokens.shape[1]
    out = torch.empty(len(ids), C, device=ids.device, dtype=tokens.dtype)
    block = triton.next_power_of_2(C)
    _embed[(len(ids),)](ids, lengths, tokens, positions, out, len(positions) - 1, C, block)
    return out


@triton.jit
def _attend(
    qkv, keys, values, lengths, out, scale, row_stride, head_stride,
    C: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row)
    d = tl.arange(0, WIDE)
    real = d < D
    new = qkv + row * 3 * C + head * D + d
    query = tl.load(new, mask=real, other=0.0).to(tl.float32) * scale
    key, value = tl.load(new + C, mask=real, other=0.0), tl.load(new + 2 * C, mask=real, other=0.0)
    start = row.to(tl.int64) * row_stride + head * head_stride
    tl.store(keys + start + length * D + d, key, mask=real)
    tl.store(values + start + length * D + d, value, mask=real)
    # the new token itself, then those before it, a block of columns at a time (Milakov & Gimelshein 2018)
    largest = tl.sum(query * key.to(tl.float32), 0)
    total = tl.exp(largest - largest)
    mixed = value.to(tl.float32)
    for first in range(0, length, BLOCK):
        at = first + tl.arange(0, BLOCK)
        seen = at < length
        where = start + at[:, None] * D + d[None, :]
        block = tl.load(keys + where, mask=seen[:, None] & real[None, :], other=0.0).to(tl.float32)
        scores = tl.where(seen, tl.sum(block * query[None, :], 1), float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 0))
        shares, kept = tl.exp(scores - larger), tl.exp(largest - larger)
        block = tl.load(values + where, mask=seen[:, None] & real[None, :], other=0.0).to(tl.float32)
        mixed = mixed * kept + tl.sum(shares[:, None] * block, 0)
        total = total * kept + tl.sum(shares, 0)
        largest = larger
    tl.store(out + row * C + head * D + d, (mixed / total).to(out.dtype.element_ty), mask=real)


def attend(qkv: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """Attention of each row's newest token, whose keys and values are put behind those of its earlier ones.

    Args:
        qkv: (R, 3 * C) queries, keys and values of the new tokens.
        keys, values: (at least R, H, S, D), contiguous.
        lengths: (R,) tokens of each row before the new one; less than S.

    Returns:
        (R, C).
    """
    R, (_, H, S, D) = len(qkv), keys.shape
    out = torch.empty(R, H * D, device=qkv.device, dtype=qkv.dtype)
    wide = triton.next_power_of_2(D)
    _attend[(H, R)](qkv, keys, values, lengths, out, scale, H * S * D, S * D, H * D, D, wide, COLUMNS)
    return out


@triton.jit
def _linear(
    x, weight, bias, residual, out, norm_weight, norm_bias, eps, N,
    ROWS: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDE)
    inside, real = n < N, k < K
    tile = tl.load(weight + n[:, None].to(tl.int64) * K + k[None, :], mask=inside[:, None] & real[None, :], other=0.0)
    tile = tile.to(tl.float32)
    if NORM:
        gain = tl.load(norm_weight + k, mask=real, other=0.0).to(tl.float32)
        shift = tl.load(norm_bias + k, mask=real, other=0.0).to(tl.float32)
    if BIAS:
        added = tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    for row in tl.static_range(ROWS):
        h = tl.load(x + row * K + k, mask=real, other=0.0).to(tl.float32)
        if NORM:
            centred = tl.where(real, h - tl.sum(h, 0) / K, 0.0)
            h = centred * tl.rsqrt(tl.sum(centred * centred, 0) / K + eps) * gain + shift
            h = h.to(x.dtype.element_ty).to(tl.float32)  # as a layer norm of its own would round it
        y = tl.sum(tile * h[None, :], 1)
        if BIAS:
            y += added
        if GELU:
            inner = 0.7978845608028654 * (y + 0.044715 * y * y * y)  # sqrt(2 / pi)
            y = y * tl.sigmoid(2.0 * inner)  # (1 + tanh(inner)) / 2 = sigmoid(2 * inner)
        if RESIDUAL:
            y += tl.load(residual + row * N + n, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * N + n, y.to(out.dtype.element_ty), mask=inside)


def linear(
    x: Tensor,
    layer: nn.Linear,
    norm: nn.LayerNorm | None = None,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """residual + gelu(layer(norm(x))), what is not given left out; (R, K) -> (R, N), R of a few.

    Every weight is read once and multiplied with all rows; sums are in float32.

    Args:
        dtype: of the result; that of x where it is None.
    """
    (R, K), N = x.shape, layer.out_features
    out = torch.empty(R, N, device=x.device, dtype=dtype or x.dtype)
    wide = triton.next_power_of_2(K)
    block = max(1, TILE // wide)
    bias = layer.bias
    _linear[(triton.cdiv(N, block),)](
        x, layer.weight, x if bias is None else bias, x if residual is None else residual, out,
        x if norm is None else norm.weight, x if norm is None else norm.bias, 0.0 if norm is None else norm.eps, N,
        ROWS=R, K=K, WIDE=wide, BLOCK=block,
        BIAS=bias is not None, NORM=norm is not None, GELU=gelu, RESIDUAL=residual is not None,
    )  # fmt: skip
    return out
