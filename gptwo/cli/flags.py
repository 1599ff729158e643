"""Flags that come together: a dataclass of options, which a verb takes as one argument.

A verb decorated with `flat` shows each field as a flag of its own, where the argument stands.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from gptwo.cli.options import (
    ColumnsOption,
    DeviceOption,
    EncodingOption,
    FormatOption,
    PrecisionOption,
    SeedOption,
    SetOption,
    ThreadsOption,
)


@dataclass(frozen=True)
class RecordFlags:
    """How files of records are read."""

    columns: ColumnsOption = None
    format: FormatOption = None
    encoding: EncodingOption = None

    def reading(self) -> dict[str, Any]:
        """The arguments of whatever reads records.

        Raises:
            UsageError: columns that cannot be read.
        """
        from gptwo.cli.common import parse_columns

        return {"columns": parse_columns(self.columns), "format": self.format, "encoding": self.encoding}

    def settings(self) -> dict[str, Any]:
        """The recipe keys behind them; raises as `reading`."""
        return {f"data.{name}": value for name, value in self.reading().items()}


@dataclass(frozen=True)
class RunFlags:
    """What every run of a recipe takes."""

    seed: SeedOption = None
    device: DeviceOption = None
    precision: PrecisionOption = None
    threads: ThreadsOption = None
    set_: SetOption = None

    def settings(self) -> dict[str, Any]:
        """The recipe keys behind them, those of `--set` last.

        Raises:
            UsageError: an assignment that cannot be read.
        """
        from gptwo.recipe import parse_assignments

        return {
            "train.seed": self.seed,
            "train.device": self.device,
            "train.precision": self.precision,
            "train.threads": self.threads,
            **parse_assignments(self.set_ or []),
        }


READ, RUN = RecordFlags(), RunFlags()  # the recipe says what is not given
ALONE = RecordFlags(encoding="utf-8-sig")  # without a recipe


def flat(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb as Typer reads it: a parameter that is a dataclass stands there flag by flag, with the fields of its
    default as their defaults."""
    signature = inspect.signature(verb, eval_str=True)
    groups: dict[str, Any] = {
        name: one.annotation for name, one in signature.parameters.items() if is_dataclass(one.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter)
            continue
        hints = get_type_hints(groups[name], include_extras=True)
        for one in fields(groups[name]):
            parameters.append(
                parameter.replace(
                    name=one.name, annotation=hints[one.name], default=getattr(parameter.default, one.name)
                )
            )

    @functools.wraps(verb)
    def flattened(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group)})
        verb(**given)

    vars(flattened)["__signature__"] = signature.replace(parameters=parameters)
    return flattened
