"""An adapter for the native engine: its modules become branches beside the packed matrices, or what texts begin with.

LoRA and AdaLoRA are a branch beside each adapted matrix, y + B (A x); bottlenecks are one beside or behind a part of a
block; virtual tokens are keys and values in a text's first pages. All of it is computed in float32, whatever the
precision of the base.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from gptwo.model.pretrained import Pretrained

# As `Place` and `Bend` of csrc/ number them.
BESIDE = {"attn.c_attn": 0, "attn.c_proj": 1, "mlp.c_fc": 2, "mlp.c_proj": 3, "mlp": 4}
BEHIND = {"attn.c_proj": 5, "mlp.c_proj": 6}
BENDS = {"lora": 0, "pfeiffer": 1, "parallel": 1, "houlsby": 2}

Branch = tuple[int, int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Place, bend, down (R, inputs) and its bias, up (outputs, R) and its bias; a bias of no length is none."""


def add_adapter(native: Any, carrying: Pretrained, *, whole: bool = False) -> int:
    """Give the C++ engine the adapter that a model carries.

    Args:
        native: the C++ engine, over the same base.
        carrying: a loaded model with an adapter.
        whole: the engine's weights are this model's, those included that its adapter tuned whole.

    Returns:
        the engine's number of it.

    Raises:
        UsageError: an adapter that changes weights otherwise, or over a network of other sizes.
    """
    import torch

    from gptwo.adapt.prefix import VirtualTokens

    adapter, model = carrying.adapter, carrying.model
    if adapter is None:
        raise UsageError("The model carries no adapter.", where=carrying.folder)
    branches, beginning = [], None
    with torch.no_grad():
        for place, part in adapter.parts.items():
            found = re.match(r"transformer\.h\.(\d+)\.(.+)$", place)
            if isinstance(part, VirtualTokens):
                beginning = [_numbers(t) for t in part.keys_and_values(model.transformer)]
            elif found:
                branches.append((int(found[1]), _branch(found[2], part, adapter.config.name, carrying)))
            elif place.startswith("transformer.") and not whole:
                raise _other(carrying, f"{place} was tuned whole")
    number = native.add_adapter()
    try:
        for layer, (at, bend, *tensors) in branches:
            if tensors[0].size:
                native.add_branch(number, layer, at, bend, *tensors)
        if beginning is not None:
            native.begin_with(number, *beginning)
    except ValueError as error:
        native.drop_adapter(number)
        raise UsageError(
            "The adapter belongs to a network of other sizes.", where=carrying.folder, why=str(error)
        ) from None
    return number


def _branch(leaf: str, part: nn.Module, kind: str, carrying: Pretrained) -> Branch:
    """What a module adds to the layer that it stands in for."""
    from gptwo.adapt.adalora import SVDLinear
    from gptwo.adapt.bottleneck import PARALLEL_SCALE, ParallelBottleneck, SerialBottleneck
    from gptwo.adapt.lora import LoRALinear

    none = np.empty(0, np.float32)
    if isinstance(part, SVDLinear):
        kept = part.lora_E != 0  # triplets that the budget left
        down = part.lora_A[kept] * part.lora_E[kept, None]
        return BESIDE[leaf], BENDS["lora"], _numbers(down), none, _numbers(part.scale * part.lora_B[:, kept]), none
    if isinstance(part, LoRALinear) and part.lora_magnitude_vector is None:
        return BESIDE[leaf], BENDS["lora"], _numbers(part.lora_A), none, _numbers(part.scale * part.lora_B), none
    if isinstance(part, SerialBottleneck | ParallelBottleneck):
        parallel = isinstance(part, ParallelBottleneck)
        scale, own = PARALLEL_SCALE if parallel else 1.0, part.adapter
        down, up = _numbers(own.down_weight), _numbers(scale * own.up_weight)
        place = BESIDE[leaf] if parallel else BEHIND[leaf]
        return place, BENDS[kind], down, _numbers(own.down_bias), up, _numbers(scale * own.up_bias)
    raise _other(carrying, f"an adapter of the kind {kind} changes the weights themselves" + _dora(part))


def _dora(part: nn.Module) -> str:
    return " (dora)" if getattr(part, "lora_magnitude_vector", None) is not None else ""


def _other(carrying: Pretrained, why: str) -> UsageError:
    return UsageError(
        "The adapter cannot be chosen for each text.",
        where=carrying.folder,
        why=why,
        fix="load it as the model, where it is merged; LoRA, AdaLoRA, bottlenecks, prefixes and prompts can be chosen",
    )


def _numbers(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
