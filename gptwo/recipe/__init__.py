"""Recipes: everything a run does, as one checked table. Defaults < TOML file < environment < flags.

Each section is a pydantic model that forbids unknown keys; a field's description is its documentation and the help
of its flag.
"""

from gptwo.recipe.load import load_recipe, parse_assignments, parse_value
from gptwo.recipe.recipe import Recipe, commented_recipe, toml_value
from gptwo.recipe.sections import (
    AdapterSection,
    DataSection,
    FreezeSection,
    ModelSection,
    OptimizerSection,
    Range,
    ScheduleSection,
    SearchSection,
    Section,
    TaskSection,
    TrackSection,
    TrainSection,
)

__all__ = [
    "Recipe",
    "load_recipe",
    "commented_recipe",
    "parse_assignments",
    "parse_value",
    "toml_value",
    "ModelSection",
    "DataSection",
    "TaskSection",
    "TrainSection",
    "OptimizerSection",
    "ScheduleSection",
    "FreezeSection",
    "AdapterSection",
    "TrackSection",
    "SearchSection",
    "Range",
    "Section",
]
