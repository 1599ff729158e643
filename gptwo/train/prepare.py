"""A model, a task and records to what a fine-tuning session begins with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.adapt.freeze import freeze
from gptwo.adapt.parts import Adapter
from gptwo.adapt.store import carry
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.model import pretrained as models
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe
from gptwo.runtime import Choice
from gptwo.tasks.base import Task
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.trust import unseen_notes
from gptwo.tokenizer import Tokenizer, load_tokenizer
from gptwo.train.checkpoint import check_space
from gptwo.train.parts import CountedRejects, Part, notes_of, read_parts
from gptwo.train.pretrain import FRESH, set_dropout
from gptwo.train.run import changed_keys, settle, without_effect, write_environment
from gptwo.train.trainer import unknown_metric

UNUSED = (*FRESH, "data.block_size", "train.evaluate_batches")  # recipe keys that only pretraining reads


@dataclass(frozen=True)
class Prepared:
    """What a fine-tuning session begins with.

    Args:
        base: the plain model as it was given.
        job: the task, which has learned its labels.
        recipe, folder: of the run.
        start: the model that will be tuned, on its device, with the task's head and perhaps an adapter.
        adapter: that of `start`.
        tuned: names of the parameters that are learned.
        runner: how records go through `start`.
        parts: the records of "train", "valid" and perhaps "test", encoded.
        metric: decides the best checkpoint.
        device, precision: as they were settled.
        machine: the run's environment.json.
        notes: what a reader of the report must know of the data and the recipe.
    """

    base: Pretrained
    job: Task
    recipe: Recipe
    folder: Path
    start: Pretrained
    adapter: Adapter | None
    tuned: list[str]
    runner: ModelRunner
    parts: dict[str, Part]
    metric: str
    device: Choice
    precision: Choice
    machine: dict[str, Any]
    notes: list[str]

    @property
    def test_records(self) -> list[Record]:
        """What the report is on: the validation records where there are no test records."""
        return (self.parts.get("test") or self.parts["valid"]).records


def prepare(base: Pretrained, job: Task, recipe: Recipe, folder: Path, *, resume: bool) -> Prepared:
    """Read the records, give the model the task's head and the recipe's adapter, freeze what is not tuned.

    Raises:
        UsageError: an unknown metric, or a model that does not fit the recipe.
        DataError: records that cannot be used; names file and row.
        GptwoError: the disk has no room for the checkpoints.
    """
    device, precision = settle(recipe, folder, resume=resume)
    rejects = CountedRejects(folder / "rejects.jsonl", strict=recipe.data.strict)
    with rejects:
        parts = read_parts(recipe.data, job, rejects, recipe.train.seed)
        metric = recipe.train.metric or job.figures[0]
        if metric not in job.figures:
            raise unknown_metric(metric, list(job.figures))
        start, tokenizer = tunable(base, job, recipe, device.value)
        adapter = carry(start, base, recipe)
        max_length = min(recipe.data.max_length or start.config.n_positions, start.config.n_positions)
        job.fit_tokens(tokenizer, max_length)
        for part in parts.values():
            part.encode(job, tokenizer, max_length)
    among = adapter.tuned if adapter else None
    choice = recipe.freeze
    tuned = freeze(start.model, choice.policy, last=choice.last, pattern=choice.pattern, among=among)
    check_space(folder, start.model, recipe.train.keep_last, adapter.tensors(start.model) if adapter else None)
    start.info |= {
        **job.describe(),
        "max_length": max_length,
        "columns": recipe.data.columns,
        "label_separator": recipe.data.label_separator,
    }
    hashes = {name: [file.sha256 for file in part.files] for name, part in parts.items() if part.files}
    if adapter and adapter.base:
        hashes["base"] = [adapter.base.fingerprint]
    machine = write_environment(folder, device, precision, hashes, resume=resume)
    notes = notes_of(parts, rejects) + unseen_notes(job, parts["train"].records)
    if adapter:
        notes.append(adapter.summary(start.model))
    notes += without_effect("finetune", [key for key in changed_keys(recipe) if key in UNUSED])
    return Prepared(
        base=base,
        job=job,
        recipe=recipe,
        folder=folder,
        start=start,
        adapter=adapter,
        tuned=tuned,
        runner=ModelRunner(start.model, tokenizer, max_length, precision.value),
        parts=parts,
        metric=metric,
        device=device,
        precision=precision,
        machine=machine,
        notes=notes,
    )


def tunable(base: Pretrained, job: Task, recipe: Recipe, device: str) -> tuple[Pretrained, Tokenizer]:
    """A copy of a model with the head of a task, or its shape with random weights, on a device; and its tokenizer.

    Raises:
        UsageError: it has no tokenizer, or one that does not fit.
    """
    tokenizer = load_tokenizer(recipe.model.tokenizer) if recipe.model.tokenizer else base.tokenizer
    if tokenizer is None:
        raise UsageError("The model has no tokenizer.", where=base.folder, fix="--set model.tokenizer=FOLDER")
    if job.special_tokens:
        tokenizer = copy.deepcopy(tokenizer)  # that of the base stays as it is
    made = models.create(base.config, tokenizer, head=job.head, labels=job.labels, seed=recipe.train.seed)
    made.fresh = [name for name, _ in made.model.named_parameters()]
    if not recipe.model.random:
        made.model.transformer.load_state_dict(base.model.transformer.state_dict())
        same_head = base.model.head_kind == job.head and (job.head == "language" or base.labels == job.labels)
        if same_head:
            made.model.projection.load_state_dict(base.model.projection.state_dict())
            made.model.tie()
            made.fresh = []
    if job.special_tokens:
        made.add_special_tokens(job.special_tokens)
    made.info = {"base": name_of(base, recipe), **job.describe()}
    if recipe.model.dropout is not None:
        set_dropout(made, made.config.with_dropout(recipe.model.dropout))
    made.model.to(device)
    return made, tokenizer


def name_of(base: Pretrained, recipe: Recipe) -> str:
    """What the model that a run starts from is called."""
    name = recipe.model.base or (base.folder.name if base.folder else "a new model")
    return f"{name} (random weights)" if recipe.model.random else name
