"""Parts of a test set: each record in the right one, the figure of each part, the weak ones named."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.evaluate.report import plain
from gptwo.evaluate.slices import CJK, OTHER, Slices, by_label, by_length, cut_up
from gptwo.evaluate.statistics import share_of_sums

TEXTS = ["a short one"] * 30 + ["这是一个中文的句子，稍微长一点"] * 30


def found(right=None, **given) -> Slices:
    right = np.array([1] * 30 + [0, 1] * 15) if right is None else right
    rows = {"Tuned": np.stack([right, np.ones(60)], 1), "Other": np.ones((60, 2))}
    return cut_up("accuracy", rows, share_of_sums, texts=TEXTS, **given)


def test_the_figure_of_each_part():
    labels = ["x"] * 20 + ["y"] * 38 + ["z"] * 2
    slices = found(labels=labels)
    rows = {(row.kind, row.name): row for row in slices.rows}
    assert rows["writing", OTHER].values["Tuned"].value == 1.0
    assert rows["writing", CJK].values["Tuned"].value == 0.5
    assert rows["writing", CJK].values["Other"].value == 1.0
    assert rows["writing", CJK].records == 30
    assert rows["label", "y"].records == 38
    assert ("label", "z") not in rows  # too few
    weak = [row.name for row in slices.weakest("Tuned", 0.75)]
    assert weak[0] in (CJK, "from 12 characters")
    assert CJK in weak
    assert "x" not in weak
    assert slices.weakest("Other", 1.0) == []
    assert Slices.from_dict(plain(slices)) == slices


def test_a_small_test_set_or_one_of_a_kind_is_not_cut_up():
    rows = {"Tuned": np.ones((39, 2))}
    assert cut_up("accuracy", rows, share_of_sums, texts=["a"] * 39) is None
    rows = {"Tuned": np.ones((50, 2))}
    assert cut_up("accuracy", rows, share_of_sums, texts=["a"] * 50, labels=["x"] * 50) is None


def test_lengths_fall_into_four_parts_of_about_equal_size():
    names = by_length(["x" * n for n in range(1, 101)])
    assert [names.count(name) for name in dict.fromkeys(names)] == pytest.approx([25] * 4, abs=1)
    assert by_length([["a"], ["a", "b"]])[0].endswith("tokens")
    assert set(by_length(["ab"] * 9)) == {""}


def test_the_rarer_of_many_labels_are_left_out():
    labels = [f"label {i}" for i in range(20) for _ in range(20 - i)]
    kept = set(by_label(labels)) - {""}
    assert kept == {f"label {i}" for i in range(12)}
