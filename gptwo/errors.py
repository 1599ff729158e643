"""The errors a user can meet: each says what happened, where, why, and how to fix it.

The class decides the exit code of the command line; the message is for a person and never a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType


class GptwoError(Exception):
    """Base of all errors of gptwo (exit code 1: failed while running).

    Args:
        what: what happened, in one sentence.
        where: the file, file:row, key path or flag it happened at.
        why: the reason, where it is not obvious from `what`.
        fix: the command, value or change that mends it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, why: str | None = None, fix: str | None = None):
        self.what, self.where, self.why, self.fix = what, where, why, fix
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if why:
            lines.append(f"  why:   {why}")
        if fix:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class UsageError(GptwoError):
    """A wrong flag, recipe key or value (exit code 2)."""

    exit_code = 2


class DataError(GptwoError):
    """Data that cannot be used as it is (exit code 3)."""

    exit_code = 3


class DivergedError(GptwoError):
    """Training whose loss, gradient or weights are numbers no more (exit code 3, as for a model whose scores are none).

    What was saved before stays as it is.
    """

    exit_code = 3


class MissingError(GptwoError):
    """A model, a file, an optional package or the network is missing (exit code 4)."""

    exit_code = 4


class GateError(GptwoError):
    """A quality gate failed (exit code 5)."""

    exit_code = 5


class Interrupted(GptwoError):
    """Stopped by the user; what was done so far is saved (exit code 130)."""

    exit_code = 130


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package, or raise `MissingError` with the line that installs it.

    Args:
        package: importable module name, e.g. "tensorboard".
        extra: the extra of gptwo that brings it, e.g. "track".
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingError(
            f"The optional package {package!r} is not installed.",
            why=str(error),
            fix=f'pip install "gptwo[{extra}]"',
        ) from error


def did_you_mean(word: str, choices: Iterable[object]) -> str:
    """A closing sentence with the nearest of `choices`, or the whole list where none is near."""
    import difflib

    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Choose one of: {', '.join(names)}." if names else "There is none to choose from."


def amount(count: int, noun: str) -> str:
    """A count with its noun.

    >>> amount(1, "record"), amount(2_000, "class"), amount(0, "entry")
    ('1 record', '2,000 classes', '0 entries')
    """
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"
