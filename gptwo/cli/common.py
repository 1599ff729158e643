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
    except KeyboardInterrupt:
        sys.stderr.write("gptwo: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
