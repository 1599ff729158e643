"""Classification: losses, weights, thresholds, texts too long, labels unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.tasks.classify import Classify
from gptwo.tasks.runner import ModelRunner


@pytest.fixture
def records(record):
    """`records("a b", "c")`: a record for each word list, the words being its labels."""

    def make(*labels):
        return [
            record(i, text=f"the cat {i}", label=label.split() if " " in label or not label else label)
            for i, label in enumerate(labels, start=2)
        ]

    return make


def batch_of(task, tokenizer, given, **settings):
    examples = [example for i, r in enumerate(given) for example in task.encode(r, tokenizer, 32, i)]
    return collate(examples, **settings)


# --- labels


def test_labels_are_those_of_the_training_records_sorted(records):
    task = Classify()
    task.fit(records("b", "a", "c", "a"))
    assert task.labels == ["a", "b", "c"]
    assert task.figures == ("accuracy", "macro_f1", "loss")


def test_labels_given_keep_their_order(records):
    task = Classify(["c", "a", "b"])
    task.fit(records("b", "a"))
    assert task.labels == ["c", "a", "b"]


@pytest.mark.parametrize("labels", [(), ("a",), ("a", "a")])
def test_one_label_is_too_few(records, labels):
    with pytest.raises(DataError, match="needs two labels"):
        Classify().fit(records(*labels))


def test_an_unknown_label_names_file_and_row(records, tokenizer):
    task = Classify()
    task.fit(records("positive", "negative"))
    with pytest.raises(DataError, match=r"'postive' does not occur in the training data.\n  where: data\.csv:2\n"):
        task.encode(records("postive")[0], tokenizer, 32)
    given = Classify(["positive", "negative"])
    given.fit(records("positive", "negative"))
    with pytest.raises(DataError, match=r"not among the model's labels[\s\S]*Did you mean 'positive'"):
        given.gold(records("postive"))


def test_labels_may_be_numbers_and_chinese(record, tokenizer):
    task = Classify()
    task.fit([record(text="x", label=1), record(text="y", label="好评")])
    assert task.labels == ["1", "好评"]
    assert task.encode(record(text="猫", label=1), tokenizer, 32)[0].target == 0


def test_several_labels_where_one_is_wanted_is_a_data_error(record, tokenizer):
    task = Classify(["a", "b"])
    with pytest.raises(DataError, match=r"2 labels[\s\S]*multi_label"):
        task.encode(record(text="x", label=["a", "b"]), tokenizer, 32)


@pytest.mark.parametrize(
    ("settings", "labels", "words"),
    [
        ({"positive": "yse"}, ("yes", "no"), "Did you mean 'yes'"),
        ({"positive": "yes"}, ("yes", "no", "maybe"), "Only one of two labels"),
        ({"positive": "yes", "multi_label": True}, ("yes", "no"), "Only one of two labels"),
        ({"threshold": 0.7}, ("a", "b", "c"), "without a threshold"),
        ({"class_weights": {"yse": 2.0}}, ("yes", "no"), "Did you mean 'yes'"),
        ({"class_weights": {"yes": -2.0}}, ("yes", "no"), "from 0 on"),
        ({"class_weights": {"yes": float("nan")}}, ("yes", "no"), "from 0 on"),
        ({"labels": ["yes", "no", "yes"]}, ("yes", "no"), "given twice"),
    ],
)
def test_settings_that_do_not_fit_the_labels_are_usage_errors(records, settings, labels, words):
    with pytest.raises(UsageError, match=words):
        Classify(**settings).fit(records(*labels))


# --- losses


def test_the_binary_loss_is_the_cross_entropy_of_the_positive_label(records, tokenizer, network):
    task, given = Classify(), records("no", "yes", "yes")
    task.fit(given)
    model, batch = network("sequence", task.labels), batch_of(Classify(["no", "yes"]), tokenizer, given)
    scores = task.scores(model, batch)
    targets = torch.tensor([0, 1, 1])
    torch.testing.assert_close(task.loss(model, batch), F.cross_entropy(scores, targets, reduction="sum"))
    torch.testing.assert_close(
        task.loss(model, batch, 0.2), F.cross_entropy(scores, targets, reduction="sum", label_smoothing=0.2)
    )
    assert task.count(batch) == 3


def test_the_loss_of_many_labels_is_the_cross_entropy(records, tokenizer, network):
    task, given = Classify(), records("a", "b", "c", "b")
    task.fit(given)
    model, batch = network("sequence", task.labels), batch_of(task, tokenizer, given)
    targets = torch.tensor([0, 1, 2, 1])
    wanted = F.cross_entropy(task.scores(model, batch), targets, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(task.loss(model, batch, 0.1), wanted)


def test_the_loss_of_several_labels_is_binary_for_each(records, tokenizer, network):
    task, given = Classify(multi_label=True), records("a b", "", "c", "b c")
    task.fit(given)
    model, batch = network("sequence", task.labels), batch_of(task, tokenizer, given)
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])
    assert batch.targets.tolist() == targets.tolist()
    wanted = F.binary_cross_entropy_with_logits(task.scores(model, batch), targets, reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), wanted)
    assert task.count(batch) == 12


def test_balanced_weights_give_every_label_the_same_share(records):
    task = Classify(class_weights="balanced")
    labels = ("a",) * 6 + ("b",) * 3 + ("c",)
    task.fit(records(*labels))
    shares = [float(weight) * labels.count(label) for label, weight in zip(task.labels, task.weights, strict=True)]
    assert shares == pytest.approx([10 / 3] * 3)


def test_a_label_without_records_does_not_spoil_balanced_weights(records):
    task = Classify(["a", "b", "never"], class_weights="balanced")
    task.fit(records("a", "a", "b"))
    assert task.weights.tolist() == pytest.approx([0.75, 1.5, 1.0])


@pytest.mark.parametrize("labels", [("a", "b", "a"), ("a", "b", "c", "a")])
def test_weights_weigh_the_mean(records, tokenizer, network, labels):
    task, given = Classify(class_weights={"a": 3.0}), records(*labels)
    task.fit(given)
    model, batch = network("sequence", task.labels), batch_of(task, tokenizer, given)
    weights = torch.tensor([3.0, 1.0, 1.0][: len(task.labels)])
    wanted = F.cross_entropy(task.scores(model, batch), batch.targets, weights)
    torch.testing.assert_close(task.loss(model, batch) / task.count(batch), wanted)


def test_weights_of_several_labels_weigh_each_label(records, tokenizer, network):
    task, given = Classify(multi_label=True, class_weights={"b": 5.0}), records("a b", "a")
    task.fit(given)
    model, batch = network("sequence", task.labels), batch_of(task, tokenizer, given)
    each = F.binary_cross_entropy_with_logits(task.scores(model, batch), batch.targets, reduction="none")
    torch.testing.assert_close(task.loss(model, batch), (each * torch.tensor([1.0, 5.0])).sum())


@pytest.mark.parametrize("row_tokens", [None, 40])
def test_packed_and_padded_records_have_the_same_loss(records, tokenizer, network, row_tokens):
    task, given = Classify(), records("a", "b", "c", "b", "a")
    given[1].fields["text"] = "the dog sat on the log and on the mat"
    task.fit(given)
    model = network("sequence", task.labels)
    alone = sum(task.loss(model, batch_of(task, tokenizer, [one])) for one in given)
    torch.testing.assert_close(task.loss(model, batch_of(task, tokenizer, given, row_tokens=row_tokens)), alone)


# --- texts


def test_an_empty_text_is_the_end_token(record, tokenizer, chinese):
    task = Classify(["a", "b"])
    assert task.encode(record(text="", label="a"), tokenizer, 32)[0].ids == [tokenizer.end_id]
    assert task.encode(record(text="", label="a"), chinese, 32)[0].ids == [chinese.start_id]


def test_a_bert_vocabulary_begins_with_its_start_token(record, chinese):
    (example,) = Classify(["a", "b"]).encode(record(text="猫坐", label="a"), chinese, 32)
    assert example.ids == [chinese.start_id, *chinese.encode("猫坐")]


def test_text_that_looks_like_a_special_token_is_text(record, tokenizer):
    (example,) = Classify(["a", "b"]).encode(record(text="<|endoftext|>", label="a"), tokenizer, 32)
    assert tokenizer.end_id not in example.ids


def test_a_long_text_keeps_head_and_tail_and_counts_what_is_cut(record, tokenizer):
    text = "the cat sat on the mat. " * 20
    whole = tokenizer.encode(text)
    (example,) = Classify(["a", "b"]).encode(record(text=text, label="a"), tokenizer, 9)
    assert list(example.ids) == whole[:5] + whole[-4:]
    assert example.truncated == len(whole) - 9


# --- predictions


def test_a_prediction_does_not_depend_on_the_others(record, tokenizer, network):
    task = Classify(["a", "b", "c"])
    model = network("sequence", task.labels)
    texts = ["the cat", "", "猫坐在垫子上" * 9, "a", "the dog sat on the log. " * 9, "the cat"]
    given = [record(i, text=text) for i, text in enumerate(texts)]
    together = task.predict(ModelRunner(model, tokenizer, 20), given)
    for i, one in enumerate(given):
        alone = task.predict(ModelRunner(model, tokenizer, 20), [one])
        assert alone.labels[0] == together.labels[i]
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[i], atol=1e-6)
    np.testing.assert_allclose(together.probabilities.sum(1), 1, atol=1e-6)


def test_no_records_give_no_predictions(tokenizer, network):
    task = Classify(["a", "b", "c"])
    assert task.predict(ModelRunner(network("sequence", task.labels), tokenizer, 20), []).labels == []


TABLE = np.array([[0.9, 0.1], [0.65, 0.35], [0.4, 0.6], [0.7, 0.3]])


@pytest.mark.parametrize(
    ("positive", "threshold", "wanted"),
    [
        (None, 0.5, "nnyn"),
        (None, 0.3, "nyyy"),
        ("y", 0.61, "nnnn"),
        ("n", 0.5, "nnyn"),
        ("n", 0.7, "nyyn"),
        ("n", 0.4, "nnnn"),
    ],
)
def test_the_positive_label_is_predicted_from_its_threshold_on(positive, threshold, wanted):
    task = Classify(["n", "y"], positive=positive, threshold=threshold)
    assert "".join(task.decide(TABLE)) == wanted


def test_several_labels_are_decided_each_by_itself():
    task = Classify(["a", "b", "c"], multi_label=True, threshold=0.4)
    assert task.decide(np.array([[0.5, 0.39, 0.4], [0.1, 0.2, 0.3]])) == [["a", "c"], []]


def test_the_figures_are_those_that_are_promised(records, tokenizer, network):
    for settings, labels in (
        ({}, ("a", "b", "c")),
        ({}, ("a", "b")),
        ({"multi_label": True}, ("a b", "c", "")),
        ({"multi_label": True}, ("a b", "b")),
    ):
        task, given = Classify(**settings), records(*labels)
        task.fit(given)
        model = network("sequence", task.labels)
        found = task.evaluate(ModelRunner(model, tokenizer, 32), given)
        assert set(found) == set(task.figures)
        assert all(np.isfinite(value) for value in found.values())


def test_the_loss_of_an_evaluation_is_that_of_training(records, tokenizer, network):
    for settings, labels in (({}, ("a", "b", "c", "b")), ({}, ("a", "b")), ({"multi_label": True}, ("a b", "c", ""))):
        task, given = Classify(**settings), records(*labels)
        task.fit(given)
        model, batch = network("sequence", task.labels), batch_of(task, tokenizer, given)
        found = task.evaluate(ModelRunner(model, tokenizer, 32), given)["loss"]
        assert found == pytest.approx(float(task.loss(model, batch).detach()) / task.count(batch), rel=1e-4)


def test_f1_is_that_of_the_positive_label(records, tokenizer, network):
    given = records("no", "yes", "yes", "no")
    for positive in ("yes", "no"):
        task = Classify(positive=positive)
        task.fit(given)
        model = network("sequence", task.labels)
        said = task.predict(ModelRunner(model, tokenizer, 32), given).labels
        gold = task.gold(given)
        hits = sum(a == b == positive for a, b in zip(said, gold, strict=True))
        wanted = 2 * hits / max(1, said.count(positive) + gold.count(positive))
        assert task.evaluate(ModelRunner(model, tokenizer, 32), given)["f1"] == pytest.approx(wanted)
