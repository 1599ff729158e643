"""Tuning on few records: k of each label, drawn several times; mean and spread over the draws.

The protocol of FewCLUE and of Gao et al. 2021: k training and k validation records of each label, several such
splits, one whole test set. A single split says little: with 16 records a label, draws differ by several points.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.report import Report, System
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe, load_recipe
from gptwo.tasks import make_task
from gptwo.train.finetune import finetune


def tune_few_shots(
    model: str | Path | Pretrained,
    *,
    train: Sequence[str | Path],
    test: Sequence[str | Path],
    shots: int,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    out: str | Path = "runs/few-shot",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Tune a model on k records of each label, once for each seed.

    Args:
        train: records to draw from.
        test: the whole test set of every run.
        shots: training records of each label; as many are drawn for validation where there are enough.
        seeds: of the draws, and of each run.
        out: one run folder for each seed, splits included, and the report.
        recipe: of every run; its task decides.
        settings: further recipe keys.

    Returns:
        A report with the mean of every system over the runs, and the deviation; `recipe["runs"]` has every run.

    Raises:
        UsageError: no shots or no seeds, a folder in use, a wrong recipe.
        DataError: a label with too few records.
    """
    if shots < 1 or not seeds:
        raise UsageError(f"{shots} shots and {len(seeds)} draws: both must be at least 1.", where="shots")
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

    records, whole_test = read(train), read(test)
    data = {"columns": {}, "format": None, "encoding": "utf-8-sig", "label_separator": None}
    plain = chosen.model_copy(update={"data": chosen.data.model_copy(update=data)})
    reports = []
    write_records(folder / "test.jsonl", whole_test)
    for seed in seeds:
        split = folder / f"seed-{seed}"
        learn, check = draw_split(records, shots, seed, job.group)
        files = {"train": split / "train.jsonl", "test": folder / "test.jsonl"}
        write_records(files["train"], learn)
        if check:
            files["valid"] = split / "valid.jsonl"
            write_records(files["valid"], check)
        run = finetune(
            model,
            out=split / "run",
            recipe=plain,
            settings={**settings, "train.seed": seed},
            overwrite=overwrite,
            **{part: [path] for part, path in files.items()},  # type: ignore[arg-type]
        )
        reports.append(run.report)
    report = mean_report(reports, f"{shots} records of each label, {len(seeds)} draws", list(seeds))
    if rejects.total:
        report.notes.append(rejects.summary())
    report.write(folder)
    return report


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
            if key in ("accuracy", "macro_f1"):
                metrics[f"{key}_spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        main = [one.value(first.primary) or 0.0 for one in same]
        note = f"{first.primary} {min(main):.3f} to {max(main):.3f}" if len(set(main)) > 1 else ""
        systems.append(System(system.name, metrics, system.role, note=note))
        runs[system.name] = [{key: found.value for key, found in one.metrics.items()} for one in same]
    return Report(
        title=title,
        task=first.task,
        primary=first.primary,
        systems=systems,
        records=first.records,
        data=[file for file in first.data if file.part == "test"],
        notes=[f"means over the seeds {', '.join(map(str, seeds))}; every run has its own report"],
        recipe={"seeds": list(seeds), "runs": runs, **first.recipe},
        machine=first.machine,
    )
