"""Intervals cover, seeds repeat, tests agree with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.evaluate import statistics
from gptwo.evaluate.metrics import class_table


def test_interval_of_a_mean_agrees_with_resampling_record_by_record():
    generator = np.random.default_rng(3)
    values = generator.integers(0, 2, size=200).astype(float)
    direct = values[generator.integers(200, size=(4000, 200))].mean(1)
    interval = statistics.bootstrap_mean(values, resamples=4000)
    assert interval.value == values.mean()
    assert [interval.low, interval.high] == pytest.approx(np.quantile(direct, [0.025, 0.975]), abs=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = statistics.bootstrap_mean(generator.random(120) < 0.8, resamples=400, seed=trial)
        covered += interval.low <= 0.8 <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


def test_equal_seeds_give_equal_intervals():
    values = np.arange(50) % 3
    first, again, other = (statistics.bootstrap_mean(values, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_many_distinct_values_take_the_direct_way_to_the_same_interval():
    values = np.random.default_rng(0).normal(size=6000)
    interval = statistics.bootstrap_mean(values, resamples=500)
    error = 1.96 * values.std() / np.sqrt(6000)
    assert [interval.low, interval.high] == pytest.approx([values.mean() - error, values.mean() + error], abs=0.005)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_f1_of_counts_equals_the_class_table(pairs):
    gold, predicted = np.array(pairs).T
    rows = np.array([[[(g == k) & (p == k), p == k, g == k] for k in range(4)] for g, p in pairs]).reshape(-1, 12)
    table = class_table(gold.tolist(), predicted.tolist())
    sums = rows.sum(0)[None]
    assert statistics.macro_f1_of_sums(sums)[0] == pytest.approx(table.average("macro").f1)
    assert statistics.f1_of_sums(sums)[0] == pytest.approx(table.average("micro").f1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_is_the_binomial_test(pairs):
    from scipy.stats import binomtest

    first, second = zip(*pairs, strict=True)
    only_first, only_second, p_value = statistics.mcnemar(first, second)
    assert only_first == sum(a and not b for a, b in pairs)
    if only_first + only_second:
        assert p_value == pytest.approx(binomtest(only_first, only_first + only_second).pvalue)
    else:
        assert p_value == 1.0


def test_paired_difference_is_tighter_than_the_two_intervals():
    generator = np.random.default_rng(0)
    other = generator.random(400) < 0.7
    ours = other | (generator.random(400) < 0.1)
    rows, other_rows = (np.stack([column, np.ones(400)], axis=1) for column in (ours, other))
    difference, p_value = statistics.paired_bootstrap(rows, statistics.share_of_sums, other_rows)
    assert difference.value == pytest.approx(ours.mean() - other.mean())
    assert 0 < difference.low < difference.value < difference.high
    alone = statistics.bootstrap_mean(ours)
    assert difference.high - difference.low < alone.high - alone.low
    assert p_value < 0.01


def test_a_system_compared_with_itself_does_not_differ():
    rows = np.stack([np.arange(30) % 2, np.ones(30)], axis=1)
    difference, p_value = statistics.paired_bootstrap(rows, statistics.share_of_sums, rows)
    assert (difference.value, difference.low, difference.high, p_value) == (0, 0, 0, 1)


def test_no_records_is_no_interval():
    interval = statistics.bootstrap_mean([])
    assert np.isnan(interval.value)
    assert interval.low is None
