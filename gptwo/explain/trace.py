"""What happens inside a network while it reads one text, taken with forward hooks: the network knows nothing of it.

T tokens    C width of the hidden states    H heads, D width of a head    L blocks
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gptwo.adapt.prefix import Prompt, prefix_of
from gptwo.generate.decoder import evaluating
from gptwo.model.gpt2 import Attention
from gptwo.model.heads import Model


@dataclass(frozen=True)
class Trace:
    """One text on its way through the network.

    Args:
        residual: L + 1 tensors (T, C): the residual stream after the embeddings and after each block.
        attention_inputs: L tensors (T, C): what each block's attention reads.
    """

    residual: list[Tensor]
    attention_inputs: list[Tensor]

    def attention(self, model: Model) -> Tensor:
        """(L, H, T, T) attention weights, row = the token that looks; each row sums to 1, or to less where virtual
        tokens of an adapter are looked at as well."""
        network = model.transformer
        before = [None] * len(network.h) if network.prefix is None else network.prefix.keys_and_values(network)[0]
        return torch.stack(
            [
                attention_weights(block.attn, x, keys)
                for block, x, keys in zip(network.h, self.attention_inputs, before, strict=True)
            ]
        )


@torch.no_grad()
def trace(model: Model, ids: Tensor) -> Trace:
    """Run one text, (T,) ids, and keep what `Trace` holds."""
    residual: list[Tensor] = []
    inputs: list[Tensor] = []
    blocks = model.transformer.h
    hooks = [blocks[0].register_forward_pre_hook(lambda module, args: residual.append(args[0][0]))]
    for block in blocks:
        hooks.append(block.attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0])))
        hooks.append(block.register_forward_hook(lambda module, args, output: residual.append(output[0])))
    with evaluating(model), removing(hooks):
        model.transformer(ids[None])
    return Trace(residual, inputs)


@torch.no_grad()
def attention_weights(attention: Attention, x: Tensor, before: Tensor | None = None) -> Tensor:
    """The weights that a block's attention gives, computed again beside it (it never forms them itself).

    Args:
        x: (T, C) what the attention reads.
        before: (H, P, D) keys of virtual tokens that every token sees.

    Returns:
        (H, T, T) float32, 0 above the diagonal.
    """
    T, C = x.shape
    query, key, _ = (
        part.view(T, attention.heads, C // attention.heads).transpose(0, 1)  # (T, C) -> (H, T, D)
        for part in attention.c_attn(x).float().split(C, dim=1)
    )
    scores = query @ key.transpose(1, 2) * attention.scale  # (H, T, T)
    unseen = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
    scores = scores.masked_fill(unseen, -torch.inf)
    if before is None:
        return scores.softmax(-1)
    virtual = query @ before.to(query.dtype).transpose(1, 2) * attention.scale  # (H, T, P)
    return torch.cat([virtual, scores], 2).softmax(-1)[:, :, before.shape[1] :]


@contextmanager
def fixed_prefix(model: Model) -> Iterator[None]:
    """Virtual tokens that go through the network themselves are read once: hooks then see the text alone."""
    network = model.transformer
    prompt = network.prefix
    if not isinstance(prompt, Prompt):
        yield
        return
    with torch.no_grad(), evaluating(model):
        network.prefix = prefix_of(*prompt.keys_and_values(network))
    try:
        yield
    finally:
        network.prefix = prompt


@contextmanager
def removing(hooks: list[RemovableHandle]) -> Iterator[None]:
    """Hooks that are gone afterwards, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def scaled(module: nn.Module, factor: Tensor) -> RemovableHandle:
    """Multiply what a module gives by a factor that broadcasts over (B, T, C)."""
    return module.register_forward_hook(lambda _, args, output: output * factor)


def scaled_input(module: nn.Module, factor: Tensor) -> RemovableHandle:
    """Multiply what a module reads by a factor that broadcasts over (B, T, C)."""
    return module.register_forward_pre_hook(lambda _, args: (args[0] * factor, *args[1:]))


Objective = Callable[[Tensor], Tensor]
"""What is explained: scores (…, V or labels) of the explained token to one number each, (…)."""
