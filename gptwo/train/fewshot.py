"""Tuning on few records: k of each label, drawn several times; mean and spread over the draws.

The protocol of FewCLUE and of Gao et al. 2021: k training and k validation records of each label, several such
splits, one whole test set. A single split says little: with 16 records a label, draws differ by several points. Splits
are drawn, or those that a data set comes with (train_0.json with dev_0.json, train_1.json with dev_1.json, …).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.data.files import expand
from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError, amount
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.report import Report, System
from gptwo.evaluate.statistics import Comparison, compare_runs
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe, load_recipe
from gptwo.tasks import make_task
from gptwo.train.finetune import finetune


def tune_few_shots(
    model: str | Path | Pretrained,
    *,
    train: Sequence[str | Path],
    test: Sequence[str | Path],
    valid: Sequence[str | Path] = (),
    shots: int | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    out: str | Path = "runs/few-shot",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Tune a model on k records of each label, once for each seed; or on splits that are given, once for each.

    Args:
        train: records to draw from; without shots every file is the training part of a split.
        test: the whole test set of every run.
        valid: without shots: a file for each split, in the same order; none: a share of the training part is set aside.
        shots: training records of each label; as many are drawn for validation where there are enough.
        seeds: of the draws, and of each run; given splits are counted up from the first.
        out: one run folder for each seed, splits included, and the report.
        recipe: of every run; its task decides.
        settings: further recipe keys.

    Returns:
        A report with the mean of every system over the runs, and the deviation; `recipe["runs"]` has every run.

    Raises:
        UsageError: no shots or no seeds, files that do not pair up, a folder in use, a wrong recipe.
        DataError: a label with too few records.
    """
    if (shots is not None and shots < 1) or not seeds:
        raise UsageError(f"{shots} shots and {len(seeds)} draws: both must be at least 1.", where="shots")
    if shots is not None and valid:
        raise UsageError("With --shots the validation records are drawn as well.", where="--valid", fix="leave it out")
    pairs = given_splits(train, valid) if shots is None else []
    settings = dict(settings or {})
    if isinstance(recipe, Recipe):
        chosen = recipe
    else:
        chosen = load_recipe(recipe, settings)
        settings = {}
    folder = Path(out)
    job = make_task(chosen.task)
    rejects = Rejects(None, strict=chosen.data.strict)

    def read(files: Sequence[str | Path]) -> list[Record]:
        data = chosen.data
        return list(
            read_records(
                [str(file) for file in files],
                columns=data.columns or None,
                required=job.columns,
                format=data.format,
                rejects=rejects,
                encoding=data.encoding,
                lists=job.lists,
                list_separator=data.label_separator,
            )
        )

    whole_test = read(test)
    data = {"columns": {}, "format": None, "encoding": "utf-8-sig", "label_separator": None}
    plain = chosen.model_copy(update={"data": chosen.data.model_copy(update=data)})

    def splits() -> Iterator[tuple[str, int, list[Record], list[Record]]]:
        """Name and seed of each run, and the records it learns from and is validated on."""
        records = [] if shots is None else read(train)
        for place, (one, other) in enumerate(pairs):
            yield f"split-{place}", seeds[0] + place, read([one]), read([other]) if other else []
        for seed in seeds if shots is not None else ():
            yield f"seed-{seed}", seed, *draw_split(records, shots or 0, seed, job.group)

    reports, used = [], []
    write_records(folder / "test.jsonl", whole_test)
    for name, seed, learn, check in splits():
        files = {"train": folder / name / "train.jsonl", "test": folder / "test.jsonl"}
        write_records(files["train"], learn)
        if check:
            files["valid"] = folder / name / "valid.jsonl"
            write_records(files["valid"], check)
        run = finetune(
            model,
            out=folder / name / "run",
            recipe=plain,
            settings={**settings, "train.seed": seed},
            overwrite=overwrite,
            train=files["train"],
            valid=files.get("valid"),
            test=files["test"],
        )
        reports.append(run.report)
        used.append(seed)
    title = f"{shots} records of each label, {len(seeds)} draws" if shots else amount(len(pairs), "given split")
    report = mean_report(reports, title, used)
    if pairs:
        report.notes.append("splits: " + ", ".join(Path(one).name for one, _ in pairs))
    if rejects.total:
        report.notes.append(rejects.summary())
    report.write(folder)
    return report


def given_splits(train: Sequence[str | Path], valid: Sequence[str | Path]) -> list[tuple[str, str | None]]:
    """The files of each split: training part and, where there is one, validation part.

    Raises:
        UsageError: as many validation files as training files are needed, or none.
        DataError: there is no such file.
    """
    learn, check = ([file for source in expand(files) for file in source.files] if files else []
                    for files in ([str(one) for one in train], [str(one) for one in valid]))  # fmt: skip
    if not learn:
        raise UsageError("Which splits?", where="--train", fix="--train 'train_[0-4].json', or --shots 16")
    if check and len(check) != len(learn):
        raise UsageError(
            f"{amount(len(learn), 'training file')}, but {amount(len(check), 'validation file')}: each split is one of "
            "both.",
            where="--valid",
            why=f"the training files are {', '.join(Path(file).name for file in learn)}",
            fix="--train 'train_[0-4].json' --valid 'dev_[0-4].json'",
        )
    return list(zip(learn, check or [None] * len(learn), strict=True))


def draw_split(
    records: Sequence[Record], shots: int, seed: int, group: Callable[[Record], str]
) -> tuple[list[Record], list[Record]]:
    """k records of each label to learn from, and k others to validate on (none where a label has too few).

    Args:
        group: the label of a record.

    Raises:
        DataError: a label has fewer than k records.
    """
    by_label: dict[str, list[Record]] = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(len(records)):
        by_label[group(records[place])].append(records[place])
    learn, check = [], []
    for label in sorted(by_label):
        found = by_label[label]
        if len(found) < shots:
            raise DataError(
                f"The label {label!r} has {len(found)} records, fewer than {shots}.", fix="fewer shots, or more records"
            )
        learn += found[:shots]
        check += found[shots : 2 * shots]
    enough = all(len(found) >= 2 * shots for found in by_label.values())
    return learn, check if enough else []


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Records as JSON lines, under our names of their fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record.fields, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")


def mean_report(reports: Sequence[Report], title: str, seeds: Sequence[int]) -> Report:
    """One report of several runs on the same test set: means and deviations of every system that all of them have."""
    first = reports[0]
    systems, runs = [], {}

    def values_of(name: str) -> list[float]:
        return [one[first.primary] or 0.0 for one in runs[name]]

    for system in first.systems:
        same = [one for report in reports for one in report.systems if one.name == system.name]
        if len(same) < len(reports):
            continue
        metrics: dict[str, Any] = {}
        for key in system.metrics:
            values = [one.value(key) for one in same]
            if any(value is None for value in values):
                continue
            metrics[key] = float(np.mean(values))
            told = key == first.primary or (metric_name(key).unit == "share" and metric_name(key).higher_is_better)
            if told and len(values) > 1:
                metrics[f"{key}_spread"] = float(np.std(values, ddof=1))
        main = [one.value(first.primary) or 0.0 for one in same]
        note = f"{first.primary} {min(main):.3f} to {max(main):.3f}" if len(set(main)) > 1 else ""
        systems.append(System(system.name, metrics, system.role, note=note))
        runs[system.name] = [{key: found.value for key, found in one.metrics.items()} for one in same]
    tuned = next(system.name for system in systems if system.role == "tuned")
    comparisons = [
        Comparison(tuned, other, first.primary, *compare_runs(values_of(tuned), values_of(other)), "paired t")
        for other in runs
        if other != tuned
    ]
    return Report(
        title=title,
        task=first.task,
        primary=first.primary,
        systems=systems,
        records=first.records,
        comparisons=comparisons,
        data=[file for file in first.data if file.part == "test"],
        notes=[
            f"means over the seeds {', '.join(map(str, seeds))}; every run has its own report; "
            "intervals of differences are over the runs (Student's t)"
        ],
        recipe={"seeds": list(seeds), "runs": runs, **first.recipe},
        machine=first.machine,
    )
