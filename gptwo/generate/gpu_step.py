"""A step of a plain GPT-2 on a GPU, with as few kernels as it takes.

R rows (texts)    C width of the hidden states    V vocabulary
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.generate.slots import Slots
from gptwo.model.gpt2 import GPT2, MLP, Attention, Block
from gptwo.model.heads import Model

FEW = 4  # rows up to which weights are multiplied as they come; more go through the libraries' matrix products


def takes(model: Model) -> bool:
    """Whether this module computes the model: each part of it is plain, no adapter's, and Triton is installed."""
    network = model.transformer
    if type(network) is not GPT2 or network.prefix is not None or not _has_triton():
        return False
    linears, norms = [model.projection], [network.ln_f]
    for block in network.h:
        if (type(block), type(block.attn), type(block.mlp)) != (Block, Attention, MLP):
            return False
        linears += [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj]
        norms += [block.ln_1, block.ln_2]
    return all(type(layer) is nn.Linear for layer in linears) and all(type(norm) is nn.LayerNorm for norm in norms)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def step(model: Model, slots: Slots, ids: Tensor) -> Tensor:
    """Logits of each row's next token in float32, (R,) -> (R, V); its keys and values go into `slots`."""
    from gptwo.generate import gpu_kernels as kernels

    network, rows = model.transformer, len(ids)
    lengths = slots.lengths[:rows]
    linear = kernels.linear if rows <= FEW else _linear
    x = kernels.embed(ids, lengths, network.wte.weight, network.wpe.weight)  # (R, C)
    for layer, block in enumerate(network.h):
        attention, mlp = block.attn, block.mlp
        qkv = linear(x, attention.c_attn, block.ln_1)  # (R, 3 * C)
        mixed = kernels.attend(qkv, slots.keys[layer], slots.values[layer], lengths, attention.scale)
        x = linear(mixed, attention.c_proj, residual=x)
        x = linear(linear(x, mlp.c_fc, block.ln_2, gelu=True), mlp.c_proj, residual=x)
    logits = linear(x, model.projection, network.ln_f, dtype=torch.float32)
    slots.advance(1)
    return logits


def _linear(
    x: Tensor,
    layer: nn.Linear,
    norm: nn.LayerNorm | None = None,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What `gpu_kernels.linear` does, for many rows."""
    y = layer(x if norm is None else norm(x))
    if gelu:
        y = F.gelu(y, approximate="tanh")
    if residual is not None:
        y = residual + y
    return y if dtype is None else y.to(dtype)
