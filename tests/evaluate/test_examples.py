"""The examples in the documentation of the measurements run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["report", "assess", "baselines"])
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"gptwo.evaluate.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
