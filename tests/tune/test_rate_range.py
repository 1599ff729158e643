"""The range test: a rate that rises until the loss breaks, and a suggestion well below that."""

from __future__ import annotations

import json
import math

import pytest

from gptwo.errors import UsageError
from gptwo.tune.rate_range import find_rates, judge, render_rates


def course(lowest: float, low=1e-7, high=1.0, steps=140):
    """A loss that falls up to a rate and grows beyond it."""
    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    away = [math.log10(rate / lowest) for rate in rates]
    return rates, [1 + (0.1 * min(3, -x) if x < 0 else 4 * x) for x in away]


@pytest.mark.parametrize("lowest", [1e-4, 1e-3, 1e-2])
def test_the_suggestion_lies_below_the_lowest_loss(lowest):
    found = judge(*course(lowest))
    assert 0.8 * lowest <= found.lowest < 4 * lowest
    assert found.suggested == pytest.approx(found.lowest / 10)
    assert found.steepest < found.lowest
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 140  # what broke is left out
    page = render_rates(found, "a <model>")
    assert "a &lt;model&gt;" in page
    assert f"{found.suggested:.1e}" in page


def test_a_loss_that_only_grows_suggests_the_lowest_rate():
    rates, _ = course(1e-3)
    found = judge(rates, [1.0 + i for i in range(len(rates))])
    assert found.lowest == rates[0]
    assert "<html" in render_rates(found, "x")


def test_a_short_run_finds_a_rate(base_folder, labelled, tmp_path):
    given = {"train.threads": 1, "train.precision": "fp32", "track.trackers": ["events"], "train.batch_size": 4}
    out = tmp_path / "rates"
    found = find_rates(
        base_folder, task="classify", train=labelled / "train.jsonl", out=out, settings=given, steps=60, high=10.0
    )
    assert 1e-7 <= found.suggested < found.lowest <= 10
    assert json.loads((out / "rates.json").read_text()) == found.to_dict()
    assert sorted(path.name for path in out.iterdir()) == [
        "environment.json",
        "events.jsonl",
        "rates.html",
        "rates.json",
        "recipe.toml",
    ]
    with pytest.raises(UsageError, match="There is a run"):
        find_rates(base_folder, task="classify", train=labelled / "train.jsonl", out=out, settings=given)


def test_bounds_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="must rise"):
        find_rates("x", low=1e-3, high=1e-4, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
