"""Temperature scaling finds the temperature that was put in; a threshold keeps its promise where it was chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.evaluate.calibration import choose_threshold, fit_temperature, judge_threshold, tempered
from gptwo.evaluate.metrics import calibration


def draws(temperature: float, count: int = 4000, classes: int = 3, seed: int = 0):
    """Probabilities of a system that is too sure of itself by a temperature, and labels drawn from the true ones."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(count, classes)) * 2
    true = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = np.array([random.choice(classes, p=row) for row in true])
    said = np.exp(temperature * scores)
    return said / said.sum(1, keepdims=True), truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    said, truth = draws(temperature)
    found = fit_temperature(said, truth)
    assert found == pytest.approx(temperature, rel=0.1)
    before = calibration(said.max(1), said.argmax(1) == truth).ece
    mended = tempered(said, found)
    after = calibration(mended.max(1), mended.argmax(1) == truth).ece
    assert after < 0.03
    assert after <= before + 0.005


def test_several_labels_at_once():
    random = np.random.default_rng(1)
    scores = random.normal(size=(3000, 4))
    truth = random.random(scores.shape) < 1 / (1 + np.exp(-scores))
    said = 1 / (1 + np.exp(-2.5 * scores))
    assert fit_temperature(said, truth, independent=True) == pytest.approx(2.5, rel=0.1)
    assert tempered(said, 2.5, independent=True) == pytest.approx(1 / (1 + np.exp(-scores)))


def test_a_validation_set_without_an_error_keeps_the_temperature_finite():
    said = np.tile([0.99, 0.01], (30, 1))
    found = fit_temperature(said, np.zeros(30, dtype=int))
    assert 0.5 < found < 2


@given(
    rows=st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=8),
    temperature=st.floats(0.2, 5),
)
def test_a_temperature_keeps_the_order_and_can_be_taken_back(rows, temperature):
    scores = np.array(rows)
    said = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    changed = tempered(said, temperature)
    assert changed.sum(1) == pytest.approx(np.ones(len(said)))
    assert (said[np.arange(len(said)), changed.argmax(1)] >= said.max(1) - 1e-9).all()
    assert tempered(changed, 1 / temperature) == pytest.approx(said, abs=1e-4)
    assert tempered(said, 1.0) is said


def test_a_threshold_reaches_its_precision_with_the_most_records():
    sure = [0.9] * 20 + [0.7] * 20 + [0.5] * 20
    right = [True] * 20 + [True] * 15 + [False] * 5 + [False] * 20
    assert choose_threshold(sure, right, 1.0) == 0.9
    assert choose_threshold(sure, right, 0.85) == 0.7
    assert choose_threshold(sure, right, 0.5) == 0.0
    assert choose_threshold(sure, [False] * 60, 0.5) is None
    assert choose_threshold([0.9] * 5 + [0.1] * 5, [True] * 5 + [False] * 5, 0.9) is None  # too few above it
    found = judge_threshold(sure, right, 0.85, 0.7)
    assert (found.precision, found.coverage, found.records) == (pytest.approx(0.875), pytest.approx(2 / 3), 60)
    assert judge_threshold(sure, right, 0.9, None).coverage is None
    assert judge_threshold(sure, right, 0.9, 0.95).precision is None
