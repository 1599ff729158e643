"""Labels in an order and on paths: distances as scikit-learn has them, branches before leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from gptwo.data.batching import collate
from gptwo.errors import UsageError
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.ordinal import confusion_rows, path_rows, quadratic_kappa_of_sums
from gptwo.evaluate.statistics import f1_of_sums
from gptwo.recipe import TaskSection
from gptwo.tasks import make_task, restore_task
from gptwo.tasks.ordinal import Hierarchical, Ordinal
from gptwo.tasks.runner import ModelRunner

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40)


@given(pairs)
def test_the_quadratic_kappa_is_that_of_scikit_learn(rows):
    gold, said = zip(*rows, strict=True)
    wanted = cohen_kappa_score(gold, said, labels=range(4), weights="quadratic") if len(set(gold + said)) > 1 else 1.0
    found = quadratic_kappa_of_sums(4)(confusion_rows(gold, said, 4).sum(0, keepdims=True))[0]
    assert found == pytest.approx(wanted)


@pytest.fixture
def stars(record):
    return [record(i, text=f"the cat {i}", label=label) for i, label in enumerate((10, 1, 2, 3, 10, 2))]


def test_numbers_are_ordered_as_numbers(stars):
    task = Ordinal()
    task.fit(stars)
    assert task.labels == ["1", "2", "3", "10"]


def test_words_need_their_order(record):
    rows = [record(text="x", label=label) for label in ("low", "high", "middle")]
    with pytest.raises(UsageError, match=r"order of the labels[\s\S]*high, low, middle"):
        Ordinal().fit(rows)
    task = Ordinal(["low", "middle", "high"])
    task.fit(rows)
    assert task.places(["high", "low"]).tolist() == [2, 0]


def test_the_median_is_predicted():
    task = Ordinal(["1", "2", "3"])
    assert task.decide(np.array([[0.45, 0.1, 0.45], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7]])) == ["2", "1", "3"]


def test_the_figures_say_how_far_off(stars, tokenizer, network):
    task = Ordinal()
    task.fit(stars)
    said = Predictions(["10", "10", "2", "2", "3", "2"], np.full((6, 4), 0.25), task.labels)
    found = task.measure(task.gold(stars), said)
    assert set(found) == set(task.figures)
    assert found["mean_absolute_error"] == pytest.approx((0 + 3 + 0 + 1 + 1 + 0) / 6)
    model = network("sequence", task.labels)
    runner = ModelRunner(model, tokenizer, 32)
    measured = task.evaluate(runner, stars)
    report = task.report("stars", stars, {"Tuned": task.opinion(runner, stars), "Other": said})
    assert report.primary == "mean_absolute_error"
    assert report.systems[0].value("mean_absolute_error") == pytest.approx(measured["mean_absolute_error"])
    assert report.systems[0].value("quadratic_kappa") == pytest.approx(measured["quadratic_kappa"])
    assert report.to_dict()["verdicts"]


# --- paths

PATHS = ["sport/ball/tennis", "sport/ball/golf", "sport/chess", "money", "money/bank"]


def test_the_likeliest_branch_is_chosen_first():
    task = Hierarchical(PATHS)
    assert task.depth == 3
    table = np.array([[0.2, 0.15, 0.2, 0.4, 0.05], [0.1, 0.2, 0.25, 0.25, 0.2], [0.3, 0.0, 0.25, 0.1, 0.35]])
    assert task.decide(table) == ["sport/ball/tennis", "sport/ball/golf", "sport/ball/tennis"]


def test_the_steps_of_a_path_count():
    rows = path_rows(["a/b/c", "a/b", "a"], ["a/b/x", "y/b", "a"], "/")
    assert rows.tolist() == [[2, 3, 3], [0, 2, 2], [1, 1, 1]]
    assert f1_of_sums(rows.sum(0, keepdims=True))[0] == pytest.approx(2 * 3 / 12)


def test_the_loss_adds_the_branches(record, tokenizer, network):
    given_records = [record(i, text=f"the cat {i}", label=path) for i, path in enumerate(PATHS)]
    task = Hierarchical(PATHS)
    task.fit(given_records)
    model = network("sequence", PATHS)
    batch = collate([task.encode(one, tokenizer, 32, i)[0] for i, one in enumerate(given_records)])
    shares = task.scores(model, batch).softmax(1)
    wanted = 0.0
    for row, path in zip(shares, PATHS, strict=True):
        for level in (1, 2, 3):
            inside = [i for i, other in enumerate(PATHS) if task.branch(other, level) == task.branch(path, level)]
            wanted -= row[inside].sum().log()
    torch.testing.assert_close(task.loss(model, batch), wanted, atol=1e-4, rtol=1e-4)
    found = task.evaluate(ModelRunner(model, tokenizer, 32), given_records)
    assert set(found) == set(task.figures)
    said = task.opinion(ModelRunner(model, tokenizer, 32), given_records)
    report = task.report("paths", given_records, {"Tuned": said})
    assert report.tuned.value("hierarchical_f1") == pytest.approx(found["hierarchical_f1"])


@pytest.mark.parametrize(
    ("settings", "kind"), [({"ordinal": True, "labels": ["1", "2"]}, Ordinal), ({"hierarchy": "/"}, Hierarchical)]
)
def test_a_saved_model_knows_its_kind(settings, kind):
    task = make_task(TaskSection(name="classify", **settings))
    assert isinstance(task, kind)
    task.labels = ["1", "2"]
    again = restore_task({**task.describe(), "labels": ["1", "2"]}, "sequence")
    assert isinstance(again, kind)
    assert again.labels == ["1", "2"]
