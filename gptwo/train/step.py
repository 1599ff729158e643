"""One step of a run: micro-batches to a gradient, a gradient to new weights.

A step takes `accumulate` micro-batches, adds up their losses, divides by the number of labels in all of them, and
moves the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gptwo.adapt.adalora import RankAllocator
from gptwo.adapt.freeze import thaw
from gptwo.adapt.parts import Adapter
from gptwo.data.batching import Batch
from gptwo.model.heads import Model
from gptwo.recipe import Recipe
from gptwo.train.divergence import NotFinite
from gptwo.train.optim import decays, optimizers_of, trainable
from gptwo.train.schedule import Plan, learning_rate_factor


class Objective(Protocol):
    """What the loop needs of a task."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> Tensor:
        """The loss summed over the batch's labels."""
        ...

    def count(self, batch: Batch) -> float:
        """How many labels (or how much weight of labels) that sum is over; 0 is allowed."""
        ...


@dataclass(frozen=True)
class Moved:
    """What a step did.

    Args:
        loss: summed over the labels; count: how many labels (or how much weight of labels) that is.
        learning_rate: AdamW's at this step.
        grad_norm: of the whole gradient, before it was clipped.
        ranks: what AdaLoRA allocated, where it did.
    """

    loss: float
    count: float
    learning_rate: float
    grad_norm: float
    ranks: dict[str, Any] | None


class Stepper:
    """Moves the weights of a network.

    Args:
        model: on its device; what is tuned has requires_grad.
        objective: gives the loss.
        recipe: sections train, optimizer, schedule and freeze are used.
        plan: length of the run and of its warm-up.
        bf16: whether matrix products are in bfloat16.
        tuned: names that gradual unfreezing may thaw; None: those with requires_grad.
        adapter: what is tuned where the model is frozen.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        recipe: Recipe,
        plan: Plan,
        *,
        bf16: bool = False,
        tuned: list[str] | None = None,
        adapter: Adapter | None = None,
    ):
        self.model, self.objective, self.recipe, self.plan = model, objective, recipe, plan
        self.bf16 = bf16
        self.device = next(model.parameters()).device
        self.optimizers = optimizers_of(recipe.optimizer, model)
        self.tuned = tuned or [info.name for info in trainable(model)]
        self.decayed = [info.tensor for info in trainable(model) if decays(info)]
        ranked = adapter is not None and adapter.config.name == "adalora"
        self.allocator = RankAllocator(adapter, plan.total) if ranked else None
        self.embedding = model.transformer.wte.weight
        self.embedding_gradient: Tensor | None = None

    def move(self, step: int, batches: list[Batch]) -> Moved:
        """Move the weights once.

        Args:
            step: how many there were before.
            batches: the micro-batches, not yet on the device.

        Raises:
            NotFinite: the loss or the gradient; the weights were not changed.
        """
        if self.recipe.freeze.gradual_every:
            thaw(self.model, self.tuned, step, self.recipe.freeze.gradual_every)
        learning_rate = self._set_learning_rate(step)
        loss, count = self._add_gradients(batches)
        norm = self._clip()
        total = float(loss)
        if not (math.isfinite(total) and math.isfinite(norm)):
            self.model.zero_grad(set_to_none=True)
            raise NotFinite(total / max(count, 1e-12), norm, learning_rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.embedding_gradient is not None:
            self.embedding_gradient[self.used] = 0.0
        ranks = self.allocator.allocate(step + 1) if self.allocator else None
        return Moved(total, count, learning_rate, norm, ranks)

    def _set_learning_rate(self, step: int) -> float:
        """Every group's by the schedule; returns AdamW's."""
        schedule = self.recipe.schedule
        factor = learning_rate_factor(
            step,
            self.plan.total,
            name=schedule.name,
            warmup=self.plan.warmup,
            floor=schedule.floor,
            decay=schedule.decay,
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        return factor * self.recipe.optimizer.learning_rate

    def _add_gradients(self, batches: list[Batch]) -> tuple[Tensor, float]:
        """The gradient of the mean loss, in `grad`; returns the summed loss and what it is divided by."""
        count = sum(self.objective.count(batch) for batch in batches)  # before they move: a GPU is not waited for
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            moved = batch.to(self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                part = self.objective.loss(self.model, moved, self.recipe.train.label_smoothing)
            (part / max(count, 1e-12)).backward()
            loss += part.detach()
        if self.embedding.grad is not None and self.embedding.grad.is_sparse:
            self._spread_embedding_gradient()
        if self.allocator:
            self.allocator.penalty().backward()
            self.allocator.observe()
        moving = [tensor for tensor in self.decayed if tensor.grad is not None] if self.recipe.optimizer.l2 else []
        if moving:
            torch._foreach_add_([tensor.grad for tensor in moving], moving, alpha=self.recipe.optimizer.l2)
        return loss, count

    def _spread_embedding_gradient(self) -> None:
        """Put the gradient of the rows that were used among zeros that stay from step to step.

        Zeros for the whole vocabulary in every step would cost a twentieth of one on short texts.
        """
        found = self.embedding.grad
        if self.embedding_gradient is None:
            self.embedding_gradient = torch.zeros_like(self.embedding)
        self.used = slice(None) if self.recipe.optimizer.l2 else found._indices()[0]  # the penalty fills every row
        self.embedding_gradient.index_add_(0, found._indices()[0], found._values())
        self.embedding.grad = self.embedding_gradient

    def _clip(self) -> float:
        """Shorten the gradient to `train.clip`; returns how long it was."""
        with_gradient = [tensor for tensor in self.model.parameters() if tensor.grad is not None]
        gradient_norm = torch.nn.utils.get_total_norm([tensor.grad for tensor in with_gradient])
        norm, clip = float(gradient_norm), self.recipe.train.clip or math.inf
        if norm > clip:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, clip, gradient_norm)
        return norm
