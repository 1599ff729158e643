"""Fine-tuning: a model, a task and records in; a tuned model and an honest report out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptwo import runtime
from gptwo.adapt.freeze import freeze
from gptwo.data.batching import Example
from gptwo.data.loader import ExampleBatches
from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess import BEFORE, TUNED
from gptwo.evaluate.report import DataFile, Report, load_events
from gptwo.evaluate.report import Sample as SampleText
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe, load_recipe
from gptwo.tasks import make_task
from gptwo.tasks.base import Task
from gptwo.tasks.language import Language
from gptwo.tokenizer import load_tokenizer
from gptwo.train.pretrain import set_dropout
from gptwo.train.run import file_hash, open_run, write_environment
from gptwo.train.track import make_trackers
from gptwo.train.trainer import Hooks, Outcome
from gptwo.train.trainer import train as train_model

PACKED_ROW = 256  # tokens of a row that several records share


@dataclass
class Run:
    """A finished fine-tuning run.

    Args:
        folder: the run folder; the tuned model is in folder/best.
        model: the tuned model.
        report: before and after, beside the baselines.
        outcome: how training ended.
    """

    folder: Path
    model: Pretrained
    report: Report
    outcome: Outcome


@dataclass
class Part:
    """The records of one part of the data, as the network sees them."""

    name: str
    records: list[Record]
    examples: list[Example]

    @property
    def truncated(self) -> int:
        return sum(example.truncated > 0 for example in self.examples)


def finetune(
    model: str | Path | Pretrained | None = None,
    *,
    task: str | None = None,
    train: str | Sequence[str] | None = None,
    valid: str | Sequence[str] | None = None,
    test: str | Sequence[str] | None = None,
    out: str | Path = "runs/finetune",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Tune a model for a task and report what it was worth.

    Args:
        model: name, folder or loaded model to start from; None: the recipe's model.base.
        task: "language", "classify" or "tag"; None: the recipe's.
        train, valid, test: files, folders or globs of records. Without valid a share of train is set aside; without
            test the report is on valid, and says so.
        out: the run folder.
        recipe: a recipe, or the file of one.
        settings: further recipe keys, dotted: {"train.epochs": 5}.
        resume: go on from the newest checkpoint of `out`.
        overwrite: start anew in a used folder.

    Raises:
        UsageError: a wrong recipe.
        DataError: records that cannot be used; names file and row.
        MissingError: no such model.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    recipe = resolve(recipe, model, task, {"train": train, "valid": valid, "test": test}, settings)
    if recipe.model.base is None and not isinstance(model, Pretrained):
        raise UsageError("There is no model to start from.", where="model.base", fix="--model gptwo-mini")
    if not recipe.data.train:
        raise UsageError("There are no records to learn from.", where="data.train", fix="--train records.jsonl")
    runtime.set_threads(recipe.train.threads)
    device = runtime.pick_device(recipe.train.device).value
    precision = runtime.pick_precision(recipe.train.precision, device).value
    base = model if isinstance(model, Pretrained) else models.load(recipe.model.base or "")
    folder = open_run(out, recipe, resume=resume, overwrite=overwrite)
    job = make_task(recipe.task)

    with Rejects(folder / "rejects.jsonl", strict=recipe.data.strict) as rejects:
        records, files = read_parts(recipe, job, rejects)
        job.fit(records["train"])
        start = tunable(base, job, recipe, device)
        tokenizer = start.tokenizer
        if tokenizer is None:
            raise UsageError("The model has no tokenizer.", where=base.folder, fix="--set model.tokenizer=FOLDER")
        max_length = min(recipe.data.max_length or start.config.n_positions, start.config.n_positions)
        parts = {name: encode_part(name, found, job, tokenizer, max_length) for name, found in records.items()}
    environment = write_environment(folder, {"files": [vars(file) for file in files]})
    torch.manual_seed(recipe.train.seed)
    how = {"max_length": max_length, "precision": precision}
    test_records = records.get("test") or records["valid"]
    before = job.opinion(start.model, tokenizer, test_records, **how)
    samples = write_samples(start, job, test_records, recipe, BEFORE)

    def sample() -> list[str]:
        return [f"{found.prompt}{found.text}" for found in write_samples(start, job, test_records, recipe, TUNED)]

    hooks = Hooks(
        evaluate=lambda: job.evaluate(start.model, tokenizer, records["valid"], **how),
        metric=recipe.train.metric or job.metric,
        maximise=job.maximise if recipe.train.metric is None else recipe.train.metric not in MINIMISED,
        save_best=lambda: models.save(start, folder / "best"),
        sample=sample if recipe.train.sample_every and isinstance(job, Language) else None,
    )
    tuned = freeze(start.model, recipe.freeze.policy, last=recipe.freeze.last, pattern=recipe.freeze.pattern)
    source = ExampleBatches(
        parts["train"].examples,
        size=recipe.train.batch_size,
        seed=recipe.train.seed,
        row_tokens=PACKED_ROW if recipe.data.packed else None,
    )
    with make_trackers(
        recipe.track.trackers, folder, project=recipe.track.project, recipe=recipe.model_dump()
    ) as trackers:
        for note in notes_of(parts, rejects):
            trackers.emit("notice", message=note)
        outcome = train_model(
            start.model,
            job,
            source,
            recipe=recipe,
            folder=folder,
            trackers=trackers,
            hooks=hooks,
            tuned=tuned,
            resume=resume,
        )

    best = models.load(folder / "best", device=device)
    after = job.opinion(best.model, tokenizer, test_records, **how)
    samples += write_samples(best, job, test_records, recipe, TUNED)
    systems = {BEFORE: before, TUNED: after, **job.baselines(records["train"], test_records)}
    report = job.report(
        f"{job.name}: {recipe.model.base or 'model'} on {Path(recipe.data.train[0]).name}",
        test_records,
        systems,
        data=files,
        events=load_events(folder / "events.jsonl"),
        notes=notes_of(parts, rejects) + ([] if "test" in records else [NO_TEST]),
        samples=samples,
        recipe=recipe.model_dump(exclude_none=True),
        machine=environment["machine"],
    )
    report.write(folder)
    return Run(folder, best, report, outcome)


MINIMISED = ("loss", "perplexity", "bits_per_byte")
NO_TEST = "No test data was given: the figures are on the validation data, which chose the best checkpoint."


def resolve(recipe, model, task, files, settings) -> Recipe:
    """One recipe from what was given; single arguments go over it."""
    overrides: dict[str, Any] = {f"data.{name}": listed(value) for name, value in files.items()}
    overrides |= {"task.name": task, "model.base": str(model) if isinstance(model, str | Path) else None}
    overrides |= settings or {}
    if isinstance(recipe, Recipe):
        given = recipe.model_dump(exclude_unset=True)
        flat = {f"{section}.{key}": value for section, values in given.items() for key, value in values.items()}
        return load_recipe(None, {**flat, **{k: v for k, v in overrides.items() if v is not None}}, environment={})
    return load_recipe(recipe, overrides)


def listed(value: str | Path | Sequence[str] | None) -> list[str] | None:
    """One path or several as a list of text."""
    if value is None:
        return None
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]


def read_parts(recipe: Recipe, job: Task, rejects: Rejects) -> tuple[dict[str, list[Record]], list[DataFile]]:
    """Records of train, valid and test; without valid, a share of train is set aside at random."""
    data = recipe.data
    found: dict[str, list[Record]] = {}
    files = []
    for name in ("train", "valid", "test"):
        paths = getattr(data, name)
        if not paths:
            continue
        before = rejects.total
        found[name] = list(
            read_records(
                paths,
                columns=data.columns or None,
                required=job.columns,
                format=data.format,
                encoding=data.encoding,
                lists=job.lists,
                list_separator=data.label_separator,
                rejects=rejects,
            )
        )
        for path in sorted({record.file for record in found[name]}):
            count = sum(record.file == path for record in found[name])
            digest = file_hash(Path(path)) if Path(path).is_file() else ""
            files.append(DataFile(name, path, count, rejects.total - before, digest))
    order = random.Random(recipe.train.seed)
    if data.limit and data.limit < len(found["train"]):
        found["train"] = order.sample(found["train"], data.limit)
    if "valid" not in found:
        if len(found["train"]) < 2:
            raise DataError("One record is too few to set some aside.", where=data.train[0], fix="give --valid")
        shuffled = order.sample(found["train"], len(found["train"]))
        size = max(1, round(data.valid_share * len(shuffled)))
        found["valid"], found["train"] = shuffled[:size], shuffled[size:]
    return found, files


def tunable(base: Pretrained, job: Task, recipe: Recipe, device: str) -> Pretrained:
    """A copy of a model with the head of a task, or its shape with random weights, on a device."""
    tokenizer = load_tokenizer(recipe.model.tokenizer) if recipe.model.tokenizer else base.tokenizer
    made = models.create(base.config, tokenizer, head=job.head, labels=job.labels, seed=recipe.train.seed)
    if not recipe.model.random:
        made.model.transformer.load_state_dict(base.model.transformer.state_dict())
        same_head = base.model.head_kind == job.head and (job.head == "language" or base.labels == job.labels)
        if same_head:
            made.model.projection.load_state_dict(base.model.projection.state_dict())
            made.model.tie()
    made.info = {"base": recipe.model.base, **job.describe()}
    if recipe.model.dropout is not None:
        set_dropout(made, made.config.with_dropout(recipe.model.dropout))
    made.model.to(device)
    return made


def encode_part(name: str, records: list[Record], job: Task, tokenizer, max_length: int) -> Part:
    """Records of a part as examples; raises where a record does not fit the task."""
    examples = [e for i, record in enumerate(records) for e in job.encode(record, tokenizer, max_length, i)]
    return Part(name, records, examples)


def notes_of(parts: dict[str, Part], rejects: Rejects) -> list[str]:
    """What a reader must know about the data."""
    notes = [f"{part.name}: {len(part.records):,} records" for part in parts.values()]
    notes += [
        f"{part.name}: {part.truncated:,} of {len(part.records):,} records were cut to fit the network"
        for part in parts.values()
        if part.truncated
    ]
    if rejects.total:
        notes.append(f"{rejects.summary()}; they are listed in rejects.jsonl")
    return notes


def write_samples(start: Pretrained, job: Task, records: list[Record], recipe: Recipe, system: str) -> list[SampleText]:
    """A few continuations, for tasks that write."""
    if not isinstance(job, Language):
        return []
    prompts = recipe.train.sample_prompts or list(dict.fromkeys(job.prompt_of(record) for record in records[:50]))[:3]
    found = Engine(start).generate(
        prompts, max_new_tokens=80, temperature=0.8, top_p=0.95, seed=recipe.train.seed
    )
    return [SampleText(prompt, one.text, system) for prompt, one in zip(prompts, found, strict=True)]
