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


def test_figures_that_are_means_are_cut_up_too():
    from gptwo.evaluate.means import assess_means

    values = [1.0] * 30 + [0.0, 0.5] * 15
    report = assess_means(
        title="t",
        task="rank",
        primary="mrr",
        measured={"Tuned": {"mrr": values}, "BM25": {"mrr": [0.5] * 60, "hits_1": [0] * 60}},
        texts=TEXTS,
        labels=["x"] * 20 + ["y"] * 40,
    )
    parts = {(row.kind, row.name): row.values for row in report.slices.rows}
    assert report.slices.metric == "mrr"
    assert parts["writing", CJK]["Tuned"].value == pytest.approx(0.25)
    assert parts["label", "x"]["BM25"].value == pytest.approx(0.5)
    assert assess_means(title="t", task="rank", primary="mrr", measured={"Tuned": {"mrr": values}}).slices is None


def test_figures_of_written_texts_are_cut_up_by_their_counts():
    pytest.importorskip("sacrebleu")
    from gptwo.evaluate.assess_text import Counted, assess_texts
    from gptwo.evaluate.text_metrics import bleu_counts, bleu_of_sums

    wanted = [[f"the number {n} is a good one"] for n in range(60)]
    said = [known[0] if n < 30 else f"the number {n} is bad" for n, known in enumerate(wanted)]
    counted = Counted(bleu_counts(said, wanted, "13a"), bleu_of_sums)
    report = assess_texts(
        title="t",
        task="translate",
        primary="bleu",
        figures={"Tuned": {"bleu": counted}, "Other": {"chrf": 3.0}},
        texts={"Tuned": said, "Other": said},
        sources=TEXTS,
        references=wanted,
    )
    parts = {row.name: row.values for row in report.slices.rows if row.kind == "writing"}
    assert parts[OTHER]["Tuned"].value == pytest.approx(100)
    assert parts[CJK]["Tuned"].value == pytest.approx(float(bleu_of_sums(counted.rows[30:].sum(0)[None])[0]))
    assert set(parts[CJK]) == {"Tuned"}
    assert report.slices.weakest("Tuned", counted.value)[0].name in (CJK, "from 12 characters")
