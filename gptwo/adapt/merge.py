"""An adapter worked into the weights: the plain model that does the same."""

from __future__ import annotations

import torch

from gptwo.errors import UsageError
from gptwo.model.pretrained import Pretrained, allocate

MERGEABLE = ("lora", "adalora", "ia3", "bitfit")


def merged(pretrained: Pretrained) -> Pretrained:
    """A plain copy of a model with its adapter in the weights; the model itself stays as it is.

    Raises:
        UsageError: its adapter adds layers or virtual tokens, which no plain GPT-2 has.
    """
    adapter, model = pretrained.adapter, pretrained.model
    if adapter is None:
        raise UsageError("The model carries no adapter to merge.", where=pretrained.folder)
    if adapter.config.name not in MERGEABLE:
        raise UsageError(
            f"An adapter of the kind {adapter.config.name} cannot be merged.",
            where=pretrained.folder,
            why="it adds layers or virtual tokens, and a plain GPT-2 has no place for them",
            fix=f"use its folder as it is; merged can be: {', '.join(MERGEABLE)}",
        )
    weight = model.transformer.wte.weight
    copy = allocate(model.config, model.head_kind, len(pretrained.labels), weight.device, weight.dtype)
    values = dict(model.named_parameters())
    for place, part in adapter.parts.items():
        if hasattr(part, "merged"):
            values |= {f"{place}.{leaf}": tensor for leaf, tensor in part.merged().items()}
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(values[name])
    info = {**pretrained.info, "merged_from": adapter.config.name}
    return Pretrained(copy.eval(), pretrained.tokenizer, copy.config, pretrained.folder, info)
