"""Tagging: every token of a sentence gets one tag, whatever its length, script or scheme."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.model.loss import IGNORE
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import encode_words
from gptwo.tasks.tag import Tag

SENTENCE = ["Anna", "lives", "in", "New", "York", "."]
TAGS = ["I-PER", "O", "O", "I-LOC", "I-LOC", "O"]


def fitted(record, sentences, **settings) -> Tag:
    task = Tag(**settings)
    task.fit([record(i, tokens=tokens, tags=tags) for i, (tokens, tags) in enumerate(sentences)])
    return task


def flat(pieces: list[list[int]]) -> list[int]:
    return [i for piece in pieces for i in piece]


# --- schemes


def test_iob1_is_learned_as_iob2(record):
    task = fitted(record, [(SENTENCE, TAGS), (["A", "B"], ["I-LOC", "B-LOC"])])
    assert (task.source_scheme, task.scheme) == ("IOB1", "IOB2")
    assert task.labels == ["O", "B-LOC", "B-PER", "I-LOC"]
    assert task.gold([record(tokens=SENTENCE, tags=TAGS)]) == [["B-PER", "O", "O", "B-LOC", "I-LOC", "O"]]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-PER", "O", "O", "B-LOC", "I-LOC", "O"], "IOB2"),
        (["S-PER", "O", "O", "B-LOC", "E-LOC", "O"], "BIOES"),
    ],
)
def test_other_schemes_stay_as_they_are(record, tags, scheme):
    task = fitted(record, [(SENTENCE, tags)])
    assert (task.source_scheme, task.scheme) == (scheme, scheme)
    assert task.gold([record(tokens=SENTENCE, tags=tags)]) == [tags]


def test_a_scheme_that_is_asked_for_is_made(record):
    task = fitted(record, [(SENTENCE, TAGS)], scheme="BIOES")
    assert task.labels == ["O", "B-LOC", "E-LOC", "S-PER"]


def test_habits_of_iob1_and_iob2_side_by_side_are_learned_as_iob2(record):
    task = fitted(record, [(["a", "b"], ["B-LOC", "O"]), (["a", "b"], ["I-LOC", "O"])])
    assert task.source_scheme == "mixed"
    assert task.labels == ["O", "B-LOC"]


def test_tags_that_mark_no_entities_have_no_entity_figures(record):
    task = fitted(record, [(["the", "cat"], ["DET", "NOUN"])])
    assert task.source_scheme is None
    assert task.figures == ("token_accuracy", "loss")
    assert task.labels == ["DET", "NOUN"]
    with pytest.raises(UsageError, match=r"cannot be converted to IOB2[\s\S]*DET, NOUN"):
        fitted(record, [(["the", "cat"], ["DET", "NOUN"])], scheme="IOB2")


def test_plain_tags_are_taken_as_they_are(record):
    task = fitted(record, [(SENTENCE, TAGS)], scheme="plain")
    assert task.labels == ["O", "I-LOC", "I-PER"]
    assert task.figures[0] == "token_accuracy"


def test_one_tag_is_too_few(record):
    with pytest.raises(DataError, match="needs two tags"):
        fitted(record, [(["a", "b"], ["O", "O"])])


def test_an_unknown_tag_and_a_missing_one_name_file_and_row(record, tokenizer):
    task = fitted(record, [(SENTENCE, TAGS)])
    with pytest.raises(DataError, match=r"'B-ORG' does not occur in the training data[\s\S]*data\.csv:9"):
        task.encode(record(9, tokens=["IBM"], tags=["I-ORG"]), tokenizer, 64)
    with pytest.raises(DataError, match=r"3 tokens and 2 tags[\s\S]*data\.csv:9"):
        task.encode(record(9, tokens=["a", "b", "c"], tags=["O", "O"]), tokenizer, 64)


# --- sentences as tokens


@pytest.mark.parametrize("context", ["both", "left"])
def test_the_label_stands_at_the_last_piece_of_its_word(record, tokenizer, context):
    task = fitted(record, [(SENTENCE, TAGS)], context=context)
    (example,) = task.encode(record(tokens=SENTENCE, tags=TAGS), tokenizer, 200)
    pieces = encode_words(tokenizer, SENTENCE)
    once = flat(pieces)
    assert list(example.ids) == (once + [tokenizer.end_id] + once if context == "both" else once)
    places = [i for i, label in enumerate(example.labels) if label != IGNORE]
    assert [example.labels[i] for i in places] == [task.labels.index(tag) for tag in task.gold([record(tags=TAGS)])[0]]
    offset = len(once) + 1 if context == "both" else 0
    ends = np.cumsum([len(piece) for piece in pieces]) - 1 + offset
    assert places == ends.tolist()


def test_a_bert_vocabulary_begins_with_its_start_token(record, chinese):
    task = fitted(record, [(["小", "明"], ["B-PER", "I-PER"])])
    (example,) = task.encode(record(tokens=["小", "明"], tags=["B-PER", "I-PER"]), chinese, 32)
    pair = chinese.encode("小明")
    assert list(example.ids) == [chinese.start_id, *pair, chinese.end_id, *pair]
    assert list(example.labels) == [IGNORE] * 4 + [0, 1]


def test_with_both_contexts_the_first_word_sees_the_last(record, tokenizer, network):
    """With the left context alone it cannot."""
    found = {}
    for context in ("both", "left"):
        task = Tag(["O", "B-X"], context=context)
        model = network("token", task.labels)
        tables = [
            task.probabilities(ModelRunner(model, tokenizer, 32), [record(tokens=words)])[0]
            for words in (["the", "cat", "sat"], ["the", "cat", "dog"])
        ]
        found[context] = np.allclose(tables[0][0], tables[1][0])
    assert found == {"both": False, "left": True}


@pytest.mark.parametrize("context", ["both", "left"])
@pytest.mark.parametrize("max_length", [3, 5, 8, 32])
def test_long_sentences_are_split_and_every_token_is_tagged_once(record, tokenizer, network, context, max_length):
    task = Tag(["O", "B-X", "I-X"], context=context)
    model = network("token", task.labels)
    words = ["the", "cat", "", "猫", "坐", "Donaudampfschifffahrtsgesellschaft", "sat", "on"] * 4
    given = [record(i, tokens=words[:count]) for i, count in enumerate((0, 1, 7, 32, 2))]
    for one in given:
        for example in task.encode(one, tokenizer, max_length, target=False):
            assert 1 <= len(example.ids) == len(example.labels) <= max_length
    said = task.predict(ModelRunner(model, tokenizer, max_length), given)
    assert [len(tags) for tags in said.labels] == [0, 1, 7, 32, 2]
    assert all(0 < confidence <= 1 for confidence in said.confidences)
    alone = [task.predict(ModelRunner(model, tokenizer, max_length), [one]).labels[0] for one in given]
    assert said.labels == alone


@pytest.mark.parametrize(("context", "seen"), [("both", 2), ("left", 5)])
def test_tags_of_a_long_sentence_are_given_with_words_around_them(record, tokenizer, context, seen):
    task = Tag(["O", "B-X"], context=context, stride=3)
    room = 8
    words = [f"{i % 10}" for i in range(20)]
    size = len(tokenizer.encode(words[0]))
    given = record(tokens=words, tags=["O"] * 20)
    examples = task.encode(given, tokenizer, room * size * (2 if context == "both" else 1) + 1)
    assert sum(label != IGNORE for example in examples for label in example.labels) == 20
    for example in examples[1:]:
        labels = list(example.labels)[-room * size :]
        assert min(i for i, label in enumerate(labels) if label != IGNORE) >= seen


def test_a_word_longer_than_the_room_is_cut_and_counted(record, tokenizer):
    task = Tag(["O", "B-X"], context="left")
    word = "Donaudampfschifffahrtsgesellschaft"
    (example,) = task.encode(record(tokens=[word], tags=["O"]), tokenizer, 4)
    assert len(example.ids) == 4
    assert example.truncated == len(tokenizer.encode(word)) - 4


def test_no_room_for_a_word_is_a_usage_error(record, tokenizer):
    with pytest.raises(UsageError, match="too few for a sentence"):
        Tag(["O", "B-X"]).encode(record(tokens=["the"], tags=["O"]), tokenizer, 2)


# --- loss and figures


@pytest.mark.parametrize("row_tokens", [None, 64])
def test_packed_and_padded_sentences_have_the_same_loss(record, tokenizer, network, row_tokens):
    given = [record(tokens=SENTENCE[:n], tags=TAGS[:n]) for n in (2, 6, 1, 4)]
    task = Tag()
    task.fit(given)
    model = network("token", task.labels)
    examples = [example for one in given for example in task.encode(one, tokenizer, 32)]
    alone = sum(task.loss(model, collate([example])) for example in examples)
    batch = collate(examples, row_tokens=row_tokens)
    torch.testing.assert_close(task.loss(model, batch), alone)
    assert task.count(batch) == 13


def test_the_loss_of_an_evaluation_is_that_of_training(record, tokenizer, network):
    given = [record(tokens=SENTENCE, tags=TAGS), record(tokens=SENTENCE[:2], tags=TAGS[:2])]
    task = Tag()
    task.fit(given)
    model = network("token", task.labels)
    batch = collate([example for one in given for example in task.encode(one, tokenizer, 32)])
    found = task.evaluate(ModelRunner(model, tokenizer, 32), given)
    assert set(found) == set(task.figures) == {"entity_f1", "token_accuracy", "loss"}
    assert found["loss"] == pytest.approx(float(task.loss(model, batch).detach()) / 8, rel=1e-4)


def test_a_batch_without_labels_has_no_loss(record, tokenizer, network):
    task = Tag(["O", "B-X"])
    (example,) = task.encode(record(tokens=["the"], tags=["O"]), tokenizer, 32)
    batch = collate([example])
    batch.labels.fill_(IGNORE)
    loss = task.loss(network("token", task.labels), batch)
    loss.backward()
    assert (float(loss.detach()), task.count(batch)) == (0.0, 0)
