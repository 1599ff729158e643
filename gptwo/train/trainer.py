"""The training loop, one for pretraining and fine-tuning.

The loop steps (`Stepper`), evaluates, samples and saves. It knows a task only through `Objective`, its data only
through `Loader`, and tells what happens only through events. All state that decides what comes next is in a checkpoint,
so a run that was killed goes on to the same losses.
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
from typing import Any

import torch

from gptwo import runtime
from gptwo.adapt.parts import Adapter
from gptwo.data.batching import Batch
from gptwo.data.loader import BatchSource, Loader
from gptwo.errors import Interrupted, MissingError, UsageError, did_you_mean
from gptwo.model.heads import Model
from gptwo.model.loss import fuse_loss
from gptwo.recipe import Recipe
from gptwo.runtime import Choice
from gptwo.train.checkpoint import Progress, list_checkpoints, load_checkpoint, save_checkpoint
from gptwo.train.divergence import NotFinite, check_weights_finite, diverged_step
from gptwo.train.meter import Meter
from gptwo.train.schedule import Plan
from gptwo.train.signals import stop_signals
from gptwo.train.step import Objective, Stepper
from gptwo.train.track import Trackers


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
        as_read: a batch as the rows that the network reads, where the task makes other rows of it.
        stop: told the step and figures of each evaluation; a reason that it gives ends the run there.
        adapter: what is tuned where the model is frozen; checkpoints hold it alone.
    """

    evaluate: Callable[[], dict[str, float]] | None = None
    metric: str = "loss"
    maximise: bool = False
    save_best: Callable[[], Any] | None = None
    sample: Callable[[], list[str]] | None = None
    place: Callable[[int], str] | None = None
    as_read: Callable[[Batch], Batch] | None = None
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
        DivergedError: the loss, the gradient or the weights are not finite; earlier checkpoints stay.
        GptwoError: a checkpoint could not be written.
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
        self.model, self.source, self.recipe, self.folder = model, source, recipe, folder
        self.options = recipe.train
        self.trackers, self.hooks = trackers, hooks
        self.device = next(model.parameters()).device
        self.precision = precision or runtime.pick_precision(recipe.train.precision, self.device.type)
        self.plan = Plan.of(recipe, source.batches_per_epoch)
        self.stepper = Stepper(
            model,
            objective,
            recipe,
            self.plan,
            bf16=self.precision.value == "bf16",
            tuned=tuned,
            adapter=hooks.adapter,
        )
        self.kept = None if hooks.adapter is None else hooks.adapter.tensors(model)
        self.progress = Progress()
        self.outcome = Outcome(self.progress)
        self.saved_at = -1
        self.resumed_at: int | None = None
        self.stopped: str | None = None

    def begin(self, resume: bool) -> None:
        """Load the checkpoint to go on from, prepare the network, and say what is going to happen."""
        checkpoints = list_checkpoints(self.folder)
        if resume and checkpoints:
            device = str(self.device)
            self.progress = load_checkpoint(checkpoints[-1], self.model, self.stepper.optimizers, device, self.kept)
            self.outcome.progress = self.progress
            self.saved_at = self.resumed_at = self.progress.step
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
        # The embedding adds only the rows it used: to the gradient of a tied projection, or to zeros (see Stepper).
        tied = self.model.head_kind == "language" and self.model.config.tie_word_embeddings
        network.wte.sparse = tied or self.device.type == "cpu"
        ceiling = runtime.matmul_rate(self.precision.value, str(self.device))
        self.meter = Meter(self.model, ceiling, self.hooks.as_read)
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
        allocator = self.stepper.allocator
        if allocator and self.progress.step == 0:
            self.trackers.emit("ranks", budget=allocator.start, ranks=allocator.ranks())
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
            DivergedError: the loss or the gradient is not finite; the weights were not changed.
        """
        started, progress = time.perf_counter(), self.progress
        batches = [next(loader) for _ in range(self.options.accumulate)]
        try:
            moved = self.stepper.move(progress.step, batches)
        except NotFinite as error:
            place = self.hooks.place
            records = [place(index) for batch in batches for index in batch.indices] if place else []
            raise diverged_step(error, progress.step + 1, records, self.recipe, self.folder, self.resumed_at) from None
        seconds = time.perf_counter() - started
        progress.step += 1
        progress.batches = loader.state
        progress.tokens += sum(batch.tokens for batch in batches)
        progress.seconds += seconds
        progress.loss_sum += moved.loss
        progress.loss_count += moved.count
        self.meter.add(batches, seconds)
        if moved.ranks:
            self.trackers.emit("ranks", progress.step, **moved.ranks)
        return {"learning_rate": moved.learning_rate, "grad_norm": moved.grad_norm}

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
        """Save everything, once a step at most.

        Raises:
            DivergedError: weights are not finite; earlier checkpoints stay.
        """
        if self.saved_at == self.progress.step:
            return
        weights = dict(self.model.named_parameters()) if self.kept is None else self.kept
        check_weights_finite(weights, self.progress.step, self.folder, self.resumed_at)
        keep = self.options.keep_last
        path = save_checkpoint(self.folder, self.model, self.stepper.optimizers, self.progress, keep, self.kept)
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
