"""The `gptwo` command: a table of verbs, each imported only when it is used, so that --help stays instant.

A verb lives in gptwo/cli/VERB.py as a function of the verb's name with Typer annotations; a verb with
verbs of its own (`gptwo data pack`) has one function for each. Its heavy imports stand inside the function.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gptwo import __version__
from gptwo.cli.common import run
from gptwo.errors import UsageError, did_you_mean

SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": "markdown",  # not "rich", which would swallow the [track] of gptwo[track]
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


@dataclass(frozen=True)
class Verb:
    """One line of the help: what the verb does and, for a verb with verbs of its own, theirs."""

    summary: str
    verbs: dict[str, str] = field(default_factory=dict)


VERBS: dict[str, Verb] = {
    "init": Verb("Write a commented recipe and a small example to start from."),
    "pretrain": Verb("Train a GPT-2 from scratch on text."),
    "finetune": Verb("Tune a model for a task and print the before/after report."),
    "tune": Verb("Search the ranges of a recipe for the best settings."),
    "augment": Verb("Write more labelled records, and measure whether they help."),
    "evaluate": Verb("Measure a model on a test set, beside cheap baselines."),
    "predict": Verb("Apply a tuned model to new records."),
    "generate": Verb("Continue a prompt."),
    "serve": Verb("Serve models over HTTP: OpenAI's interface, and the tasks they are tuned for."),
    "explain": Verb("Show how a model came to what it says of a text."),
    "merge": Verb("Work an adapter into a plain model, once that is shown to do the same."),
    "export": Verb("Write a model for onnxruntime, llama.cpp or transformers, once it is shown to agree."),
    "tokenizer": Verb(
        "Train a tokenizer, or look inside one.",
        {"train": "Train a byte-level BPE on text files.", "inspect": "Show how a text falls into tokens."},
    ),
    "data": Verb(
        "Turn files into training data, and look at it.",
        {
            "pack": "Turn text files into token shards on disk.",
            "show": "Show what lies in a folder of shards.",
            "records": "Show the records a task reads from a file, and the rejected rows.",
            "redact": "Copy files without the personal numbers in them.",
        },
    ),
    "doctor": Verb(
        "Look for what is wrong with data, a model or a run.",
        {
            "data": "Check a data set: labels, duplicates, leakage, truncation, encoding.",
            "model": "Check a model: does it load, does its tokenizer fit, are its weights numbers.",
            "run": "Check a run: its loss beside guessing, overfitting, divergence, collapse.",
        },
    ),
}


def load_verb(name: str) -> Any:
    """Import a verb's module and build its command.

    Args:
        name: a key of `VERBS`.
    """
    module = importlib.import_module(f"gptwo.cli.{name}")
    verb = VERBS[name]
    app = typer.Typer(help=verb.summary, no_args_is_help=bool(verb.verbs), **SETTINGS)
    for subverb in verb.verbs:
        app.command(subverb)(getattr(module, subverb))
    if verb.verbs:
        app.callback()(lambda: None)
    else:
        app.command(name)(getattr(module, name))
    command = typer.main.get_command(app)
    command.name = name
    return command


class LazyVerbs(TyperGroup):
    """A group that shows its verbs from the table and imports a verb's module only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that knows its one-line help, or None for an unknown name."""
        return TyperCommand(cmd_name, help=VERBS[cmd_name].summary) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in VERBS:
            raise UsageError(f"gptwo has no verb {name!r}.", fix=did_you_mean(name, VERBS))
        return name, load_verb(name), args[1:]


app = typer.Typer(
    cls=LazyVerbs,
    help="GPT-2, whole: pretrain it, fine-tune it for a task, measure it honestly, generate with it.",
    no_args_is_help=True,
    **SETTINGS,
)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gptwo {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["GPTWO_DEBUG"] = "1"


def main() -> None:
    """Entry point of the `gptwo` command; exit codes as in gptwo.errors."""
    run(app)
