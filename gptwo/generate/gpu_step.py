"""A step of a plain GPT-2 on a GPU, with as few kernels as it takes.

R rows (texts)    C width of the hidden states    V vocabulary
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.generate.slots import Slots
from gptwo.model.gpt2 import GPT2, MLP, Attention, Block
from gptwo.model.heads import Model

FEW = 2  # rows up to which weights are multiplied as they come; more go through the libraries' matrix products
DOZENS = 64  # rows up to which the libraries' projection onto the vocabulary is the slower one


def takes(model: Model) -> bool:
    """Whether this module computes the model: each part of it is plain, no adapter's, and Triton can build kernels."""
    network = model.transformer
    if type(network) is not GPT2 or network.prefix is not None or not _builds():
        return False
    linears, norms = [model.projection], [network.ln_f]
    for block in network.h:
        if (type(block), type(block.attn), type(block.mlp)) != (Block, Attention, MLP):
            return False
        linears += [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj]
        norms += [block.ln_1, block.ln_2]
    return all(type(layer) is nn.Linear for layer in linears) and all(type(norm) is nn.LayerNorm for norm in norms)


@cache
def _builds() -> bool:
    """Triton comes with PyTorch's builds for GPUs, and calls a C compiler for what starts its kernels."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    return compiler is not None and importlib.util.find_spec("triton") is not None


def step(model: Model, slots: Slots, ids: Tensor) -> Tensor:
    """Logits of each row's next token in float32, (R,) -> (R, V); its keys and values go into `slots`."""
    logits = _few(model, slots, ids) if len(ids) <= FEW else _many(model, slots, ids)
    slots.advance(1)
    return logits


def _few(model: Model, slots: Slots, ids: Tensor) -> Tensor:
    """Weights are multiplied as they come from memory: five kernels a layer."""
    from gptwo.generate import gpu_kernels as kernels

    network, lengths = model.transformer, slots.lengths[: len(ids)]
    linear, parts = kernels.linear, kernels.Parts(len(ids), network.config.n_head, network.config.head_dim, ids.device)
    x = kernels.embed(ids, lengths, network.wte.weight, network.wpe.weight)  # (R, C)
    for layer, block in enumerate(network.h):
        attention, mlp = block.attn, block.mlp
        qkv = linear(x, attention.c_attn, block.ln_1)  # (R, 3 * C)
        mixed = kernels.attend(qkv, slots.keys[layer], slots.values[layer], lengths, attention.scale, parts)
        x = linear(mixed, attention.c_proj, residual=x)
        x = linear(linear(x, mlp.c_fc, block.ln_2, gelu=True), mlp.c_proj, residual=x)
    return linear(x, model.projection, network.ln_f, dtype=torch.float32)


def _many(model: Model, slots: Slots, ids: Tensor) -> Tensor:
    """Matrix products are the libraries'."""
    from gptwo.generate import gpu_kernels as kernels

    network, lengths = model.transformer, slots.lengths[: len(ids)]
    parts = kernels.Parts(len(ids), network.config.n_head, network.config.head_dim, ids.device)
    x = kernels.embed(ids, lengths, network.wte.weight, network.wpe.weight)  # (R, C)
    normed = network.h[0].ln_1(x)
    following = [*(block.ln_1 for block in network.h[1:]), network.ln_f]
    for layer, (block, norm) in enumerate(zip(network.h, following, strict=True)):
        attention, mlp = block.attn, block.mlp
        qkv = attention.c_attn(normed)  # (R, 3 * C)
        mixed = kernels.attend(qkv, slots.keys[layer], slots.values[layer], lengths, attention.scale, parts)
        x, normed = kernels.add_norm(x, attention.c_proj(mixed), block.ln_2)
        inner = F.gelu(mlp.c_fc(normed), approximate="tanh")
        x, normed = kernels.add_norm(x, mlp.c_proj(inner), norm)
    if len(ids) <= DOZENS and model.projection.bias is None:
        return kernels.project(normed, model.projection.weight)
    return model.projection(normed).float()
