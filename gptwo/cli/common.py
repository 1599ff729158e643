"""What every verb shares: where output goes, how errors end, how JSON is printed."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def console():
    """The Rich console of tables and progress: stderr, so that stdout stays machine-readable."""
    from rich.console import Console

    # A file or a pipe has no width of its own: wide enough that no path is cut.
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 200)


def say(text: str) -> None:
    """Tell the person at the terminal: the text as it is, however long its paths."""
    console().print(text, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """Print one object on stdout, UTF-8, keys in the given order."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
    sys.stdout.flush()


def run(app) -> None:
    """Run a Typer app; turn our errors into one clear message and their exit code."""
    from gptwo.errors import GptwoError

    try:
        app()
    except GptwoError as error:
        if os.environ.get("GPTWO_DEBUG"):
            raise
        sys.stderr.write(f"gptwo: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        if os.environ.get("GPTWO_DEBUG") or error.strerror is None:
            raise
        where = f"\n  where: {error.filename}" if error.filename else ""
        sys.stderr.write(f"gptwo: {error.strerror}.{where}\n")
        sys.exit(1)


def begin(model: str, threads: int | None, *, example: str) -> None:
    """What a verb that applies a model begins with: it was told which one, and the process has its threads.

    Args:
        example: a command line that names a model.

    Raises:
        UsageError: no model was named.
    """
    from gptwo import runtime
    from gptwo.errors import UsageError

    if not model:
        raise UsageError("Which model?", where="--model", fix=example)
    runtime.set_threads(threads)


def choose_backend(name: str, model: str, device: str, precision: str, *, writes: bool = False) -> str:
    """What computes a model, "native" or "torch"; says so where it is not what was asked for.

    Args:
        writes: the model is to write texts.

    Raises:
        UsageError, MissingError: as `which.pick_backend`.
    """
    from gptwo.generate.which import pick_backend, pick_writer

    pick = pick_writer if writes else pick_backend
    chosen, why = pick(name, model, device, precision)
    if why is not None:
        sys.stderr.write(f"gptwo: notice: {why}\n")
    return chosen


def parse_columns(text: str | None) -> dict[str, str] | None:
    """`text=review,label=stars` as a map from our names to theirs.

    Raises:
        UsageError: a part without "=".
    """
    from gptwo.errors import UsageError

    if text is None:
        return None
    found = {}
    for part in text.split(","):
        ours, sign, theirs = part.partition("=")
        if not sign or not ours.strip() or not theirs.strip():
            raise UsageError(f"{part!r} is no pair.", where="--columns", fix="--columns text=review,label=stars")
        found[ours.strip()] = theirs.strip()
    return found


def parse_gate(text: str | None) -> tuple[str, float] | None:
    """`--fail-under metric=value`, read before the work begins.

    Raises:
        UsageError: not of that form, or no metric of that name.
    """
    from gptwo.errors import UsageError, did_you_mean
    from gptwo.evaluate.metric_names import METRICS

    if text is None:
        return None
    name, _, limit = text.partition("=")
    try:
        bound = float(limit)
    except ValueError as error:
        raise UsageError(f"{text!r} is not metric=value.", where="--fail-under", fix="accuracy=0.9") from error
    if name.partition("/")[0] not in METRICS:
        raise UsageError(f"There is no metric {name!r}.", where="--fail-under", fix=did_you_mean(name, METRICS))
    return name, bound


def check_gate(report: Any, gate: tuple[str, float] | None) -> None:
    """Hold a report against what `parse_gate` gave.

    Raises:
        UsageError: the report has no such metric.
        GateError: the tuned model is worse (for losses: higher) than the value.
    """
    from gptwo.errors import GateError, UsageError, did_you_mean
    from gptwo.evaluate.metric_names import metric_name

    if gate is None:
        return
    name, bound = gate
    value = report.tuned.value(name) if report.tuned else None
    if value is None:
        names = list(report.tuned.metrics) if report.tuned else []
        raise UsageError(f"The report has no value of {name!r}.", where="--fail-under", fix=did_you_mean(name, names))
    higher = metric_name(name).higher_is_better
    if value < bound if higher else value > bound:
        raise GateError(f"{name} is {value:.4f}, {'below' if higher else 'above'} {bound}.", where="--fail-under")
