"""What every verb shares: where output goes, how errors end, how JSON is printed."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def console():
    """The Rich console of tables and progress: stderr, so that stdout stays machine-readable."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


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


def check_gate(report: Any, gate: str | None) -> None:
    """Hold a report against `--fail-under metric=value`.

    Raises:
        UsageError: not of that form, or the report has no such metric.
        GateError: the tuned model is worse (for losses: higher) than the value.
    """
    from gptwo.errors import GateError, UsageError, did_you_mean
    from gptwo.evaluate.metric_names import metric_name

    if gate is None:
        return
    name, _, limit = gate.partition("=")
    try:
        bound = float(limit)
    except ValueError as error:
        raise UsageError(f"{gate!r} is not metric=value.", where="--fail-under", fix="accuracy=0.9") from error
    value = report.tuned.value(name)
    if value is None:
        raise UsageError(
            f"The report has no metric {name!r}.", where="--fail-under", fix=did_you_mean(name, report.tuned.metrics)
        )
    higher = metric_name(name).higher_is_better
    if value < bound if higher else value > bound:
        raise GateError(f"{name} is {value:.4f}, {'below' if higher else 'above'} {bound}.", where="--fail-under")
