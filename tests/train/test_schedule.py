"""Learning-rate schedules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.errors import UsageError
from gptwo.train.schedule import learning_rate_factor

NAMES = ("cosine", "linear", "wsd", "constant")


def curve(name, total=20, warmup=4, **given) -> list[float]:
    return [learning_rate_factor(step, total, name=name, warmup=warmup, **given) for step in range(total)]


@pytest.mark.parametrize("name", NAMES)
def test_the_warm_up_rises_evenly_from_above_zero_to_one(name):
    found = curve(name)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_each_shape_after_the_warm_up():
    assert curve("constant", warmup=0) == [1.0] * 20
    assert curve("linear", warmup=0)[10] == pytest.approx(0.5)
    assert curve("cosine", warmup=0)[10] == pytest.approx(0.5)
    assert curve("cosine", warmup=0)[5] > curve("linear", warmup=0)[5]
    wsd = curve("wsd", decay=0.25)
    assert wsd[4:16] == [1.0] * 12
    assert wsd[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_a_ramp_rises_by_the_same_factor_each_step():
    found = curve("ramp", warmup=0, floor=1e-6)
    assert (found[0], found[-1]) == pytest.approx((1e-6, 1.0))
    assert [b / a for a, b in pairwise(found)] == pytest.approx([10 ** (6 / 19)] * 19)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_the_floor_is_approached_and_never_undercut(name):
    found = curve(name, total=200, floor=0.1)
    assert min(found[4:]) >= 0.1
    assert found[-1] == pytest.approx(0.1, abs=0.05)


@given(
    name=st.sampled_from(NAMES),
    total=st.integers(1, 300),
    warmup=st.integers(0, 400),
    floor=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
def test_a_factor_is_in_0_to_1_and_falls_after_the_warm_up(name, total, warmup, floor, decay):
    found = curve(name, total, warmup, floor=floor, decay=decay)
    assert all(0 < factor <= 1 or (factor == 0 and floor == 0) for factor in found)
    after = found[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))


def test_an_unknown_name_is_a_usage_error():
    with pytest.raises(UsageError, match="no schedule 'cosin'"):
        learning_rate_factor(0, 1, name="cosin", warmup=0)  # type: ignore[arg-type]
