"""Kernels for one step of a few texts on a GPU, in Triton.

What bounds such a step is how fast weights come from memory, and how many kernels must start one after the other. So
layer norm, bias, GELU and the residual are done by the matrix product that needs them; attention writes the new keys
and values itself, and reads no more columns than each text has; and from Hopper on a kernel begins while the one before
it ends, with its weights on their way (NVIDIA's "programmatic dependent launch").

    R rows (texts)    C width of the hidden states    H heads, D width of a head    S columns of the cache
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # an older Triton
    gdc_launch_dependents = gdc_wait = None

TILE = 4096  # weights that a program of `linear` holds
SHORT = 256  # columns of a cache up to which one program reads them all
SPLITS = 16  # programs that share the columns of a longer cache
FEW_PAIRS = 64  # rows times heads from which on there are programs enough without


@cache
def _overlap(device: torch.device) -> dict[str, Any]:
    """Settings that let a kernel begin before the one ahead of it has ended."""
    if gdc_wait is None or torch.version.hip or torch.cuda.get_device_capability(device) < (9, 0):
        return {"OVERLAP": False}
    return {"OVERLAP": True, "launch_pdl": True}


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
    qkv, keys, values, lengths, out, parts, arrived, scale, row_stride, head_stride,
    C: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    length = tl.load(lengths + row)
    d = tl.arange(0, WIDE)
    real = d < D
    new = qkv + row * 3 * C + head * D + d
    query = tl.load(new, mask=real, other=0.0).to(tl.float32) * scale
    start = row.to(tl.int64) * row_stride + head * head_stride
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    mixed = tl.zeros((WIDE,), tl.float32)
    if split == 0:  # the new token itself
        key, value = tl.load(new + C, mask=real, other=0.0), tl.load(new + 2 * C, mask=real, other=0.0)
        tl.store(keys + start + length * D + d, key, mask=real)
        tl.store(values + start + length * D + d, value, mask=real)
        largest = tl.sum(query * key.to(tl.float32), 0)
        total = tl.exp(largest - largest)
        mixed = value.to(tl.float32)
    # and those before it, a block of columns at a time, the softmax kept up (Milakov & Gimelshein 2018)
    share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK) * BLOCK
    stop = tl.minimum(length, (split + 1) * share)
    for first in range(split * share, stop, BLOCK):
        at = first + tl.arange(0, BLOCK)
        seen = at < stop
        where = start + at[:, None] * D + d[None, :]
        block_keys = tl.load(keys + where, mask=seen[:, None] & real[None, :], other=0.0)
        block_values = tl.load(values + where, mask=seen[:, None] & real[None, :], other=0.0)  # on their way meanwhile
        scores = tl.where(seen, tl.sum(block_keys.to(tl.float32) * query[None, :], 1), float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 0))
        shares, kept = tl.exp(scores - larger), tl.exp(largest - larger)
        mixed = mixed * kept + tl.sum(shares[:, None] * block_values.to(tl.float32), 0)
        total = total * kept + tl.sum(shares, 0)
        largest = larger
    here = out + row * C + head * D + d
    if SPLITS == 1:
        tl.store(here, (mixed / total).to(out.dtype.element_ty), mask=real)
    else:  # the program that ends last puts the parts together, in their order
        pair = row * tl.num_programs(0) + head
        part = parts + (pair * SPLITS + split) * (WIDE + 2)
        tl.store(part + d, mixed)
        tl.store(part + WIDE, largest)
        tl.store(part + WIDE + 1, total)
        tl.debug_barrier()
        if tl.atomic_add(arrived + pair, 1, sem="acq_rel") == SPLITS - 1:
            every = parts + (pair * SPLITS + tl.arange(0, SPLITS)) * (WIDE + 2)
            peaks = tl.load(every + WIDE, cache_modifier=".cg")
            totals = tl.load(every + WIDE + 1, cache_modifier=".cg")
            weights = tl.exp(peaks - tl.max(peaks, 0))
            all_mixed = tl.load(every[:, None] + d[None, :], cache_modifier=".cg")
            whole = tl.sum(all_mixed * weights[:, None], 0) / tl.sum(totals * weights, 0)
            tl.store(here, whole.to(out.dtype.element_ty), mask=real)
            tl.store(arrived + pair, 0)


class Parts:
    """Where the programs of `attend` that share a text leave their parts.

    Args:
        rows: R at most.
    """

    def __init__(self, rows: int, heads: int, width: int, device: torch.device):
        wide = triton.next_power_of_2(width)
        self.parts = torch.empty(rows * heads * SPLITS * (wide + 2), device=device)
        self.arrived = torch.zeros(rows * heads, dtype=torch.int32, device=device)


def attend(qkv: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, parts: Parts) -> Tensor:
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
    splits, block, warps = (SPLITS, 64, 4) if S > SHORT and R * H <= FEW_PAIRS else (1, 256, 8)
    _attend[(H, R, splits)](
        qkv, keys, values, lengths, out, parts.parts, parts.arrived, scale, H * S * D, S * D,
        C=H * D, D=D, WIDE=triton.next_power_of_2(D), BLOCK=block, SPLITS=splits, num_warps=warps,
        **_overlap(qkv.device),
    )  # fmt: skip
    return out


@triton.jit
def _linear(
    x, weight, bias, residual, out, norm_weight, norm_bias, eps, N,
    ROWS: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    if OVERLAP:
        gdc_launch_dependents()
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDE)
    inside, real = n < N, k < K
    tile = tl.load(weight + n[:, None].to(tl.int64) * K + k[None, :], mask=inside[:, None] & real[None, :], other=0.0)
    if NORM:
        gain = tl.load(norm_weight + k, mask=real, other=0.0).to(tl.float32)
        shift = tl.load(norm_bias + k, mask=real, other=0.0).to(tl.float32)
    if BIAS:
        added = tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    if OVERLAP:  # weights do not depend on the kernel before this one, everything else does
        gdc_wait()
    tile = tile.to(tl.float32)
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
        **_overlap(x.device),
    )  # fmt: skip
    return out


@triton.jit
def _add_norm(x, added, weight, bias, out, normed, eps, C: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    real = c < C
    h = tl.load(x + row * C + c, mask=real, other=0.0).to(tl.float32)
    h += tl.load(added + row * C + c, mask=real, other=0.0).to(tl.float32)
    h = h.to(x.dtype.element_ty)
    tl.store(out + row * C + c, h, mask=real)
    h = h.to(tl.float32)
    centred = tl.where(real, h - tl.sum(h, 0) / C, 0.0)
    rate = tl.rsqrt(tl.sum(centred * centred, 0) / C + eps)
    gain = tl.load(weight + c, mask=real, other=0.0).to(tl.float32)
    y = centred * rate * gain + tl.load(bias + c, mask=real, other=0.0).to(tl.float32)
    tl.store(normed + row * C + c, y.to(x.dtype.element_ty), mask=real)


def add_norm(x: Tensor, added: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """x + added, and its layer norm; (R, C) each."""
    R, C = x.shape
    out, normed = torch.empty_like(x), torch.empty_like(x)
    _add_norm[(R,)](x, added, norm.weight, norm.bias, out, normed, norm.eps, C, triton.next_power_of_2(C))
    return out, normed


@triton.jit
def _project(
    x, weight, out, R, N, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside, there = n < N, m < R
    y = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(0, K, INNER):
        k = first + tl.arange(0, INNER)
        real = k < K
        where = n[None, :].to(tl.int64) * K + k[:, None]
        tile = tl.load(weight + where, mask=inside[None, :] & real[:, None], other=0.0)
        h = tl.load(x + m[:, None] * K + k[None, :], mask=there[:, None] & real[None, :], other=0.0)
        y = tl.dot(h, tile, y, input_precision="ieee")
    tl.store(out + m[:, None] * N + n[None, :], y, mask=there[:, None] & inside[None, :])


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T in float32, (R, C) and (V, C) -> (R, V): for some dozens of rows at most."""
    (R, K), N = x.shape, len(weight)
    out = torch.empty(R, N, device=x.device)
    rows, columns, inner, warps, stages = (16, 64, 256, 4, 2) if R <= 16 else (32, 128, 128, 8, 3)
    if x.dtype == torch.float32:  # twice the bytes
        inner //= 2
    grid = triton.cdiv(N, columns), triton.cdiv(R, rows)
    _project[grid](x, weight, out, R, N, K, rows, columns, inner, num_warps=warps, num_stages=stages)
    return out
