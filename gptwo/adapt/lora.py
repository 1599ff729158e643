"""LoRA: a frozen linear layer plus a product of two thin matrices (Hu et al. 2022, "LoRA: Low-Rank Adaptation").

Rank-stabilised scaling is Kalajdzievski 2023, DoRA is Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank
Adaptation". Names and shapes of the parameters are those of the peft library.

    I inputs    O outputs    R rank
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.adapt.parts import drawn, take_over


class LoRALinear(nn.Linear):
    """W x + b + scale * B A x; W and b are those of `base`, A (R, I) and B (O, R) are tuned.

    Args:
        base: the layer it stands in for.
        rank: R.
        alpha: the scale is alpha / rank.
        dropout: on what goes into A.
        rank_stabilised: the scale is alpha / sqrt(rank).
        dora: the rows of W + scale * B A are brought to lengths that are tuned as well.
        random: of A; B begins at zero, so that the layer begins as the base.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        *,
        dropout: float = 0.0,
        rank_stabilised: bool = False,
        dora: bool = False,
        random: torch.Generator,
    ):
        take_over(self, base)
        self.alpha = alpha
        self.scale = alpha / (math.sqrt(rank) if rank_stabilised else rank)
        self.lora_dropout = nn.Dropout(dropout)
        self.lora_A = drawn((rank, base.in_features), base.weight, random, bound=1 / math.sqrt(base.in_features))
        self.lora_B = drawn((base.out_features, rank), base.weight, random)
        self.register_parameter("lora_magnitude_vector", None)
        if dora:
            self.lora_magnitude_vector = nn.Parameter(self.row_lengths())  # (O,)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(self.lora_dropout(x), self.lora_A)  # (..., R)
        if self.lora_magnitude_vector is None:
            return add_product(super().forward(x), inner, self.lora_B, self.scale)
        # The lengths count as constants in the backward pass (DoRA, section 4.3).
        ratio = self.lora_magnitude_vector / self.row_lengths()
        base = super().forward(x)
        plain = base if self.bias is None else base - self.bias
        return base + (ratio - 1) * plain + (ratio * self.scale) * F.linear(inner, self.lora_B)

    @torch.no_grad()
    def row_lengths(self) -> Tensor:
        """Lengths of the rows of W + scale * B A, (O,)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return torch.linalg.vector_norm(self.weight + self.scale * (self.lora_B @ self.lora_A), dim=1)

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """Weight of the plain layer that does the same."""
        weight = self.weight.float() + self.scale * (self.lora_B.float() @ self.lora_A.float())
        if self.lora_magnitude_vector is not None:
            length = torch.linalg.vector_norm(weight, dim=1)
            weight = weight * (self.lora_magnitude_vector.float() / length)[:, None]
        return {"weight": weight}


def add_product(base: Tensor, inner: Tensor, matrix: Tensor, scale: float) -> Tensor:
    """base (..., O) + scale * inner (..., R) @ matrix.T (R, O), in one pass over the outputs."""
    added = torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), matrix.t(), alpha=scale)
    return added.view(base.shape)
