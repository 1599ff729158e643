"""Fine-tuning: a model, a task and records in; a tuned model and an honest report out."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptwo.adapt.freeze import freeze
from gptwo.adapt.store import carry, load, plain, save
from gptwo.data.files import format_of
from gptwo.data.loader import ExampleBatches
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.evaluate.assess import BEFORE, TUNED
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.report import Report, load_events
from gptwo.evaluate.report import Sample as SampleText
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe, load_recipe
from gptwo.tasks import make_task
from gptwo.tasks.base import Task
from gptwo.tasks.language import Language
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.trust import before_notes, fit_notes, unseen_notes
from gptwo.tokenizer import Tokenizer, load_tokenizer
from gptwo.train.checkpoint import check_space
from gptwo.train.confidence import calibrate
from gptwo.train.leakage import leakage
from gptwo.train.lock import hold
from gptwo.train.parts import CountedRejects, check_weights, notes_of, read_parts
from gptwo.train.pretrain import FRESH, set_dropout
from gptwo.train.run import (
    begun_recipe,
    changed_keys,
    nothing_to_resume,
    open_run,
    settle,
    without_effect,
    write_environment,
)
from gptwo.train.session import run_session
from gptwo.train.trainer import Hooks, Outcome, unknown_metric

PACKED_ROW = 512  # tokens of a row that several records share: attention stays cheap, and little is padded
UNUSED = (*FRESH, "data.block_size", "train.evaluate_batches")  # recipe keys that only pretraining reads

Stop = Callable[[int, dict[str, float]], str | None]


@dataclass
class Run:
    """A finished fine-tuning run.

    Args:
        folder: the run folder; the tuned model is in folder/best.
        model: the tuned model.
        report: before and after, beside the baselines.
        outcome: how training ended.
        records: how many of each part: "train", "valid", "test".
    """

    folder: Path
    model: Pretrained
    report: Report
    outcome: Outcome
    records: dict[str, int]


def finetune(
    model: str | Path | Pretrained | None = None,
    *,
    task: str | None = None,
    train: str | Path | Sequence[str | Path] | None = None,
    valid: str | Path | Sequence[str | Path] | None = None,
    test: str | Path | Sequence[str | Path] | None = None,
    out: str | Path = "runs/finetune",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop: Stop | None = None,
) -> Run:
    """Tune a model for a task and report what it was worth.

    Args:
        model: name, folder or loaded model to start from; None: the recipe's model.base.
        task: "language", "classify" or "tag"; None: the recipe's.
        train, valid, test: files, folders or globs of records. Without valid a share of train is set aside; without
            test the report is on valid, and says so.
        out: the run folder.
        recipe: a recipe, or the file of one; None with `resume`: that of the run.
        settings: further recipe keys, dotted: {"train.epochs": 5}.
        resume: go on from the newest checkpoint of `out`.
        overwrite: start anew in a used folder.
        stop: told the step and figures of each evaluation; a reason that it gives ends training there.

    Raises:
        UsageError: a wrong recipe.
        DataError: records that cannot be used; names file and row.
        MissingError: no such model.
        Interrupted: stopped by a signal; the run can be resumed.
        GptwoError: training failed; the message says why.
    """
    given = recipe if recipe is not None else begun_recipe(out, resume=resume)
    if resume and given is None and model is None:
        raise nothing_to_resume(out)
    recipe = resolve(given, model, task, {"train": train, "valid": valid, "test": test}, settings)
    if recipe.model.base is None and not isinstance(model, Pretrained):
        raise UsageError("There is no model to start from.", where="model.base", fix="--model gptwo-mini")
    if not recipe.data.train:
        raise UsageError("There are no records to learn from.", where="data.train", fix="--train records.jsonl")
    check_records(recipe)
    job = make_task(recipe.task)
    base = model if isinstance(model, Pretrained) else load(recipe.model.base or "")
    with hold(out):
        folder = open_run(out, recipe, resume=resume, overwrite=overwrite)
        return tune_model(base, job, recipe, folder, resume=resume, stop=stop)


def tune_model(
    base: Pretrained, job: Task, recipe: Recipe, folder: Path, *, resume: bool = False, stop: Stop | None = None
) -> Run:
    """Tune a model in a run folder that is open; raises as `finetune`."""
    base = plain(base)
    if not recipe.model.random:
        check_weights(base)
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
    files = [file for part in parts.values() for file in part.files]
    hashes = {name: [file.sha256 for file in part.files] for name, part in parts.items() if part.files}
    if adapter and adapter.base:
        hashes["base"] = [adapter.base.fingerprint]
    machine = write_environment(folder, device, precision, hashes, resume=resume)

    runner = ModelRunner(start.model, tokenizer, max_length, precision.value)
    test_records = (parts.get("test") or parts["valid"]).records
    before = None
    with adapter.absent(start.model) if adapter else nullcontext():  # a fresh prefix is not the untuned model
        untuned = replace(start, config=start.model.config, adapter=None)
        if start.fresh:
            before = job.probe(runner, parts["train"].records, test_records)
        states = before_notes(job, probed=before is not None, fresh=bool(start.fresh))
        if before is None:
            before = job.untuned(base.model, runner, test_records)
        samples = write_samples(untuned, job, test_records, recipe, BEFORE)
    notes = notes_of(parts, rejects) + unseen_notes(job, parts["train"].records)
    if adapter:
        notes.append(adapter.summary(start.model))
    notes += without_effect("finetune", [key for key in changed_keys(recipe) if key in UNUSED])

    def sample() -> list[str]:
        return [f"{found.prompt}{found.text}" for found in write_samples(start, job, test_records, recipe, TUNED)]

    hooks = Hooks(
        evaluate=lambda: job.evaluate(runner, parts["valid"].records),
        metric=metric,
        maximise=metric_name(metric).higher_is_better,
        save_best=lambda: save(start, folder / "best"),
        sample=sample if recipe.train.sample_every and isinstance(job, Language) else None,
        place=lambda index: parts["train"].records[index].place(),
        stop=stop,
        adapter=adapter,
    )
    source = ExampleBatches(
        parts["train"].examples,
        size=recipe.train.batch_size,
        seed=recipe.train.seed,
        row_tokens=PACKED_ROW if recipe.data.packed else None,
    )
    outcome = run_session(
        start.model,
        job,
        source,
        recipe=recipe,
        folder=folder,
        hooks=hooks,
        tuned=tuned,
        precision=precision,
        resume=resume,
        notices=notes,
    )
    best = load(folder / "best", device=device.value, base=base.folder if adapter else None)
    runner = replace(runner, model=best.model)
    calibrate(job, best, runner, parts["valid"].records, target_precision=recipe.task.target_precision)
    states += fit_notes(job, len(parts["valid"].records))
    after = job.opinion(runner, test_records)
    samples += write_samples(best, job, test_records, recipe, TUNED)
    systems = {BEFORE: before, TUNED: after, **job.baselines(parts["train"].records, test_records)}
    report = job.report(
        f"{job.name}: {name_of(base, recipe)} on {Path(recipe.data.train[0]).name}",
        test_records,
        systems,
        data=files,
        events=load_events(folder / "events.jsonl"),
        warnings=leakage(parts, job),
        notes=[*states, *notes, f"The best checkpoint is that of step {outcome.progress.best_step:,}, by {metric}."],
        samples=samples,
        recipe=recipe.model_dump(exclude_none=True),
        machine=machine,
    )
    report.write(folder)
    return Run(folder, best, report, outcome, {name: len(part.records) for name, part in parts.items()})


def resolve(
    recipe: Recipe | str | Path | None,
    model: str | Path | Pretrained | None,
    task: str | None,
    files: Mapping[str, str | Path | Sequence[str | Path] | None],
    settings: Mapping[str, Any] | None,
) -> Recipe:
    """One recipe from what was given; single arguments go over it."""
    overrides: dict[str, Any] = {f"data.{name}": listed(value) for name, value in files.items()}
    overrides |= {"task.name": task, "model.base": str(model) if isinstance(model, str | Path) else None}
    overrides |= settings or {}
    if isinstance(recipe, Recipe):
        given = recipe.model_dump(exclude_unset=True)
        flat = {f"{section}.{key}": value for section, values in given.items() for key, value in values.items()}
        return load_recipe(None, {**flat, **{k: v for k, v in overrides.items() if v is not None}}, environment={})
    return load_recipe(recipe, overrides)


def check_records(recipe: Recipe) -> None:
    """Text files hold no records of a language model: they are what it is pretrained on.

    Raises:
        UsageError: there are such files among the training data.
    """
    if recipe.task.name != "language" or recipe.data.format is not None:
        return
    texts = [path for path in recipe.data.train if format_of(path) == "txt"]
    if texts:
        raise UsageError(
            "A file of running text holds no records to tune on.",
            where=texts[0],
            why="records are rows with a text each: csv, jsonl, …",
            fix=shlex.join(["gptwo", "pretrain", "--model", recipe.model.base or "NAME", "--train", texts[0]]),
        )


def listed(value: str | Path | Sequence[str | Path] | None) -> list[str] | None:
    """One path or several as a list of text."""
    if value is None:
        return None
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]


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


def write_samples(start: Pretrained, job: Task, records: list[Record], recipe: Recipe, system: str) -> list[SampleText]:
    """A few continuations, for tasks that write."""
    if not isinstance(job, Language):
        return []
    prompts = recipe.train.sample_prompts or list(dict.fromkeys(job.prompt_of(record) for record in records[:50]))[:3]
    found = Engine(start).generate(prompts, max_new_tokens=80, temperature=0.8, top_p=0.95, seed=recipe.train.seed)
    return [SampleText(prompt, one.text, system) for prompt, one in zip(prompts, found, strict=True)]
