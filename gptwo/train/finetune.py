"""Fine-tuning: a model, a task and records in; a tuned model and an honest report out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptwo.adapt.store import load, plain, save
from gptwo.data.files import format_of
from gptwo.data.loader import ExampleBatches
from gptwo.errors import UsageError
from gptwo.evaluate.assess import BEFORE, TUNED
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.report import Report, load_events
from gptwo.evaluate.report import Sample as SampleText
from gptwo.generate.engine import Engine
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe, load_recipe
from gptwo.tasks import make_task
from gptwo.tasks.base import Task
from gptwo.tasks.language import Language
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.trust import before_notes, fit_notes
from gptwo.train.confidence import calibrate
from gptwo.train.leakage import leakage
from gptwo.train.lock import hold
from gptwo.train.parts import check_weights
from gptwo.train.prepare import Prepared, name_of, prepare
from gptwo.train.run import (
    begun_recipe,
    nothing_to_resume,
    open_run,
)
from gptwo.train.session import run_session
from gptwo.train.trainer import Hooks, Outcome

PACKED_ROW = 512  # tokens of a row that several records share: attention stays cheap, and little is padded

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
        DivergedError: training has gone to pieces; earlier checkpoints stay.
        GptwoError: something could not be written.
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
    made = prepare(base, job, recipe, folder, resume=resume)
    before = judge_untuned(made)
    outcome = run_session(
        made.start.model,
        job,
        ExampleBatches(
            made.parts["train"].examples,
            size=recipe.train.batch_size,
            seed=recipe.train.seed,
            row_tokens=PACKED_ROW if recipe.data.packed else None,
        ),
        recipe=recipe,
        folder=folder,
        hooks=hooks_of(made, stop),
        tuned=made.tuned,
        precision=made.precision,
        resume=resume,
        notices=made.notes,
    )
    best = load(folder / "best", device=made.device.value, base=base.folder if made.adapter else None)
    runner = replace(made.runner, model=best.model)
    valid = made.parts["valid"].records
    calibrate(job, best, runner, valid, target_precision=recipe.task.target_precision)
    before.notes += fit_notes(job, len(valid))
    report = verdict(made, before, best, runner, outcome)
    return Run(folder, best, report, outcome, {name: len(part.records) for name, part in made.parts.items()})


@dataclass
class Untuned:
    """What a model says of the test records before it is tuned.

    Args:
        said: as `Task.opinion` gives it.
        notes: what stands for the untuned model, for the report; later also how its confidences were fitted.
        samples: texts, where the task writes.
    """

    said: Any
    notes: list[str]
    samples: list[SampleText]


def judge_untuned(made: Prepared) -> Untuned:
    """The cheapest head on a fresh model's features, else the model as it is."""
    start, job, said = made.start, made.job, None
    with made.adapter.absent(start.model) if made.adapter else nullcontext():  # a fresh prefix is not untuned
        if start.fresh:
            said = job.probe(made.runner, made.parts["train"].records, made.test_records)
        notes = before_notes(job, probed=said is not None, fresh=bool(start.fresh))
        if said is None:
            said = job.untuned(made.base.model, made.runner, made.test_records)
        untuned = replace(start, config=start.model.config, adapter=None)
        return Untuned(said, notes, write_samples(untuned, made, BEFORE))


def hooks_of(made: Prepared, stop: Stop | None) -> Hooks:
    """What the trainer asks of a task while it learns."""
    start, job, parts = made.start, made.job, made.parts
    samples = made.recipe.train.sample_every and isinstance(job, Language)
    return Hooks(
        evaluate=lambda: job.evaluate(made.runner, parts["valid"].records),
        metric=made.metric,
        maximise=metric_name(made.metric).higher_is_better,
        save_best=lambda: save(start, made.folder / "best"),
        sample=(lambda: [f"{one.prompt}{one.text}" for one in write_samples(start, made, TUNED)]) if samples else None,
        place=lambda index: parts["train"].records[index].place(),
        as_read=job.as_read,
        stop=stop,
        adapter=made.adapter,
    )


def verdict(made: Prepared, before: Untuned, best: Pretrained, runner: ModelRunner, outcome: Outcome) -> Report:
    """The report on the test records, before and after, beside the baselines; it lies in the run folder.

    Args:
        best, runner: the tuned model.
    """
    job, recipe, records, parts = made.job, made.recipe, made.test_records, made.parts
    systems = {BEFORE: before.said, TUNED: job.opinion(runner, records)}
    samples = before.samples + write_samples(best, made, TUNED)
    chosen = f"The best checkpoint is that of step {outcome.progress.best_step:,}, by {made.metric}."
    report = job.report(
        f"{job.name}: {name_of(made.base, recipe)} on {Path(recipe.data.train[0]).name}",
        records,
        systems | job.baselines(parts["train"].records, records),
        data=[file for part in parts.values() for file in part.files],
        events=load_events(made.folder / "events.jsonl"),
        warnings=leakage(parts, job),
        notes=[*before.notes, *made.notes, chosen],
        samples=samples,
        recipe=recipe.model_dump(exclude_none=True),
        machine=made.machine,
    )
    report.write(made.folder)
    return report


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


def write_samples(model: Pretrained, made: Prepared, system: str) -> list[SampleText]:
    """A few continuations by a model, for tasks that write."""
    job, options = made.job, made.recipe.train
    if not isinstance(job, Language):
        return []
    asked = [job.prompt_of(record) for record in made.test_records[:50]]
    prompts = options.sample_prompts or list(dict.fromkeys(asked))[:3]
    found = Engine(model).generate(prompts, max_new_tokens=80, temperature=0.8, top_p=0.95, seed=options.seed)
    return [SampleText(prompt, one.text, system) for prompt, one in zip(prompts, found, strict=True)]
