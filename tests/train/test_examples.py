"""The examples in docstrings of recipes, tasks, training and its data."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("recipe", "data.batching", "tasks.classify", "tasks.language", "tasks.tag", "train.schedule")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name):
    found = doctest.testmod(importlib.import_module(f"gptwo.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
