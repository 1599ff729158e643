"""From predictions to a whole report, for every shape of label."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from gptwo.errors import UsageError
from gptwo.evaluate import tagging
from gptwo.evaluate.assess import (
    Sampling,
    assess_classification,
    assess_language,
    assess_multilabel,
    assess_tagging,
)
from gptwo.evaluate.compression import Compression
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.report import Sample
from gptwo.evaluate.verdict import verdicts
from gptwo.evaluate.worst import join_tokens

FEW = Sampling(resamples=200)


def predictions(gold, classes, lift, seed=0):
    """Noisy probabilities that favour the gold class by `lift`."""
    generator = np.random.default_rng(seed)
    score = generator.normal(size=(len(gold), len(classes)))
    score[np.arange(len(gold)), [classes.index(label) for label in gold]] += lift
    chance = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    return Predictions([classes[k] for k in chance.argmax(1)], chance, classes)


def classification(classes, records=120, **options):
    generator = np.random.default_rng(1)
    gold = [classes[k] for k in generator.integers(len(classes), size=records)]
    systems = {
        "Before tuning": predictions(gold, classes, 0, 1),
        "Tuned": predictions(gold, classes, 3, 2),
        "Majority class": Predictions([classes[0]] * records),
        "TF-IDF + logistic regression": predictions(gold, classes, 1, 3),
    }
    texts = [f"text {n}" for n in range(records)]
    report = assess_classification(
        title="T", gold=gold, texts=texts, predictions=systems, labels=classes, sampling=FEW, **options
    )
    return gold, systems, report


@pytest.mark.parametrize("classes", [["neg", "pos"], [f"class {k}" for k in range(40)]])
def test_classification_report_agrees_with_scikit_learn(classes):
    gold, systems, report = classification(classes)
    for system in report.systems:
        said = systems[system.name]
        names = sorted({*gold, *said.labels})
        assert system.value("accuracy") == pytest.approx(reference.accuracy_score(gold, said.labels))
        wanted = reference.f1_score(gold, said.labels, labels=names, average="macro", zero_division=0)
        assert system.value("macro_f1") == pytest.approx(wanted)
        interval = system.metrics["accuracy"]
        assert interval.low <= interval.value <= interval.high
    assert report.tuned.name == "Tuned"
    assert report.best("accuracy").name == "Tuned"
    assert report.records == len(gold)
    assert [v.outcome for v in verdicts(report)] == ["better"] * 3
    assert sum(map(sum, report.confusion.counts)) == len(gold)


def test_binary_scores_are_of_the_named_class():
    gold, systems, report = classification(["neg", "pos"], positive="neg")
    said = systems["Tuned"]
    assert report.tuned.value("f1") == pytest.approx(reference.f1_score(gold, said.labels, pos_label="neg"))
    truth = [label == "neg" for label in gold]
    assert report.tuned.value("roc_auc") == pytest.approx(reference.roc_auc_score(truth, said.probabilities[:, 0]))
    assert any("'neg'" in note for note in report.notes)


def test_comparison_is_paired_on_the_same_records():
    gold, systems, report = classification(["a", "b", "c"])
    found = next(c for c in report.comparisons if c.other == "Majority class" and c.metric == "accuracy")
    ours = np.array(systems["Tuned"].labels) == np.array(gold)
    theirs = np.array(systems["Majority class"].labels) == np.array(gold)
    assert found.difference.value == pytest.approx(ours.mean() - theirs.mean())
    assert (found.only_system, found.only_other) == ((ours & ~theirs).sum(), (theirs & ~ours).sum())
    assert found.p_value < 0.001


def test_worst_examples_are_wrong_and_the_surest_first():
    sources = [("test.csv", n + 2) for n in range(120)]
    gold, _, report = classification(["a", "b", "c"], sources=sources)
    assert all(example.gold != example.predicted for example in report.worst)
    sure = [example.confidence for example in report.worst]
    assert sure == sorted(sure, reverse=True)
    example = report.worst[0]
    assert example.file == "test.csv"
    assert gold[example.row - 2] == example.gold


def test_a_label_only_a_prediction_uses_is_counted():
    report = assess_classification(
        title="T", gold=["a", "b"], texts=["x", "y"], predictions={"Tuned": Predictions(["a", "c"])}, labels=["a", "b"]
    )
    assert report.confusion.labels == ["a", "b", "c"]
    assert report.tuned.value("accuracy") == 0.5


def test_multilabel_report():
    labels = ["x", "y", "z"]
    generator = np.random.default_rng(0)
    truth = generator.random((80, 3)) < 0.4
    chance = np.clip(truth * 0.6 + generator.random((80, 3)) * 0.4, 0, 1)
    sets = [[labels[k] for k in np.flatnonzero(row)] for row in truth]
    said = Predictions([[labels[k] for k in np.flatnonzero(row >= 0.5)] for row in chance], chance, labels)
    systems = {"Tuned": said, "Majority class": Predictions([["x"]] * 80, np.tile([0.5, 0.4, 0.3], (80, 1)), labels)}
    report = assess_multilabel(title="T", gold=sets, texts=["t"] * 80, predictions=systems, sampling=FEW)
    guess = chance >= 0.5
    assert report.tuned.value("micro_f1") == pytest.approx(reference.f1_score(truth, guess, average="micro"))
    assert report.tuned.value("subset_accuracy") == pytest.approx(reference.accuracy_score(truth, guess))
    assert report.primary == "micro_f1"
    assert verdicts(report)[0].outcome == "better"
    assert report.confusion is None


def test_tagging_report_has_entities_and_tokens():
    gold = [["B-LOC", "I-LOC", "O", "B-PER"], ["O", "O"]] * 10
    good = [["B-LOC", "I-LOC", "O", "O"], ["O", "O"]] * 10
    texts = [["New", "York", "and", "Ann"], ["no", "name"]] * 10
    systems = {"Tuned": Predictions(good), "Most frequent tag": Predictions([["O"] * len(tags) for tags in gold])}
    report = assess_tagging(title="T", gold=gold, texts=texts, predictions=systems, sampling=FEW)
    assert report.tuned.value("entity_f1") == pytest.approx(2 / 3)
    assert report.tuned.value("entity_precision") == 1
    assert report.tuned.value("entity_recall") == 0.5
    assert [row.name for row in report.tables["Entities"].classes] == ["LOC", "PER"]
    assert [row.name for row in report.tables["Tokens"].classes] == ["B-LOC", "B-PER", "I-LOC", "O"]
    assert report.worst[0].text == "New York and Ann"
    assert report.worst[0].gold == "Ann [PER]"  # what was missed
    assert report.worst[0].predicted == "nothing"  # what was invented
    assert verdicts(report)[0].outcome == "better"
    assert tagging.detect_scheme(report.tuned.predictions) == "IOB2"


def test_tags_that_mark_no_entities_get_the_token_table_only():
    report = assess_tagging(
        title="T", gold=[["NN", "VB"]], texts=[["dogs", "bark"]], predictions={"Tuned": Predictions([["NN", "NN"]])}
    )
    assert report.primary == "token_accuracy"
    assert list(report.tables) == ["Tokens"]
    assert report.worst[0].gold == "bark [VB]"


def test_language_report_compares_with_compressors():
    report = assess_language(
        title="T",
        measured={
            "Before tuning": {"perplexity": 900.0, "bits_per_byte": 3.1},
            "Tuned": {"perplexity": 30.0, "bits_per_byte": 1.5},
        },
        opponents=[Compression("xz -9", 2400.0, 1000, "alone"), Compression("Kneser-Ney", 1400.0, 1000)],
        documents={"Before tuning": ([310, 620], [100, 200]), "Tuned": ([150, 300], [100, 200])},
        samples=[Sample("Once", " upon a time", "Tuned")],
        sampling=FEW,
    )
    outcome = {verdict.other: verdict.outcome for verdict in verdicts(report)}
    assert outcome == {"Kneser-Ney": "worse", "xz -9": "better", "Before tuning": "better"}
    assert report.tuned.value("bits_per_byte") == pytest.approx(1.5)
    assert verdicts(report)[0].text == (
        "Tuned LOSES to the cheap baseline Kneser-Ney by 0.100 bits per byte (1.500 against 1.400)."
    )


def test_the_tuned_system_must_be_there():
    with pytest.raises(UsageError, match="No system is called 'Tuned'"):
        assess_classification(title="T", gold=["a"], texts=["x"], predictions={"tuned": Predictions(["a"])})


def test_tokens_are_joined_as_their_script_is_written():
    assert join_tokens(["New", "York"]) == "New York"
    assert join_tokens(["我", "爱", "New", "York", "，", "是", "的"]) == "我爱 New York ，是的"
