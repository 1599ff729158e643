"""Optimizers: AdamW with its decay groups, and Muon for the matrices of the blocks beside AdamW for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptwo.recipe import OptimizerSection


@dataclass(frozen=True)
class ParameterInfo:
    """What decides how a parameter is tuned."""

    name: str
    tensor: nn.Parameter
    depth: int  # 0 the embeddings, 1..n_layer the blocks, n_layer + 1 the last norm and the head


def trainable(model: nn.Module) -> list[ParameterInfo]:
    """Every parameter that is tuned, once (tied ones count once), with its depth in the network."""
    layers = model.config.n_layer
    found = []
    for name, tensor in model.named_parameters():
        if not tensor.requires_grad:
            continue
        block = re.search(r"\bh\.(\d+)\.", name)
        if block:
            depth = int(block.group(1)) + 1
        else:
            depth = 0 if ".wte." in f".{name}" or ".wpe." in f".{name}" else layers + 1
        found.append(ParameterInfo(name, tensor, depth))
    return found


def decays(info: ParameterInfo) -> bool:
    """Weight decay is for matrices; not for biases and layer norms (Radford et al. 2018, section 4.1)."""
    return info.tensor.ndim >= 2


def is_matrix_of_block(info: ParameterInfo) -> bool:
    """Muon is for the matrices inside the blocks; embeddings and the head stay with AdamW (Jordan et al. 2024)."""
    return info.tensor.ndim == 2 and re.search(r"\bh\.\d+\.", info.name) is not None


def build_optimizers(
    model: nn.Module,
    *,
    name: str,
    learning_rate: float,
    head_learning_rate: float | None = None,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    epsilon: float = 1e-8,
    muon_learning_rate: float | None = None,
    momentum: float = 0.95,
    layer_decay: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; every group carries its full learning rate as "peak".

    Args:
        model: a network; only parameters with requires_grad are tuned.
        name: "adamw", or "muon" (which uses AdamW beside it).
        learning_rate: peak of AdamW.
        head_learning_rate: peak for a label head, which starts from nothing; None means learning_rate.
        weight_decay: decoupled decay of matrices (Loshchilov & Hutter 2019).
        muon_learning_rate: peak of Muon; None means that of AdamW (updates have AdamW's size).
        layer_decay: factor of the learning rate from one block to the one below it; 1 is none
            (Howard & Ruder 2018).
    """
    infos = trainable(model)
    top = model.config.n_layer + 1
    muon = [info for info in infos if is_matrix_of_block(info)] if name == "muon" else []
    taken = {id(info.tensor) for info in muon}
    rest = [info for info in infos if id(info.tensor) not in taken]

    def groups(members: Iterable[ParameterInfo], peak: float) -> list[dict]:
        found: dict[tuple[float, float], list[Tensor]] = {}
        for info in members:
            rate = peak * layer_decay ** (top - info.depth)
            if head_learning_rate and info.name.startswith(("score.", "classifier.")):
                rate = head_learning_rate
            found.setdefault((rate, weight_decay if decays(info) else 0.0), []).append(info.tensor)
        return [
            {"params": tensors, "lr": rate, "peak": rate, "weight_decay": decay}
            for (rate, decay), tensors in found.items()
        ]

    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        fused = all(info.tensor.is_floating_point() for info in rest)
        optimizers.append(torch.optim.AdamW(groups(rest, learning_rate), betas=betas, eps=epsilon, fused=fused))
    if muon:
        optimizers.append(Muon(groups(muon, muon_learning_rate or learning_rate), momentum=momentum))
    return optimizers


def optimizers_of(section: OptimizerSection, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers that a recipe asks for."""
    return build_optimizers(
        model,
        name=section.name,
        learning_rate=section.learning_rate,
        head_learning_rate=section.head_learning_rate,
        weight_decay=section.weight_decay,
        betas=(section.beta1, section.beta2),
        epsilon=section.epsilon,
        muon_learning_rate=section.muon_learning_rate,
        layer_decay=section.layer_decay,
    )


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by a Newton-Schulz iteration (Jordan et al. 2024).

    Updates are scaled by 0.2 * sqrt(larger side) to the size of AdamW's, so that learning rates and decay carry
    over (Liu et al. 2025, "Muon is Scalable for LLM Training"). A matrix three times as high as wide, the joint
    projection to queries, keys and values, is taken as three.
    """

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                state = self.state[tensor]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(tensor)
                state["momentum"].lerp_(tensor.grad, 1 - group["momentum"])
                ahead = tensor.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
                parts = 3 if tensor.shape[0] == 3 * tensor.shape[1] else 1
                for weight, update in zip(tensor.chunk(parts), ahead.chunk(parts), strict=True):
                    by_shape.setdefault(tuple(weight.shape), []).append((weight, update))
            for (rows, columns), members in by_shape.items():
                updates = orthogonalise(torch.stack([update for _, update in members]))
                size = 0.2 * max(rows, columns) ** 0.5
                for (weight, _), update in zip(members, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.to(weight.dtype), alpha=-group["lr"] * size)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1.

    Args:
        matrices: (n, rows, columns).
        steps: iterations of the quintic Newton-Schulz polynomial with Jordan's coefficients.

    Returns:
        (n, rows, columns), in bf16.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    flip = x.shape[1] > x.shape[2]
    if flip:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)  # (n, small, small)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if flip else x
