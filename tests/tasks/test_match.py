"""Pairs: one sequence of two texts, judged where both have been read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from gptwo.data.batching import collate
from gptwo.errors import DataError
from gptwo.evaluate.pairs import PairLogisticRegression, overlap
from gptwo.tasks.match import Match
from gptwo.tasks.runner import ModelRunner


@pytest.fixture
def pairs(record):
    """`pairs(("a", "b", "label"), …)`: records of data.csv from row 2 on."""
    return lambda *rows: [record(i, text_a=a, text_b=b, label=label) for i, (a, b, label) in enumerate(rows, start=2)]


def test_a_pair_is_both_texts_with_the_end_token_between(tokenizer, record):
    (example,) = Match(["0", "1"]).encode(record(text_a="the cat", text_b="the dog", label="1"), tokenizer, 32)
    assert example.ids == [*tokenizer.encode("the cat"), tokenizer.end_id, *tokenizer.encode("the dog")]
    assert (example.target, example.truncated) == (1, 0)


def test_of_a_pair_too_long_the_longer_text_is_cut_and_the_cut_is_counted(tokenizer, record):
    short, long = "the cat", "the dog sat on the log. " * 9
    for a, b in ((short, long), (long, short)):
        (example,) = Match(["0", "1"]).encode(record(text_a=a, text_b=b, label="0"), tokenizer, 20)
        assert len(example.ids) == 20
        assert example.truncated == len(tokenizer.encode(short)) + len(tokenizer.encode(long)) - 19
        kept = " ".join(map(str, example.ids))
        assert " ".join(map(str, tokenizer.encode(short))) in kept


def test_an_unknown_label_names_file_and_row(pairs, tokenizer):
    task = Match()
    task.fit(pairs(("a", "b", "yes"), ("a", "c", "no")))
    with pytest.raises(DataError, match=r"'yse' does not occur[\s\S]*data\.csv:2[\s\S]*'yes'"):
        task.encode(pairs(("a", "b", "yse"))[0], tokenizer, 32)


def test_a_prediction_does_not_depend_on_the_others(pairs, tokenizer, network):
    task = Match(["no", "yes", "perhaps"])
    model = network("sequence", task.labels)
    given = pairs(("the cat", "the dog", ""), ("", "the dog", ""), ("猫坐", "", ""), ("the cat " * 9, "a", ""))
    together = task.predict(ModelRunner(model, tokenizer, 20), given)
    for i, one in enumerate(given):
        alone = task.predict(ModelRunner(model, tokenizer, 20), [one])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[i], atol=1e-6)
    assert [row["text_a"] for row in task.rows(given, together)] == ["the cat", "", "猫坐", "the cat " * 9]


def test_the_order_of_the_texts_matters(pairs, tokenizer, network):
    task = Match(["no", "yes"])
    runner = ModelRunner(network("sequence", task.labels), tokenizer, 20)
    said = task.predict(runner, pairs(("cat", "dog", ""), ("dog", "cat", "")))
    assert not np.allclose(said.probabilities[0], said.probabilities[1])


@pytest.mark.parametrize("row_tokens", [None, 40])
def test_packed_and_padded_pairs_have_the_same_loss(pairs, tokenizer, network, row_tokens):
    task, given = Match(), pairs(("the cat", "the dog", "a"), ("猫", "the cat sat on", "b"), ("", "dog", "c"))
    task.fit(given)
    model = network("sequence", task.labels)
    examples = [task.encode(one, tokenizer, 32)[0] for one in given]
    alone = sum(task.loss(model, collate([example])) for example in examples)
    torch.testing.assert_close(task.loss(model, collate(examples, row_tokens=row_tokens)), alone)


def test_the_figures_are_those_of_scikit_learn(pairs, tokenizer, network):
    given = pairs(
        *((word, other, str(int(word == other))) for word in ("cat", "dog", "log") for other in ("cat", "mat"))
    )
    task = Match(positive="1")
    task.fit(given)
    model = network("sequence", task.labels)
    said = task.predict(ModelRunner(model, tokenizer, 32), given).labels
    found = task.evaluate(ModelRunner(model, tokenizer, 32), given)
    gold = task.gold(given)
    assert found["accuracy"] == np.mean([a == b for a, b in zip(gold, said, strict=True)])
    assert found["f1"] == pytest.approx(f1_score(gold, said, pos_label="1", zero_division=0))
    assert found["macro_f1"] == pytest.approx(f1_score(gold, said, average="macro", zero_division=0))


# --- the cheap opponent


def test_overlap_is_seen_by_the_baseline():
    words = ["red", "blue", "green", "white", "black", "brown", "grey", "pink", "gold", "lime", "teal", "navy"]
    train = [((f"{a} car", f"{b} car"), str(int(a == b))) for a in words[:8] for b in (a, words[words.index(a) + 1])]
    test = [(f"{a} car", f"{b} car") for a in words[9:11] for b in (a, words[words.index(a) + 1])]
    said = PairLogisticRegression().fit_predict([pair for pair, _ in train], [label for _, label in train], test)
    assert said.labels == ["1", "0", "1", "0"]  # the colours were never seen


def test_the_figures_of_overlap_do_not_need_a_known_word():
    assert overlap("猫坐", "猫") == pytest.approx([1 / 3, 1 / 3, 1, 2 / 4])
    assert overlap("the cat", "THE CAT!") == [1, 1, 1, 0]
    assert overlap("", "") == [0, 0, 0, 0]


def test_pairs_without_words_fall_back_to_the_majority():
    said = PairLogisticRegression().fit_predict([("", ""), ("", ""), ("", "")], ["a", "b", "b"], [("", "")])
    assert said.labels == ["b"]
