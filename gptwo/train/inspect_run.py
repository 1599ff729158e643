"""Looks at a run for what went wrong: a loss that says nothing, overfitting, divergence, a collapse; with advice.

A loss means something beside its marks: guessing among V tokens costs ln V nats, knowing only how often each token
occurs costs the entropy of those frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.data.doctor import SEVERITIES
from gptwo.data.finding import Finding
from gptwo.data.shards import Shards
from gptwo.errors import DataError, GptwoError, MissingError
from gptwo.evaluate.charts import smooth
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.report import Report, read_report
from gptwo.evaluate.verdict import verdicts
from gptwo.model.config_json import read_json
from gptwo.recipe import Recipe, load_recipe
from gptwo.train.checkpoint import list_checkpoints
from gptwo.train.events import Event, read_events

COUNTED = 20_000_000  # tokens whose frequencies are counted
FEW_STEPS = 20  # logged steps that a course can be judged by


def inspect_run(folder: str | Path) -> list[Finding]:
    """Everything worth knowing about a run, errors first; a run that goes on can be looked at too.

    Raises:
        MissingError: the folder holds no run.
        DataError: its events cannot be read.
    """
    folder = Path(folder).expanduser()
    if not (folder / "events.jsonl").is_file():
        raise MissingError("There is no run in this folder.", where=folder, fix="give the --out of a training run")
    try:
        events = read_events(folder)
    except (ValueError, KeyError) as error:
        raise DataError(
            "The events of the run cannot be read.", where=folder / "events.jsonl", why=str(error)
        ) from error
    recipe = _recipe_of(folder)
    report = _report_of(folder)
    steps = [event for event in events if event["kind"] == "step" and event.get("loss") is not None]
    losses = _series(events, "loss")
    findings = [
        *ending(folder, events),
        *reference(folder, recipe, steps, losses, report, events),
        *course(steps, recipe),
        *gradients(steps, recipe),
        *fitting(steps, losses, _deciding(events, recipe)),
    ]
    if report is not None:
        findings += [*collapse(report), *worth(report)]
    findings += dead_adapters(folder)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def ending(folder: Path, events: Sequence[Event]) -> Iterator[Finding]:
    """How the run ended, or that it did not."""
    ends = [event for event in events if event["kind"] == "end"]
    total = next((event.get("total") for event in reversed(events) if event["kind"] == "start"), None)
    last = max((event["step"] for event in events), default=0)
    where = f"step {last:,}" + (f" of {total:,}" if total else "")
    resume = (
        "Go on: the same command with --resume." if list_checkpoints(folder) else "It has no checkpoint: begin anew."
    )
    if not ends or events[-1]["kind"] == "start":
        yield Finding(
            "unfinished", "warning", f"the run has not ended: it is at {where}, or was killed there", fix=resume
        )
        return
    reason = str(ends[-1].get("reason", ""))
    if reason.startswith("failed"):
        fix = "Lower optimizer.learning_rate, lengthen schedule.warmup, or look at the records it names."
        yield Finding("failed", "error", f"the run failed at {where}: {reason.removeprefix('failed: ')}", fix=fix)
    elif reason == "interrupted":
        yield Finding("unfinished", "warning", f"the run was interrupted at {where}", fix=resume)
    else:
        yield Finding("ended", "info", f"the run ended at {where}: {reason}")


def reference(
    folder: Path,
    recipe: Recipe,
    steps: Sequence[Event],
    losses: Sequence[tuple[int, float]],
    report: Report | None,
    events: Sequence[Event],
) -> Iterator[Finding]:
    """The loss beside what guessing costs."""
    marks = references(folder, recipe, report)
    values = [value for _, value in losses] or [float(event["loss"]) for event in steps[-10:]]
    if not values:
        return
    best, kind = min(values), "validation" if losses else "training"
    bits = _series(events, "bits_per_byte")
    told = [f"{name} {value:.3f}" for name, value in marks.items()]
    told += [f"{min(value for _, value in bits):.3f} bits per byte"] if bits else []
    beside = f"; beside it {', '.join(told)}" if told else ""
    detail = {"loss": best, "kind": kind, "references": marks}
    yield Finding("loss", "info", f"the best {kind} loss is {best:.3f} nats{beside}", detail=detail)
    guessing = next((value for name, value in marks.items() if name.startswith("ln ")), None)
    frequencies = next((value for name, value in marks.items() if "entropy" in name), None)
    if guessing is not None and best >= 0.98 * guessing:
        yield Finding(
            "no-better-than-guessing",
            "error",
            f"a loss of {best:.3f} is no better than guessing ({guessing:.3f})",
            fix="Raise optimizer.learning_rate (gptwo tune --lr-range), look whether anything is tuned (freeze.policy) "
            "and whether texts and targets belong together (gptwo doctor data).",
        )
    elif frequencies is not None and best >= 0.98 * frequencies:
        yield Finding(
            "no-better-than-frequencies",
            "warning",
            f"a loss of {best:.3f} is no better than knowing how often each occurs ({frequencies:.3f})",
            fix="Train longer or with a higher learning rate; if it stays, the input says nothing of the target.",
        )


def references(folder: Path, recipe: Recipe, report: Report | None) -> dict[str, float]:
    """What guessing costs, in nats: ln V (or of the labels), and the entropy of the frequencies where known."""
    found: dict[str, float] = {}
    config = next((path for path in (folder / "best" / "config.json",) if path.is_file()), None)
    content = read_json(config) if config else {}
    labels = content.get("id2label") or {}
    names = [str(name) for name in content.get("architectures") or []]
    language = any("LMHead" in name for name in names) or (not names and recipe.task.name == "language")
    multi = content.get("problem_type") == "multi_label_classification" or recipe.task.multi_label
    if language and content.get("vocab_size"):
        found["ln V"] = math.log(content["vocab_size"])
        entropy = unigram_entropy(folder / "shards" / "train")
        if entropy is not None:
            found["unigram entropy"] = entropy
    elif labels and not multi and recipe.task.name in ("classify", "match", "tag"):
        found[f"ln {len(labels)}"] = math.log(len(labels))
    majority = next((system for system in report.systems if system.name == "Majority class"), None) if report else None
    if majority is not None and majority.value("log_loss") is not None and not multi:
        found["entropy of the labels"] = majority.value("log_loss") or 0.0
    return found


def unigram_entropy(folder: Path) -> float | None:
    """The entropy of the token frequencies of shards, in nats per token; None where there are no shards."""
    if not (folder / "manifest.json").is_file():
        return None
    try:
        shards = Shards(folder)
        counts = np.zeros(0, dtype=np.int64)
        for start in range(0, min(shards.tokens, COUNTED), 1_000_000):
            part = np.bincount(shards.read(start, min(1_000_000, shards.tokens - start)))
            counts = np.pad(counts, (0, max(0, len(part) - len(counts))))
            counts[: len(part)] += part
    except (OSError, GptwoError):
        return None
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def course(steps: Sequence[Event], recipe: Recipe) -> Iterator[Finding]:
    """Whether the training loss rose again."""
    if len(steps) < FEW_STEPS:
        return
    values = smooth([float(event["loss"]) for event in steps])
    tenth = max(1, len(values) // 10)
    first, low, last = float(values[:tenth].mean()), float(values.min()), float(values[-tenth:].mean())
    place = int(values.argmin())
    if place < len(values) - 2 * tenth and last > low + max(0.1 * abs(low), 0.3 * max(0.0, first - low)):
        yield Finding(
            "divergence",
            "error",
            f"the training loss fell to {low:.3f} at step {steps[place]['step']:,} and rose to {last:.3f} by the end",
            fix=f"Lower optimizer.learning_rate (it was {recipe.optimizer.learning_rate:g}), lengthen schedule.warmup, "
            "or set train.clip = 1.0.",
            detail={"first": first, "lowest": low, "last": last},
        )


def gradients(steps: Sequence[Event], recipe: Recipe) -> Iterator[Finding]:
    """A gradient whose norm grows slowly over the run comes before divergence."""
    norms = [float(event["grad_norm"]) for event in steps if event.get("grad_norm") is not None]
    if len(norms) < FEW_STEPS:
        return
    start = int(len(norms) * min(0.5, recipe.schedule.warmup if recipe.schedule.warmup < 1 else 0.05))
    medians = [float(np.median(part)) for part in np.array_split(np.array(norms[start:]), 5)]
    rises = sum(b > a for a, b in pairwise(medians))
    if medians[0] > 0 and medians[-1] > 2 * medians[0] and rises >= 3:
        yield Finding(
            "gradient-growth",
            "warning",
            f"the norm of the gradient grew from {medians[0]:.3g} to {medians[-1]:.3g} over the run",
            fix="Training drifts towards divergence: lower optimizer.learning_rate or raise optimizer.weight_decay.",
            detail={"medians": medians},
        )
    clipped = sum(norm > recipe.train.clip for norm in norms) / len(norms) if recipe.train.clip else 0.0
    if clipped > 0.9:
        yield Finding(
            "always-clipped",
            "info",
            f"the gradient was clipped in {clipped:.0%} of the logged steps",
            fix=f"train.clip = {recipe.train.clip:g} sets the size of every step then; that is sound, but lower rates "
            "have little effect.",
        )


def fitting(
    steps: Sequence[Event], losses: Sequence[tuple[int, float]], deciding: tuple[str, list[tuple[int, float]]]
) -> Iterator[Finding]:
    """Overfitting, and training that was ended too early."""
    if len(losses) >= 3:
        place = min(range(len(losses)), key=lambda i: losses[i][1])
        low, last = losses[place][1], losses[-1][1]
        before = [float(event["loss"]) for event in steps if event["step"] <= losses[place][0]][-5:]
        after = [float(event["loss"]) for event in steps][-5:]
        if place < len(losses) - 1 and last > 1.05 * low and before and np.mean(after) < np.mean(before):
            yield Finding(
                "overfitting",
                "warning",
                f"the validation loss was lowest ({low:.3f}) at step {losses[place][0]:,} and rose to {last:.3f}, "
                f"while the training loss fell to {np.mean(after):.3f}",
                fix="The best checkpoint was kept. More data, model.dropout = 0.1, fewer epochs or an adapter help; "
                "train.patience ends such a run earlier.",
                detail={"best_step": losses[place][0], "lowest": low, "last": last},
            )
    name, series = deciding
    if len(series) >= 4:
        sign = 1 if metric_name(name).higher_is_better else -1
        values = [sign * value for _, value in series]
        gain, whole = values[-1] - max(values[:-1]), max(values) - values[0]
        if gain > 0.02 * whole > 0:
            yield Finding(
                "still-improving",
                "info",
                f"the last evaluation was the best in {name}: training was still gaining",
                fix="Train longer: more train.epochs or train.steps.",
            )


def collapse(report: Report) -> Iterator[Finding]:
    """A classifier that gives nearly everything one label, or never some of them."""
    table = report.tables.get("Classes") or report.tables.get("Labels")
    if table is None or len(table.classes) < 2:
        return
    predicted, support = sum(row.predicted for row in table.classes), sum(row.support for row in table.classes)
    top = max(table.classes, key=lambda row: row.predicted)
    fix = (
        'task.class_weights = "balanced", train.metric = "macro_f1", a lower learning rate, or more records of the '
        "other labels."
    )
    if predicted and support and top.predicted >= 0.95 * predicted and top.support < 0.9 * support:
        yield Finding(
            "label-collapse",
            "error",
            f"{top.predicted / predicted:.0%} of the predictions are {top.name!r}, which {top.support / support:.0%} "
            "of the test records are",
            top.predicted,
            fix=fix,
        )
        return
    never = [row.name for row in table.classes if row.support >= 5 and not row.predicted]
    if never:
        shown = ", ".join(never[:8]) + (f" … ({len(never)} in all)" if len(never) > 8 else "")
        yield Finding("never-predicted", "warning", f"labels that are never predicted: {shown}", len(never), fix=fix)


def worth(report: Report) -> Iterator[Finding]:
    """What the report says against the run."""
    for verdict in verdicts(report):
        system = next(one for one in report.systems if one.name == verdict.other)
        if verdict.outcome == "worse" and verdict.certain:
            fix = "Use the cheap baseline, or give the network more data, a larger model or a search (gptwo tune)."
            if system.role == "before":
                fix = "The network was better before: lower the learning rate, and look at the training data."
            yield Finding("loses", "warning", verdict.text, fix=fix)
    for warning in report.warnings:
        yield Finding("doubtful-figures", "warning", warning, fix="Part the data anew, without common records.")


def dead_adapters(folder: Path) -> Iterator[Finding]:
    """Parts of an adapter that never left zero."""
    path = folder / "best" / "adapter_model.safetensors"
    if not path.is_file():
        return
    from safetensors.numpy import load_file

    zero = [name for name, tensor in load_file(path).items() if tensor.ndim > 1 and not np.any(tensor)]
    if zero:
        yield Finding(
            "dead-adapter",
            "error",
            f"{len(zero)} matrices of the adapter are all zero: they add nothing",
            len(zero),
            zero[:10],
            "Raise optimizer.learning_rate (adapters want ten times that of full tuning), and look at freeze.policy.",
        )


def _recipe_of(folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    return load_recipe(path, environment={}) if path.is_file() else Recipe()


def _report_of(folder: Path) -> Report | None:
    try:
        return read_report(folder)
    except GptwoError:
        return None


def _series(events: Sequence[Event], metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric at the evaluations; only numbers."""
    found = [
        (event["step"], _number(event.get("metrics") or {}, metric)) for event in events if event["kind"] == "eval"
    ]
    return [(step, value) for step, value in found if value is not None]


def _number(metrics: dict[str, Any], metric: str) -> float | None:
    value = metrics.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _deciding(events: Sequence[Event], recipe: Recipe) -> tuple[str, list[tuple[int, float]]]:
    """The metric that chose the best checkpoint, and its course."""
    named = [event["metric"] for event in events if event["kind"] == "eval" and event.get("metric")]
    name = named[-1] if named else recipe.train.metric or "loss"
    return name, _series(events, name)
