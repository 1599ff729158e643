"""The training loop, one for pretraining and fine-tuning.

A step takes `accumulate` micro-batches, adds up their losses, divides by the number of labels in all of them, and
moves the weights. The loop knows a task only through `Objective`, its data only through `Loader`, and tells what
happens only through events. All state that decides what comes next is in a checkpoint, so a run that was killed goes
on to the same losses.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gptwo import runtime
from gptwo.adapt.freeze import thaw
from gptwo.data.batching import Batch
from gptwo.data.loader import BatchSource, Loader
from gptwo.errors import GptwoError, Interrupted
from gptwo.model.heads import Model
from gptwo.recipe import Recipe
from gptwo.train.checkpoint import Progress, check_space, list_checkpoints, load_checkpoint, save_checkpoint
from gptwo.train.optim import build_optimizers, decays, trainable
from gptwo.train.schedule import learning_rate_factor
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
    """

    evaluate: Callable[[], dict[str, float]] | None = None
    metric: str = "loss"
    maximise: bool = False
    save_best: Callable[[], None] | None = None
    sample: Callable[[], list[str]] | None = None


@dataclass
class Outcome:
    """How a run ended.

    Args:
        progress: where it stands.
        reason: "finished", or "early stop" with the number of evaluations.
        evaluations: (step, metrics) of this session.
    """

    progress: Progress
    reason: str
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
    resume: bool = False,
) -> Outcome:
    """Train a model.

    Args:
        model: on its device, in float32; what is tuned has requires_grad.
        objective: gives the loss.
        source: gives the batches.
        recipe: sections train, optimizer, schedule and freeze are used.
        folder: the run folder.
        trackers: told of every event.
        hooks: evaluation, samples, the best model.
        tuned: names that gradual unfreezing may thaw; None: those with requires_grad.
        resume: go on from the newest checkpoint of the folder, if it has one.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint was saved.
        GptwoError: the loss is not finite, or a checkpoint could not be written.
    """
    options, hooks = recipe.train, hooks or Hooks()
    device = str(next(model.parameters()).device)
    precision = runtime.pick_precision(options.precision, device.split(":")[0])
    ceiling = runtime.matmul_rate(precision.value, device)
    check_space(folder, model, options.keep_last)
    optimizers = build_optimizers(
        model,
        name=recipe.optimizer.name,
        learning_rate=recipe.optimizer.learning_rate,
        head_learning_rate=recipe.optimizer.head_learning_rate,
        weight_decay=recipe.optimizer.weight_decay,
        betas=(recipe.optimizer.beta1, recipe.optimizer.beta2),
        epsilon=recipe.optimizer.epsilon,
        muon_learning_rate=recipe.optimizer.muon_learning_rate,
        layer_decay=recipe.optimizer.layer_decay,
    )
    tuned = tuned or [info.name for info in trainable(model)]
    decayed = [info.tensor for info in trainable(model) if decays(info)] if recipe.optimizer.l2 else []

    progress = Progress()
    checkpoints = list_checkpoints(folder)
    if resume and checkpoints:
        progress = load_checkpoint(checkpoints[-1], model, optimizers, device)
    per_epoch = max(1, source.batches_per_epoch // options.accumulate)
    total = options.steps or max(1, math.ceil(per_epoch * options.epochs))
    evaluate_every = options.evaluate_every or per_epoch
    checkpoint_every = options.checkpoint_every or evaluate_every
    warmup = round(recipe.schedule.warmup * total if recipe.schedule.warmup < 1 else recipe.schedule.warmup)

    if options.compile:
        for block in model.transformer.h:
            block.compile()
    model.transformer.gradient_checkpointing = options.gradient_checkpointing
    autocast = torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision.value == "bf16")

    trackers.emit(
        "start",
        progress.step,
        total=total,
        device=device,
        precision=precision.value,
        precision_why=precision.why,
        threads=torch.get_num_threads(),
        ceiling_flops=ceiling,
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        tuned=sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad),
        resumed=progress.step > 0,
    )
    outcome = Outcome(progress, "finished")
    loader = Loader(source, start=progress.batches)
    meter = Meter(model, ceiling)
    saved_at = progress.step if resume and checkpoints else -1

    def evaluate() -> bool:
        """Measure, keep the best, say whether to stop."""
        nonlocal outcome
        if hooks.evaluate is None:
            return False
        model.eval()
        metrics = hooks.evaluate()
        model.train()
        outcome.evaluations.append((progress.step, metrics))
        value = metrics[hooks.metric]
        better = progress.best is None or (value > progress.best if hooks.maximise else value < progress.best)
        trackers.emit("eval", progress.step, metrics=metrics, metric=hooks.metric, better=better)
        if better and math.isfinite(value):
            progress.best, progress.best_step, progress.bad_evaluations = value, progress.step, 0
            if hooks.save_best:
                hooks.save_best()
        else:
            progress.bad_evaluations += 1
        return options.patience is not None and progress.bad_evaluations >= options.patience

    def checkpoint() -> None:
        nonlocal saved_at
        if saved_at != progress.step:
            path = save_checkpoint(folder, model, optimizers, progress, options.keep_last)
            trackers.emit("checkpoint", progress.step, path=str(path))
            saved_at = progress.step

    model.train()
    with stop_signals() as stop, contextlib.closing(loader):
        stopped_early = options.patience is not None and progress.bad_evaluations >= options.patience
        while progress.step < total and not stopped_early:
            if recipe.freeze.gradual_every:
                thaw(model, tuned, progress.step, recipe.freeze.gradual_every)
            started = time.perf_counter()
            factor = learning_rate_factor(
                progress.step,
                total,
                name=recipe.schedule.name,
                warmup=warmup,
                floor=recipe.schedule.floor,
                decay=recipe.schedule.decay,
            )
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor

            batches = [next(loader).to(device) for _ in range(options.accumulate)]
            count = sum(objective.count(batch) for batch in batches)
            loss = torch.zeros((), device=device)
            for batch in batches:
                with autocast:
                    part = objective.loss(model, batch, options.label_smoothing)
                (part / max(count, 1e-12)).backward()
                loss += part.detach()
            if recipe.optimizer.l2:
                with_gradient = [tensor for tensor in decayed if tensor.grad is not None]
                torch._foreach_add_([t.grad for t in with_gradient], with_gradient, alpha=recipe.optimizer.l2)
            parameters = [tensor for tensor in model.parameters() if tensor.grad is not None]
            norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip or math.inf)
            value, norm = float(loss) / max(count, 1e-12), float(norm)
            check_finite(value, norm, progress, factor * recipe.optimizer.learning_rate, batches)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            progress.step += 1
            progress.batches = loader.state
            tokens = sum(batch.tokens for batch in batches)
            progress.tokens += tokens
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            progress.loss_sum += float(loss)
            progress.loss_count += count
            meter.add(tokens, batches, seconds)
            if progress.step % options.log_every == 0 or progress.step == total:
                trackers.emit(
                    "step",
                    progress.step,
                    loss=progress.loss_sum / max(progress.loss_count, 1e-12),
                    learning_rate=factor * recipe.optimizer.learning_rate,
                    grad_norm=norm,
                    tokens=progress.tokens,
                    epoch=round(loader.epoch, 4),
                    **meter.read(),
                )
                progress.loss_sum, progress.loss_count = 0.0, 0
            last = progress.step == total
            if last or progress.step % evaluate_every == 0:
                stopped_early = evaluate()
                if stopped_early:
                    outcome.reason = f"early stop: {progress.bad_evaluations} evaluations without a better one"
            if options.sample_every and hooks.sample and (last or progress.step % options.sample_every == 0):
                model.eval()
                trackers.emit("sample", progress.step, texts=hooks.sample())
                model.train()
            if last or stopped_early or progress.step % checkpoint_every == 0:
                checkpoint()
            if stop.asked and not last and not stopped_early:
                checkpoint()
                trackers.emit("end", progress.step, reason="interrupted")
                raise Interrupted(
                    f"Interrupted at step {progress.step}; a checkpoint was saved.",
                    where=folder,
                    fix="run the same command with --resume to go on",
                )
    model.eval()
    trackers.emit("end", progress.step, reason=outcome.reason, best=progress.best, best_step=progress.best_step)
    return outcome


class Meter:
    """Speed since the last reading: tokens per second and share of the machine's measured ceiling.

    The work of a token, forward and backward, is 6 operations for each weight it is multiplied with and
    6 * layers * width * row length for causal attention (Kaplan et al. 2020, section 2.1, halved for causality).
    """

    def __init__(self, model: Model, ceiling: float):
        self.ceiling = ceiling
        config = model.config
        self.weights = sum(tensor.numel() for name, tensor in model.named_parameters() if ".h." in name)
        self.head = model.projection.weight.numel()
        self.head_on_tokens = model.head_kind != "sequence"
        self.attention = 6 * config.n_layer * config.n_embd
        self.tokens, self.work, self.seconds = 0, 0.0, 0.0

    def add(self, tokens: int, batches: list[Batch], seconds: float) -> None:
        for batch in batches:
            real = batch.tokens
            labelled = real if batch.labels is None else int((batch.labels >= 0).sum())
            self.work += 6.0 * real * self.weights + real * self.attention * batch.ids.shape[1]
            self.work += 6.0 * labelled * self.head * self.head_on_tokens
        self.tokens += tokens
        self.seconds += seconds

    def read(self) -> dict[str, float]:
        found = {
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "share_of_ceiling": round(self.work / self.seconds / self.ceiling, 4),
            "peak_memory_bytes": runtime.peak_memory(),
        }
        self.tokens, self.work, self.seconds = 0, 0.0, 0.0
        return found


@dataclass
class StopSignals:
    asked: bool = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Within: the first SIGINT or SIGTERM asks for a stop at the end of the step, a second one stops at once."""
    state = StopSignals()

    def ask(number, frame):
        if state.asked:
            raise KeyboardInterrupt
        state.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: its owner handles signals
        yield state
        return
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_finite(loss: float, norm: float, progress: Progress, learning_rate: float, batches: list[Batch]) -> None:
    """Stop a run whose loss or gradient is not finite, before it touches the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    records = [index for batch in batches for index in batch.indices][:8]
    where = f"step {progress.step + 1}" + (f", records {records}" if records else "")
    raise GptwoError(
        f"The loss is {loss}, the norm of its gradient {norm}; the weights were not changed.",
        where=where,
        why=f"the learning rate was {learning_rate:.2e}; too high a rate, or damaged weights or data, end like this",
        fix="lower optimizer.learning_rate or lengthen schedule.warmup, then run again with --resume",
    )
