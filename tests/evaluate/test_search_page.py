"""The page of a search: complete, self-contained, every word from data escaped."""

from __future__ import annotations

import re

import pytest

from gptwo.evaluate.scatter import Dots, scatter_chart
from gptwo.evaluate.search_page import Trial, best_of, ranked, render_search, written

RATE, FREEZE = "optimizer.learning_rate", "freeze.policy"


def trial(number, state, value, rate=1e-4, freeze="all", **more):
    return Trial(number, state, value, {RATE: rate, FREEZE: freeze}, **more)


TRIALS = [
    trial(0, "finished", 0.7, 1e-5, evaluations=[0.5, 0.7], seconds=12.0),
    trial(1, "pruned", 0.6, 1e-3, "head", evaluations=[0.6]),
    trial(2, "finished", 0.9, 3e-4, evaluations=[0.8, 0.9], seconds=1500.0),
    trial(3, "failed", None, 1e-2, error="The loss is nan <b>.\n  where: step 3"),
    trial(4, "finished", 0.9, 2e-4),
    trial(5, "running", None),
]


def page(trials=TRIALS, metric="accuracy", **more):
    ranges = {RATE: True, FREEZE: ["all", "head"]}
    return render_search(
        "数据 & <b>", trials, metric=metric, ranges=ranges, importance=more.pop("importance", {}), **more
    )


def test_the_best_is_the_first_of_equals_and_none_that_was_pruned():
    assert best_of(TRIALS, "accuracy").number == 2
    assert best_of(TRIALS, "loss").number == 0
    assert best_of(TRIALS[1:2], "accuracy") is None
    assert [one.number for one in ranked(TRIALS, "accuracy")] == [2, 4, 0, 1, 5, 3]
    assert [one.number for one in ranked(TRIALS, "loss")] == [0, 2, 4, 1, 5, 3]


def test_the_page_shows_trials_curves_and_keys():
    text = page(importance={RATE: 0.75, FREEZE: 0.25}, notes=["begun <again>"])
    for words in ("accuracy, %: 90.0, in trial 2", "5 trials", "Importance", "History", "Keys"):
        assert words in text
    assert "optimizer.learning_rate = 0.0003" in text
    assert "width:75.0%" in text
    assert "数据 &amp; &lt;b&gt;" in text
    assert "The loss is nan &lt;b&gt;." in text
    assert "begun &lt;again&gt;" in text
    assert text.count("<circle") >= 3 * 3  # history, and one for each key
    for forbidden in ("<script", "http://", "https://", "<b>", 'nan"', 'inf"'):
        assert forbidden not in text, forbidden


@pytest.mark.parametrize("trials", [[], TRIALS[5:], TRIALS[:1], TRIALS[1:2], TRIALS[3:4]])
def test_a_search_that_has_only_begun_has_a_page_too(trials):
    assert "<html" in page(trials)


def test_values_are_written_as_in_a_recipe():
    assert [written(value) for value in (3e-4, 8, True, "all", ["a"])] == ["0.0003", "8", "true", "all", '["a"]']


def test_a_logarithmic_axis_is_named_by_powers():
    chart = scatter_chart([Dots("", [1e-6, 1e-2], [1.0, 2.0])], title="t", x_title="x", log=True)
    assert re.findall(r">(1e-\d)<", chart) == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2"]
    near = scatter_chart([Dots("", [1e-3], [1.0])], title="t", x_title="x", log=True)
    assert "1e-3" in near
    named = scatter_chart([Dots("", [0, 1], [1.0, 1.0])], title="t", x_title="x", names=["<all>", "head"])
    assert "&lt;all&gt;" in named
