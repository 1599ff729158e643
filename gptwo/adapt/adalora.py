"""AdaLoRA: low-rank updates whose ranks are a budget, moved to where they matter (Zhang et al. 2023, "AdaLoRA:
Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning").

Each update is written like a singular value decomposition, P diag(E) Q. A triplet of a singular value and its two
vectors is kept or cut (its value set to zero, so that it may come back) by how much the loss feels it, smoothed over
steps. The budget, the number of triplets in the whole network, falls with the third power of the time that is left.

    I inputs    O outputs    R triplets of a layer at the start
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.adapt.lora import add_product
from gptwo.adapt.parts import Adapter, drawn, take_over

SMOOTHING = 0.85  # beta_1 and beta_2 of the paper, for the sensitivity and for its uncertainty
NAMES = ("lora_A", "lora_E", "lora_B")


class SVDLinear(nn.Linear):
    """W x + b + scale * B diag(E) A x; A (R, I), E (R,) and B (O, R) are tuned.

    Args:
        base: the layer it stands in for.
        rank: R.
        alpha: the scale is alpha / divisor.
        divisor: the rank at the start, also where triplets have been cut off since; None: `rank`.
        dropout: on what goes into A.
        random: of A and B; E begins at zero, so that the layer begins as the base.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        *,
        divisor: int | None = None,
        dropout: float = 0.0,
        random: torch.Generator,
    ):
        take_over(self, base)
        self.alpha = alpha
        self.scale = alpha / ((divisor or rank) + 1e-5)  # the 1e-5 is peft's
        self.lora_dropout = nn.Dropout(dropout)
        self.lora_A = drawn((rank, base.in_features), base.weight, random, std=0.02)
        self.lora_E = drawn((rank,), base.weight, random)
        self.lora_B = drawn((base.out_features, rank), base.weight, random, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(self.lora_dropout(x), self.lora_A * self.lora_E[:, None])  # (..., R)
        return add_product(super().forward(x), inner, self.lora_B, self.scale)

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """Weight of the plain layer that does the same."""
        update = self.lora_B.float() @ (self.lora_A.float() * self.lora_E.float()[:, None])
        return {"weight": self.weight.float() + self.scale * update}


class RankAllocator:
    """Distributes the budget of an AdaLoRA adapter while it is trained.

    Call `penalty` and `observe` when the gradients of a step are there, `allocate` when the weights have moved. What
    it remembers are buffers of the layers, so that a checkpoint has them.

    Args:
        adapter: attached to the network that is trained.
        total: optimizer steps of the run.
    """

    def __init__(self, adapter: Adapter, total: int):
        config = adapter.config
        self.layers = {place: part for place, part in adapter.parts.items() if isinstance(part, SVDLinear)}
        self.every, self.orthogonality = config.rank_every, config.orthogonality
        self.last = max(1, total - round(config.rank_final * total))  # the step at which the budget is reached
        self.first = min(int(config.rank_warmup * total), self.last - 1)
        adapter.schedule = (self.first, self.last, total)
        self.start = sum(len(layer.lora_E) for layer in self.layers.values())
        self.target = min(self.start, config.rank * len(self.layers))
        for layer in self.layers.values():
            layer.register_buffer("kept", torch.ones_like(layer.lora_E, dtype=torch.bool))
            for name in NAMES:
                for kind in ("sensitivity", "uncertainty"):
                    layer.register_buffer(f"{kind}_{name}", torch.zeros_like(getattr(layer, name)))

    def penalty(self) -> Tensor:
        """How far the singular vectors are from orthogonal: the mean over A and B of |A A^T - 1| (equation 4)."""
        distances = []
        for layer in self.layers.values():
            for gram in (layer.lora_A @ layer.lora_A.t(), layer.lora_B.t() @ layer.lora_B):
                distances.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
        return self.orthogonality * torch.stack(distances).mean()

    @torch.no_grad()
    def observe(self) -> None:
        """Take in the gradients of a step: sensitivity |w dL/dw| and its uncertainty (equations 8 to 10)."""
        for layer in self.layers.values():
            for name in NAMES:
                tensor = getattr(layer, name)
                if tensor.grad is None:
                    continue
                smooth, spread = layer.get_buffer(f"sensitivity_{name}"), layer.get_buffer(f"uncertainty_{name}")
                now = (tensor * tensor.grad).abs()
                smooth.lerp_(now, 1 - SMOOTHING)
                spread.lerp_((now - smooth).abs(), 1 - SMOOTHING)

    def budget(self, step: int) -> int:
        """Triplets that may stay after a step (equation 12).

        Args:
            step: optimizer steps done.
        """
        if step <= self.first:
            return self.start
        if step >= self.last:
            return self.target
        left = 1 - (step - self.first) / (self.last - self.first)
        return int(self.target + (self.start - self.target) * left**3)

    @torch.no_grad()
    def allocate(self, step: int) -> dict[str, Any] | None:
        """Cut what the budget does not hold; returns budget and ranks where they were chosen anew.

        Args:
            step: optimizer steps done, this one included.
        """
        chosen = self.first < step <= self.last and (step % self.every == 0 or step == self.last)
        if chosen:
            scores = torch.cat([self.importance(layer) for layer in self.layers.values()])
            kept = torch.zeros_like(scores, dtype=torch.bool)
            kept[scores.topk(self.budget(step)).indices] = True
            for layer, part in zip(self.layers.values(), kept.split(self.sizes()), strict=True):
                layer.get_buffer("kept").copy_(part)
        if chosen or step > self.last:
            for layer in self.layers.values():
                layer.lora_E.mul_(layer.get_buffer("kept"))
        return {"budget": self.budget(step), "ranks": self.ranks()} if chosen else None

    def importance(self, layer: SVDLinear) -> Tensor:
        """Score of each triplet, (R,): its value's and the mean of its vectors' (equation 7)."""
        of = {n: layer.get_buffer(f"sensitivity_{n}") * layer.get_buffer(f"uncertainty_{n}") for n in NAMES}
        return of["lora_E"] + of["lora_A"].mean(1) + of["lora_B"].mean(0)

    def sizes(self) -> list[int]:
        return [len(layer.lora_E) for layer in self.layers.values()]

    def ranks(self) -> dict[str, int]:
        """Triplets that are kept in each layer, by its place without "transformer."."""
        return {
            place.removeprefix("transformer."): int(layer.get_buffer("kept").sum())
            for place, layer in self.layers.items()
        }
