"""The whole recipe, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

from gptwo.recipe.sections import (
    AdapterSection,
    DataSection,
    FreezeSection,
    ModelSection,
    OptimizerSection,
    ScheduleSection,
    SearchSection,
    Section,
    TaskSection,
    TrackSection,
    TrainSection,
)


class Recipe(Section):
    """Everything a run does. See the sections for their keys."""

    model: ModelSection = Field(default_factory=ModelSection)
    data: DataSection = Field(default_factory=DataSection)
    task: TaskSection = Field(default_factory=TaskSection)
    train: TrainSection = Field(default_factory=TrainSection)
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    freeze: FreezeSection = Field(default_factory=FreezeSection)
    adapter: AdapterSection = Field(default_factory=AdapterSection)
    track: TrackSection = Field(default_factory=TrackSection)
    search: SearchSection = Field(default_factory=SearchSection)

    def to_toml(self) -> str:
        """The recipe as TOML; keys without a value are left out, and [search] where there is nothing to search."""
        lines = []
        for section, values in self.model_dump(exclude_none=True).items():
            if section == "search" and not self.search.ranges:
                continue
            lines += [f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items()), ""]
        return "\n".join(lines)


def commented_recipe(values: Mapping[str, Mapping[str, Any]]) -> str:
    """A recipe to begin with: every key with its description; those without a value here are commented out.

    Args:
        values: section to keys that are set.
    """
    lines = []
    for section, field in Recipe.model_fields.items():
        chosen = values.get(section, {})
        lines.append(f"[{section}]")
        for key, info in section_of(field).model_fields.items():
            value = chosen.get(key, info.default)
            shown = '""' if value is None else toml_value(value)
            mark = "" if key in chosen else "# "
            lines.append(f"{f'{mark}{key} = {shown}':<44}  # {info.description}")
        lines.append("")
    return "\n".join(lines)


def section_of(field: FieldInfo) -> type[Section]:
    """The class of a section from its field in `Recipe`."""
    assert isinstance(field.annotation, type)
    return field.annotation


def toml_value(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_value(str(key))} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):  # JSON's escapes are TOML's; TOML also wants DEL escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
