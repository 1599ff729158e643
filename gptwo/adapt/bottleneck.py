"""Bottleneck adapters: a narrow network beside or behind the layers of a frozen block.

Serial, behind what a sublayer gives: after attention and MLP (Houlsby et al. 2019, "Parameter-Efficient Transfer
Learning for NLP") or after the MLP alone (Pfeiffer et al. 2021, "AdapterFusion"). Parallel, beside the MLP (He et al.
2022, "Towards a Unified View of Parameter-Efficient Transfer Learning"). Each begins at zero, so that the network
begins as the base.

    C width of the hidden states    W width of the middle
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.adapt.parts import drawn, take_over
from gptwo.model.gpt2 import MLP

ACTIVATIONS = {"houlsby": F.silu, "pfeiffer": F.relu, "parallel": F.relu}  # as in the papers' own code
PARALLEL_SCALE = 4.0  # He et al. 2022, section 4.5


class Bottleneck(nn.Module):
    """C -> W -> C, with a bend in the middle.

    Args:
        size: C.
        width: W.
        kind: "houlsby", "pfeiffer" or "parallel"; decides the activation.
        like: device and precision.
        random: of the projection down; the one up begins at zero.
    """

    def __init__(self, size: int, width: int, kind: str, *, like: Tensor, random: torch.Generator):
        super().__init__()
        self.kind = kind
        self.down_weight = drawn((width, size), like, random, bound=1 / math.sqrt(size))
        self.down_bias = drawn((width,), like, random)
        self.up_weight = drawn((size, width), like, random)
        self.up_bias = drawn((size,), like, random)

    def forward(self, x: Tensor) -> Tensor:
        middle = ACTIVATIONS[self.kind](F.linear(x, self.down_weight, self.down_bias))
        return F.linear(middle, self.up_weight, self.up_bias)


class SerialBottleneck(nn.Linear):
    """The last layer of a sublayer, with an adapter and a short cut around it behind: y + adapter(y)."""

    def __init__(self, base: nn.Linear, width: int, kind: str, *, random: torch.Generator):
        take_over(self, base)
        self.adapter = Bottleneck(base.out_features, width, kind, like=base.weight, random=random)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out + self.adapter(out)


class ParallelBottleneck(MLP):
    """An MLP with an adapter beside it: mlp(x) + scale * adapter(x)."""

    def __init__(self, base: MLP, width: int, *, random: torch.Generator):
        take_over(self, base)
        weight = base.c_fc.weight
        self.adapter = Bottleneck(weight.shape[1], width, "parallel", like=weight, random=random)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + PARALLEL_SCALE * self.adapter(x)
