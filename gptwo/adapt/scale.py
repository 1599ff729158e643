"""Adapters of a few numbers: IA3 scales what layers give (Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning
is Better and Cheaper than In-Context Learning"); BitFit tunes the biases alone (Ben Zaken et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptwo.adapt.parts import take_over, with_own


class IA3Linear(nn.Linear):
    """A frozen linear layer whose outputs, or inputs, are multiplied by a vector that begins at one.

    Args:
        base: the layer it stands in for.
        feedforward: scale what comes in, the middle of the MLP; else what goes out.
    """

    def __init__(self, base: nn.Linear, *, feedforward: bool):
        take_over(self, base)
        self.feedforward = feedforward
        size = base.in_features if feedforward else base.out_features
        self.ia3_l = nn.Parameter(torch.ones(size, device=base.weight.device, dtype=base.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        if self.feedforward:
            return super().forward(x * self.ia3_l.to(x.dtype))
        out = super().forward(x)
        return out * self.ia3_l.to(out.dtype)

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """Weight and bias of the plain layer that does the same."""
        if self.feedforward:
            return {"weight": self.weight * self.ia3_l}
        found = {"weight": self.weight * self.ia3_l[:, None]}
        return found if self.bias is None else {**found, "bias": self.bias * self.ia3_l}


def own_biases(transformer: nn.Module) -> dict[str, nn.Module]:
    """Every layer of a network that has a bias, with a bias of its own; by name."""
    return {
        name: with_own(module, ("bias",))
        for name, module in transformer.named_modules()
        if module._parameters.get("bias") is not None
    }
