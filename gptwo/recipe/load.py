"""Reading a recipe: defaults < TOML file < environment < flags; what is wrong is named by its key and its origin.

In the environment a key is written GPTWO__SECTION__KEY, e.g. GPTWO__TRAIN__SEED=3.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gptwo.errors import MissingError, UsageError, did_you_mean
from gptwo.recipe.recipe import Recipe, section_of

PREFIX = "GPTWO__"


def load_recipe(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Recipe:
    """Defaults < TOML file < environment < overrides.

    Args:
        file: a TOML file.
        overrides: dotted keys to values, as flags and `--set a.b=value` give them; None values are skipped.
        environment: variables to look into; None means os.environ.

    Raises:
        MissingError: no such file.
        UsageError: not TOML, an unknown key, or a value out of range; names the key and what is near it.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}  # "section.key" -> where its value was given last
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise MissingError("There is no such recipe.", where=path, fix="gptwo init classify --out recipe.toml")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError("The recipe is not valid TOML.", where=path, why=str(error)) from error
        _gather_ranges(values, f"{path}: search")
        _check_keys(values, lambda key: f"{path}: {key}")
        origins = {f"{section}.{key}": f"{path}: {section}.{key}" for section in values for key in values[section]}
    given = [
        (".".join(name[len(PREFIX) :].lower().split("__")), parse_value(text), name)
        for name, text in (os.environ if environment is None else environment).items()
        if name.startswith(PREFIX)
    ]
    given += [(key, value, key) for key, value in (overrides or {}).items() if value is not None]
    for key, value, where in given:
        origins[".".join(key.split(".")[:2])] = where
        _put(values, key, value, where)
    _gather_ranges(values, "search")
    _check_keys(values, lambda key: origins.get(key, key))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _misfit(error, origins) from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`--set` values, "a.b=value" each, as dotted keys to values.

    >>> parse_assignments(["train.steps=10", "task.labels=['a', 'b']", "model.base=gpt2"])
    {'train.steps': 10, 'task.labels': ['a', 'b'], 'model.base': 'gpt2'}
    """
    found = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set needs key=value, not {text!r}.", where="--set", fix="--set train.steps=100")
        found[key.strip()] = parse_value(value.strip())
    return found


def parse_value(text: str) -> Any:
    """A value as TOML writes it in one line; anything else is the text itself."""
    try:
        value = text if "\n" in text else tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str | list | dict) else text  # no key is a date


def _put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):  # --set task.class_weights.good=2 goes over class_weights = "balanced"
            inner = values[part] = {}
        values = inner
    if not path or not all(path) or not last:
        homes = _homes(key)
        fix = f"write {homes[0]}.{key}" if homes else "keys look like train.steps"
        raise UsageError(f"{key!r} is no key of a recipe.", where=where, fix=fix)
    values[last] = value


def _gather_ranges(values: dict[str, Any], where: str) -> None:
    """Put what [search] says of recipe keys, dotted or nested, into its `ranges`; each must be a key of a recipe."""
    search = values.get("search")
    if not isinstance(search, dict):
        return
    ranges: dict[str, Any] = {}
    given = search.pop("ranges", {})
    if not isinstance(given, Mapping):
        raise UsageError("search.ranges is a table of recipe keys.", where=where, fix='"train.batch_size" = [8, 16]')
    for key in [key for key in search if key.partition(".")[0] in Recipe.model_fields]:
        ranges |= _dotted(key, search.pop(key))
    for key, value in given.items():
        ranges |= _dotted(key, value)
    for key in ranges:
        section, _, name = key.partition(".")
        if section == "search" or not name:
            raise UsageError(f"{key!r} cannot be searched.", where=where, fix='"train.batch_size" = [8, 16]')
        _check_keys({section: {name.partition(".")[0]: None}}, lambda key: f"{where}: {key}")
    if ranges:
        search["ranges"] = ranges


def _dotted(key: str, value: Any) -> dict[str, Any]:
    """Nested tables as dotted keys, down to ranges and lists."""
    if not isinstance(value, Mapping) or "low" in value or "high" in value:
        return {key: value}
    return {name: found for inner, item in value.items() for name, found in _dotted(f"{key}.{inner}", item).items()}


def _check_keys(values: Mapping[str, Any], where: Callable[[str], str]) -> None:
    for section, content in values.items():
        if section not in Recipe.model_fields:
            raise UsageError(
                f"A recipe has no section {section!r}.",
                where=where(section),
                fix=_like(section, Recipe.model_fields),
            )
        if not isinstance(content, Mapping):
            raise UsageError(f"{section!r} is a section, not a value.", where=where(section), fix=f"write [{section}]")
        fields = section_of(Recipe.model_fields[section]).model_fields
        for key in content:
            if key not in fields:
                raise UsageError(
                    f"The section {section!r} has no key {key!r}.",
                    where=where(f"{section}.{key}"),
                    fix=_like(key, fields),
                )


def _like(key: str, choices: Mapping[str, Any]) -> str:
    """Did you mean; of a key that belongs into another section, which."""
    homes = _homes(key)
    return f"{key} belongs to [{homes[0]}]" if homes else did_you_mean(key, choices)


def _homes(key: str) -> list[str]:
    """The sections that have a key of that name."""
    return [section for section, field in Recipe.model_fields.items() if key in section_of(field).model_fields]


def _misfit(error: ValidationError, origins: Mapping[str, str]) -> UsageError:
    """One clear message: the first wrong key, what was given, what it may be."""
    faults = error.errors()
    key = ".".join(str(part) for part in faults[0]["loc"][:2])
    reasons = [fault["msg"] for fault in faults if ".".join(str(part) for part in fault["loc"][:2]) == key]
    return UsageError(
        f"The recipe's value {faults[0]['input']!r} does not fit {key}.",
        where=origins.get(key, key),
        why="; or ".join(dict.fromkeys(reasons)),
    )
