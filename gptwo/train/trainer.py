"""The training loop, one for pretraining and fine-tuning.

A step takes `accumulate` micro-batches, adds up their losses, divides by the number of labels in all of them, and
moves the weights. The loop knows a task only through `Objective`, its data only through `Loader`, and tells what
happens only through events. All state that decides what comes next is in a checkpoint, so a run that was killed goes
on to the same losses.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gptwo import runtime
from gptwo.adapt.adalora import RankAllocator
from gptwo.adapt.freeze import thaw
from gptwo.adapt.parts import Adapter
from gptwo.data.batching import Batch
from gptwo.data.loader import BatchSource, Loader
from gptwo.errors import GptwoError, Interrupted, MissingError, UsageError, did_you_mean
from gptwo.model.heads import Model
from gptwo.model.loss import fuse_loss
from gptwo.recipe import Recipe
from gptwo.runtime import Choice
from gptwo.train.checkpoint import Progress, list_checkpoints, load_checkpoint, save_checkpoint
from gptwo.train.meter import Meter
from gptwo.train.optim import decays, optimizers_of, trainable
from gptwo.train.schedule import Plan, learning_rate_factor
from gptwo.train.signals import stop_signals
from gptwo.train.track import Trackers


class Objective(Protocol):
    """What the loop needs of a task."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> Tensor:
        """The loss summed over the batch's labels."""
        ...

    def count(self, batch: Batch) -> float:
        """How many labels (or how much weight of labels) that sum is over; 0 is allowed."""
        ...


@dataclass
class Hooks:
    """What a run does beside stepping.

    Args:
        evaluate: measures the model on held-out data; its numbers go into the log.
        metric: which of them decides the best checkpoint.
        maximise: whether more of it is better.
        save_best: writes the model where the best one is kept.
        sample: texts to show.
        place: where a training record is, "file:row", by its index.
        stop: told the step and figures of each evaluation; a reason that it gives ends the run there.
        adapter: what is tuned where the model is frozen; checkpoints hold it alone.
    """

    evaluate: Callable[[], dict[str, float]] | None = None
    metric: str = "loss"
    maximise: bool = False
    save_best: Callable[[], Any] | None = None
    sample: Callable[[], list[str]] | None = None
    place: Callable[[int], str] | None = None
    stop: Callable[[int, dict[str, float]], str | None] | None = None
    adapter: Adapter | None = None


@dataclass
class Outcome:
    """How a run ended.

    Args:
        progress: where it stands.
        reason: "finished", "early stop" with the number of evaluations, or what `Hooks.stop` gave.
        evaluations: (step, metrics) of this session.
    """

    progress: Progress
    reason: str = "finished"
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)


def train(
    model: Model,
    objective: Objective,
    source: BatchSource,
    *,
    recipe: Recipe,
    folder: Path,
    trackers: Trackers,
    hooks: Hooks | None = None,
    tuned: list[str] | None = None,
    precision: Choice | None = None,
    resume: bool = False,
) -> Outcome:
    """Train a model.

    Args:
        model: on its device, in float32; what is tuned has requires_grad.
        objective: gives the loss.
        source: gives the batches.
        recipe: sections train, optimizer, schedule and freeze are used.
        folder: the run folder; it can be written.
        trackers: told of every event; the last one, "end", comes however the run ends.
        hooks: evaluation, samples, the best model.
        tuned: names that gradual unfreezing may thaw; None: those with requires_grad.
        precision: as `settle` chose it; None: by the recipe.
        resume: go on from the newest checkpoint of the folder, if it has one.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint was saved.
        UsageError: the metric that decides is not among those that are measured.
        GptwoError: the loss is not finite, or a checkpoint could not be written.
    """
    loop = _Loop(model, objective, source, recipe, folder, trackers, hooks or Hooks(), tuned, precision)
    try:
        loop.begin(resume)
        loop.run()
    except BaseException as error:
        reason = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else f"failed: {first_line(error)}"
        trackers.emit("end", loop.progress.step, reason=reason)
        raise
    finally:
        model.eval()
        model.transformer.wte.sparse = False
        fuse_loss(False)
    progress = loop.progress
    trackers.emit("end", progress.step, reason=loop.outcome.reason, best=progress.best, best_step=progress.best_step)
    return loop.outcome


class _Loop:
    """One session of a run; arguments as in `train`."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        source: BatchSource,
        recipe: Recipe,
        folder: Path,
        trackers: Trackers,
        hooks: Hooks,
        tuned: list[str] | None,
        precision: Choice | None,
    ):
        self.model, self.objective, self.source = model, objective, source
        self.recipe, self.options, self.folder = recipe, recipe.train, folder
        self.trackers, self.hooks = trackers, hooks
        self.device = next(model.parameters()).device
        self.precision = precision or runtime.pick_precision(recipe.train.precision, self.device.type)
        self.plan = Plan.of(recipe, source.batches_per_epoch)
        self.optimizers = optimizers_of(recipe.optimizer, model)
        self.tuned = tuned or [info.name for info in trainable(model)]
        self.decayed = [info.tensor for info in trainable(model) if decays(info)]
        adapter = self.hooks.adapter
        ranked = adapter is not None and adapter.config.name == "adalora"
        self.allocator = RankAllocator(adapter, self.plan.total) if ranked else None
        self.kept = None if adapter is None else adapter.tensors(model)
        self.progress = Progress()
        self.outcome = Outcome(self.progress)
        self.saved_at = -1
        self.stopped: str | None = None

    def begin(self, resume: bool) -> None:
        """Load the checkpoint to go on from, prepare the network, and say what is going to happen."""
        checkpoints = list_checkpoints(self.folder)
        if resume and checkpoints:
            device = str(self.device)
            self.progress = load_checkpoint(checkpoints[-1], self.model, self.optimizers, device, self.kept)
            self.outcome.progress, self.saved_at = self.progress, self.progress.step
        if self.device.type == "cpu":
            runtime.keep_memory()
        elif self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 where there is no autocast
        if self.options.compile:
            check_compiler(self.device.type)
            for block in self.model.transformer.h:
                block.compile()
        fuse_loss(self.options.compile)
        network = self.model.transformer
        network.gradient_checkpointing = self.options.gradient_checkpointing
        # Beside a tied projection, whose gradient covers every row, the embedding adds only the rows it used.
        network.wte.sparse = self.model.head_kind == "language" and self.model.config.tie_word_embeddings
        ceiling = runtime.matmul_rate(self.precision.value, str(self.device))
        self.meter = Meter(self.model, ceiling)
        self.trackers.emit(
            "start",
            self.progress.step,
            total=self.plan.total,
            device=str(self.device),
            precision=self.precision.value,
            precision_why=self.precision.why,
            threads=torch.get_num_threads(),
            ceiling_flops=ceiling,
            parameters=sum(tensor.numel() for tensor in self.model.parameters()),
            tuned=sum(tensor.numel() for tensor in self.model.parameters() if tensor.requires_grad),
            resumed=self.progress.step > 0,
        )
        if self.allocator and self.progress.step == 0:
            self.trackers.emit("ranks", budget=self.allocator.start, ranks=self.allocator.ranks())
        if resume and not checkpoints:
            self.trackers.emit("notice", message="there is no checkpoint to go on from yet: the run begins anew")

    def run(self) -> None:
        """Step until the end, evaluating, sampling and saving between steps."""
        progress, plan, options = self.progress, self.plan, self.options
        loader = Loader(self.source, start=progress.batches)
        self.model.train()
        done = progress.step >= plan.total or self.out_of_patience()
        with stop_signals() as stop, contextlib.closing(loader):
            while not done:
                figures = self.step(loader)
                last = progress.step >= plan.total
                if last or progress.step % options.log_every == 0:
                    self.log(figures, loader.epoch)
                if self.hooks.evaluate and (last or progress.step % plan.evaluate_every == 0):
                    self.evaluate()
                if self.hooks.sample and options.sample_every and (last or progress.step % options.sample_every == 0):
                    self.sample()
                done = last or self.out_of_patience() or self.stopped is not None
                if done or stop.asked or progress.step % plan.checkpoint_every == 0:
                    self.checkpoint()
                if stop.asked:
                    raise Interrupted(
                        f"Interrupted at step {progress.step}; a checkpoint was saved.",
                        where=self.folder,
                        fix="run the same command with --resume to go on",
                    )
        if self.stopped is not None:
            self.outcome.reason = self.stopped
        elif self.out_of_patience():
            self.outcome.reason = f"early stop: {progress.bad_evaluations} evaluations without a better one"

    def step(self, loader: Loader) -> dict[str, float]:
        """Move the weights once; returns learning rate and norm of the gradient.

        Raises:
            GptwoError: the loss or the gradient is not finite; the weights were not changed.
        """
        recipe, progress = self.recipe, self.progress
        started = time.perf_counter()
        if recipe.freeze.gradual_every:
            thaw(self.model, self.tuned, progress.step, recipe.freeze.gradual_every)
        schedule = recipe.schedule
        factor = learning_rate_factor(
            progress.step,
            self.plan.total,
            name=schedule.name,
            warmup=self.plan.warmup,
            floor=schedule.floor,
            decay=schedule.decay,
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

        batches = [next(loader) for _ in range(self.options.accumulate)]
        count = sum(self.objective.count(batch) for batch in batches)  # before they move: a GPU is not waited for
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            moved = batch.to(self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision.value == "bf16"):
                part = self.objective.loss(self.model, moved, self.options.label_smoothing)
            (part / max(count, 1e-12)).backward()
            loss += part.detach()
        if self.allocator:
            self.allocator.penalty().backward()
            self.allocator.observe()
        moving = [tensor for tensor in self.decayed if tensor.grad is not None] if recipe.optimizer.l2 else []
        if moving:
            torch._foreach_add_([tensor.grad for tensor in moving], moving, alpha=recipe.optimizer.l2)
        with_gradient = [tensor for tensor in self.model.parameters() if tensor.grad is not None]
        gradient_norm = torch.nn.utils.get_total_norm([tensor.grad for tensor in with_gradient])
        norm, clip = float(gradient_norm), self.options.clip or math.inf
        if norm > clip:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, clip, gradient_norm)
        total = float(loss)
        learning_rate = factor * recipe.optimizer.learning_rate
        if not (math.isfinite(total) and math.isfinite(norm)):
            self.model.zero_grad(set_to_none=True)
            raise self.not_finite(total / max(count, 1e-12), norm, learning_rate, batches)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ranks = self.allocator.allocate(progress.step + 1) if self.allocator else None

        seconds = time.perf_counter() - started
        progress.step += 1
        progress.batches = loader.state
        progress.tokens += sum(batch.tokens for batch in batches)
        progress.seconds += seconds
        progress.loss_sum += total
        progress.loss_count += count
        self.meter.add(batches, seconds)
        if ranks:
            self.trackers.emit("ranks", progress.step, **ranks)
        return {"learning_rate": learning_rate, "grad_norm": norm}

    def not_finite(self, loss: float, norm: float, learning_rate: float, batches: list[Batch]) -> GptwoError:
        """The error of a step whose loss or gradient is no number; names its first records."""
        indices = [index for batch in batches for index in batch.indices] if self.hooks.place else []
        places = [self.hooks.place(index) for index in indices[:5]] if self.hooks.place else []
        more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
        return GptwoError(
            f"The loss is {loss}, the norm of its gradient {norm}; the weights were not changed.",
            where=f"step {self.progress.step + 1}" + (f", records {', '.join(places)}{more}" if places else ""),
            why=f"at learning rate {learning_rate:.2e}; too high a rate, or damaged weights or data, end like this",
            fix="lower optimizer.learning_rate or lengthen schedule.warmup, then run again with --resume",
        )

    def log(self, figures: dict[str, float], epoch: float) -> None:
        """Tell the mean loss since the last time."""
        progress = self.progress
        self.trackers.emit(
            "step",
            progress.step,
            loss=progress.loss_sum / max(progress.loss_count, 1e-12),
            tokens=progress.tokens,
            epoch=round(epoch, 4),
            **figures,
            **self.meter.read(),
        )
        progress.loss_sum, progress.loss_count = 0.0, 0.0

    def evaluate(self) -> None:
        """Measure, and keep the model if it is the best so far; a metric that is no number never is."""
        hooks, progress = self.hooks, self.progress
        assert hooks.evaluate is not None
        self.model.eval()
        metrics = hooks.evaluate()
        if hooks.metric not in metrics:
            raise unknown_metric(hooks.metric, list(metrics))
        self.outcome.evaluations.append((progress.step, metrics))
        value, best = metrics[hooks.metric], progress.best
        better = math.isfinite(value) and (best is None or (value > best if hooks.maximise else value < best))
        self.trackers.emit("eval", progress.step, metrics=metrics, metric=hooks.metric, better=better)
        if better:
            progress.best, progress.best_step, progress.bad_evaluations = value, progress.step, 0
            if hooks.save_best:
                hooks.save_best()
        else:
            progress.bad_evaluations += 1
        if hooks.stop:
            self.stopped = hooks.stop(progress.step, metrics)
        self.model.train()

    def sample(self) -> None:
        """Show what the model writes."""
        assert self.hooks.sample is not None
        self.model.eval()
        self.trackers.emit("sample", self.progress.step, texts=self.hooks.sample())
        self.model.train()

    def checkpoint(self) -> None:
        """Save everything, once a step at most."""
        if self.saved_at == self.progress.step:
            return
        keep = self.options.keep_last
        path = save_checkpoint(self.folder, self.model, self.optimizers, self.progress, keep, self.kept)
        self.saved_at = self.progress.step
        self.trackers.emit("checkpoint", self.progress.step, path=str(path))

    def out_of_patience(self) -> bool:
        """Whether too many evaluations in a row were no better than the best."""
        return self.options.patience is not None and self.progress.bad_evaluations >= self.options.patience


def check_compiler(device: str) -> None:
    """torch.compile writes C++ for a CPU.

    Raises:
        MissingError: no compiler was found.
    """
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise MissingError(
            "train.compile needs a C++ compiler, and none was found.",
            where="train.compile",
            fix="install one (apt install g++), or leave train.compile out",
        )


def unknown_metric(name: str, names: list[str]) -> UsageError:
    """The error of a metric that is not measured."""
    return UsageError(
        f"There is no metric {name!r} to choose the best checkpoint by.",
        where="train.metric",
        why=f"an evaluation gives {', '.join(names)}",
        fix=did_you_mean(name, names),
    )


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
