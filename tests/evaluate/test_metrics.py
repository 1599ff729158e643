"""The metrics agree with scikit-learn, number for number and character for character."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.preprocessing import MultiLabelBinarizer

from gptwo.errors import DataError
from gptwo.evaluate import metrics

LABELS = ["neg", "neutral", "pos", "中性", "out of scope, or a label with a very long name"]
single = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)
sets = st.frozensets(st.sampled_from(LABELS))
multiple = st.lists(st.tuples(sets, sets), min_size=1, max_size=20)


def report_of_scikit_learn(*arguments, **options):
    """Some versions print the support as a float where no prediction is right; it is a count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = reference.classification_report(*arguments, **options)
    return re.sub(r"(\d+)\.0\n", r"  \1\n", text)


@given(single, st.integers(0, 5))
def test_table_prints_as_scikit_learn_prints_it(same_table, pairs, digits):
    gold, predicted = zip(*pairs, strict=True)
    wanted = report_of_scikit_learn(gold, predicted, digits=digits)
    same_table(metrics.class_table(gold, predicted).text(digits), wanted, digits)


@given(single, st.lists(st.sampled_from(LABELS), min_size=1, unique=True))
def test_table_of_chosen_labels_prints_as_scikit_learn_prints_it(same_table, pairs, labels):
    gold, predicted = zip(*pairs, strict=True)
    if not set(labels) & set(gold):
        return  # scikit-learn refuses
    wanted = report_of_scikit_learn(gold, predicted, labels=labels)
    same_table(metrics.class_table(gold, predicted, labels=labels).text(), wanted, 2)


@given(multiple)
def test_multilabel_table_agrees_with_scikit_learn(same_table, pairs):
    gold, predicted = zip(*pairs, strict=True)
    names = sorted(set().union(*gold, *predicted))
    if len(names) < 2:
        return  # scikit-learn takes one column for a binary target
    binarizer = MultiLabelBinarizer(classes=names).fit([])
    truth, guess = binarizer.transform(gold), binarizer.transform(predicted)
    wanted = report_of_scikit_learn(truth, guess, target_names=names)
    same_table(metrics.multilabel_table(gold, predicted).text(), wanted, 2)
    assert metrics.accuracy(gold, predicted) == pytest.approx(reference.accuracy_score(truth, guess))


def test_table_keeps_micro_average_on_demand():
    table = metrics.class_table(["a", "b", "b"], ["a", "a", "b"])
    assert "accuracy" in table.text()
    text = table.text(4, accuracy_row=False)
    assert "accuracy" not in text
    assert "   micro avg     0.6667    0.6667    0.6667         3" in text


@given(single)
def test_table_survives_json(pairs):
    table = metrics.class_table(*zip(*pairs, strict=True))
    assert metrics.ClassTable.from_dict(table.to_dict()) == table


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(single)
def test_confusion_matrix_agrees_with_scikit_learn(pairs):
    gold, predicted = zip(*pairs, strict=True)
    matrix = metrics.confusion_matrix(gold, predicted)
    assert matrix.counts == reference.confusion_matrix(gold, predicted, labels=sorted({*gold, *predicted})).tolist()
    errors = sum(a != b for a, b in pairs)
    assert sum(count for _, _, count, _ in matrix.confusions(1000)) == errors


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=40))
def test_binary_scores_agree_with_scikit_learn(pairs):
    gold, score = zip(*pairs, strict=True)
    ours = metrics.binary_scores(gold, score, positive=True)
    guess = np.array(score) >= 0.5
    assert ours["f1"] == pytest.approx(reference.f1_score(gold, guess, zero_division=0))
    if len(set(gold)) == 2:
        assert ours["roc_auc"] == pytest.approx(reference.roc_auc_score(gold, score))
    else:
        assert math.isnan(ours["roc_auc"])


@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 1000))
def test_log_loss_agrees_with_scikit_learn(classes, records, seed):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), size=records) * 0.99 + 0.01 / classes
    names = [f"class {k}" for k in range(classes)]
    gold = [names[k] for k in generator.integers(classes, size=records)]
    wanted = reference.log_loss(gold, probabilities, labels=names)
    assert metrics.log_loss(gold, probabilities, names) == pytest.approx(wanted, rel=1e-6)


def test_certain_and_wrong_is_a_finite_loss():
    assert metrics.log_loss(["a"], [[0.0, 1.0]], ["a", "b"]) == pytest.approx(-math.log(1e-12))


def test_calibration_by_hand():
    # two bins of width 1/2: sure .3 and right 1 of 2; sure .9 and right 3 of 3
    result = metrics.calibration([0.2, 0.4, 0.9, 0.9, 0.9], [True, False, True, True, True], bins=2)
    assert [row.count for row in result.bins] == [2, 3]
    assert result.bins[0].confidence == pytest.approx(0.3)
    assert result.ece == pytest.approx(2 / 5 * 0.2 + 3 / 5 * 0.1)
    assert metrics.Calibration.from_dict(result.to_dict()) == result


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=50), st.integers(1, 20))
def test_every_record_is_in_one_bin_that_holds_its_confidence(pairs, bins):
    result = metrics.calibration([p for p, _ in pairs], [right for _, right in pairs], bins=bins)
    assert sum(row.count for row in result.bins) == len(pairs)
    assert all(row.lower - 1e-9 <= row.confidence <= row.upper + 1e-9 for row in result.bins if row.count)
    assert 0 <= result.ece <= 1


def test_unequal_lengths_and_unknown_labels_are_data_errors():
    with pytest.raises(DataError, match="2 predictions for 1"):
        metrics.class_table(["a"], ["a", "b"])
    with pytest.raises(DataError, match="Unknown label 'c'"):
        metrics.indicator([["c"]], ["a", "b"])
    with pytest.raises(DataError, match="shape"):
        metrics.log_loss(["a"], [[1.0]], ["a", "b"])
