"""Multiple choice: what is read, what is counted, zero-shot and tuned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.tasks.choice import TAIL, Choice, pieces_of, read_head, read_likelihood, softmax
from gptwo.tasks.runner import ModelRunner


@pytest.fixture
def questions(record):
    return [
        record(1, stem="the cat sat on the", choices=["mat.", "log.", "moon and the stars."], answer="log."),
        record(2, stem="Anna ___ in Berlin.", choices=["lives", "sat"], answer=0),
        record(3, stem="猫坐在___上，狗坐在木头上。", choices=["垫子", "木头", "狗", "the"], answer="3"),
    ]


# --- answers


@pytest.mark.parametrize(
    ("choices", "answer", "place"),
    [(["a", "b"], "b", 1), (["a", "b"], 1, 1), (["a", "b"], "0", 0), (["1", "0"], 1, 0), (["7", "8"], "1", 1)],
)
def test_an_answer_is_a_choice_or_its_place(record, choices, answer, place):
    assert Choice().answer_of(record(stem="s", choices=choices, answer=answer)) == place


@pytest.mark.parametrize(
    ("choices", "answer", "words"),
    [
        (["a", "b"], "2", "'2' is none of the 2 choices"),
        (["a", "b"], "-1", "'-1' is none"),
        (["lives", "sat"], "live", "Did you mean 'lives'"),
        (["a", "a", "b"], "a", "the choice 'a' twice"),
        (["a", " "], "a", "an empty choice"),
        (["a"], "a", "no choice"),
    ],
)
def test_records_that_make_no_sense_name_file_and_row(record, choices, answer, words):
    with pytest.raises(DataError) as caught:
        Choice().fit([record(9, stem="s", choices=choices, answer=answer)])
    assert words in str(caught.value)
    assert "data.csv:9" in str(caught.value)


# --- what is read


@pytest.mark.parametrize(
    ("stem", "choice", "text", "own"),
    [
        ("the cat sat", "on", "the cat sat on", " on"),
        ("the cat sat ", "on", "the cat sat on", " on"),
        ("Anna ___ in Berlin.", "lives", "Anna lives in Berlin.", " lives"),
        ("猫坐在", "垫子", "猫坐在垫子", "垫子"),
        ("___ sat", "the cat", "the cat sat", "the cat"),
    ],
)
def test_a_choice_stands_in_running_text(tokenizer, stem, choice, text, own):
    before, middle, after = pieces_of(tokenizer, stem, choice)
    assert before + middle + after == tokenizer.encode(text)
    assert own in tokenizer.decode(middle)
    reading = read_likelihood(tokenizer, stem, choice, 64)
    assert reading.ids == [tokenizer.end_id, *before, *middle, *after[:TAIL]]
    assert reading.first == 1 + len(before)


def test_a_filled_blank_is_told_again_to_a_head(tokenizer):
    reading = read_head(tokenizer, "Anna ___ in Berlin.", "lives", 64)
    assert reading.ids == [
        *(tokenizer.end_id, *tokenizer.encode("Anna lives in Berlin."), tokenizer.end_id),
        *tokenizer.encode("lives"),
    ]


def test_a_bert_vocabulary_begins_with_its_start_token(chinese):
    assert read_likelihood(chinese, "猫坐", "在", 32).ids == [chinese.start_id, *chinese.encode("猫坐在")]


@pytest.mark.parametrize("read", [read_head, read_likelihood])
def test_what_is_far_from_the_choice_is_cut(tokenizer, read):
    stem = "the cat sat on the mat. " * 9 + "Anna ___ in Berlin. " + "the dog sat on the log. " * 9
    whole = read(tokenizer, stem, "lives", 10_000)
    cut = read(tokenizer, stem, "lives", 24)
    assert len(cut.ids) == 24
    assert cut.truncated == len(whole.ids) - 24
    assert "lives" in tokenizer.decode(cut.ids[cut.first :])
    assert cut.ids[cut.first - 1] == whole.ids[whole.first - 1]


def test_a_choice_longer_than_the_room_is_cut(tokenizer):
    reading = read_likelihood(tokenizer, "the cat", "sat on the mat. " * 9, 8)
    assert (len(reading.ids), reading.first) == (8, 1)
    assert reading.truncated > 0
    with pytest.raises(UsageError, match="too few for a choice"):
        read_head(tokenizer, "a ___ b", "the cat sat", 3)


# --- scores


@pytest.mark.parametrize("score", ["head", "likelihood"])
@pytest.mark.parametrize("row_tokens", [None, 64])
def test_packed_and_padded_records_have_the_same_loss(questions, tokenizer, network, score, row_tokens):
    task = Choice(score)
    model = network(task.head, task.labels)
    examples = [task.encode(one, tokenizer, 32, i)[0] for i, one in enumerate(questions)]
    alone = sum(task.loss(model, collate([example])) for example in examples)
    batch = collate(examples, row_tokens=row_tokens)
    torch.testing.assert_close(task.loss(model, batch), alone, atol=1e-4, rtol=1e-4)
    assert task.count(batch) == 3
    found = task.evaluate(ModelRunner(model, tokenizer, 32), questions)
    assert set(found) == set(task.figures)
    assert found["loss"] == pytest.approx(float(alone.detach()) / 3, rel=1e-4)


@pytest.mark.parametrize("score", ["head", "likelihood"])
def test_a_record_does_not_depend_on_the_others(questions, tokenizer, network, score):
    task = Choice(score)
    model = network(task.head, task.labels)
    together = task.predict(ModelRunner(model, tokenizer, 32), questions)
    for one, scores in zip(questions, together, strict=True):
        np.testing.assert_allclose(task.predict(ModelRunner(model, tokenizer, 32), [one])[0], scores, atol=1e-4)


def test_the_likelihood_is_that_of_the_language_model(questions, tokenizer, network):
    task, model = Choice("likelihood"), network("language")
    (scores, *_) = task.predict(ModelRunner(model, tokenizer, 32), questions[:1])
    stem = [tokenizer.end_id, *tokenizer.encode("the cat sat on the")]
    for choice, score in zip(questions[0].fields["choices"], scores, strict=True):
        ids = [tokenizer.end_id, *tokenizer.encode(f"the cat sat on the {choice}")]
        assert ids[: len(stem)] == stem
        logp = model(torch.tensor([ids])).log_softmax(2)[0]
        each = [float(logp[t - 1, ids[t]]) for t in range(len(stem), len(ids))]
        assert score == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_untuned_means_zero_shot_with_the_language_head(questions, tokenizer, tied):
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.5}
    config = GPT2Config(tokenizer.vocab_size, **sizes, tie_word_embeddings=tied)
    base = create(config, tokenizer, seed=1).model
    start = create(config, tokenizer, head="sequence", labels=["score"], seed=2).model
    start.transformer.load_state_dict(base.transformer.state_dict())
    found = Choice("head").untuned(base, ModelRunner(start, tokenizer, 32), questions)
    wanted = Choice("likelihood").opinion(ModelRunner(base, tokenizer, 32), questions)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    again = Choice("head").untuned(start, ModelRunner(start, tokenizer, 32), questions)  # tuned for choices before
    np.testing.assert_allclose(again[0], Choice("head").opinion(ModelRunner(start, tokenizer, 32), questions)[0])


def test_predictions_name_the_choice_and_share_a_probability(questions, tokenizer, network):
    task = Choice("likelihood")
    said = task.predict(ModelRunner(network("language"), tokenizer, 32), questions)
    for row, one, scores in zip(task.rows(questions, said), questions, said, strict=True):
        assert row["answer"] == one.fields["choices"][row["place"]]
        assert row["place"] == scores.argmax()
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-3)
        assert row["probability"] == max(row["probabilities"]) == pytest.approx(softmax(scores).max(), abs=1e-4)


def test_the_cheap_opponents_choose_by_place_and_length(questions):
    found = Choice().baselines([questions[1], questions[1], questions[0]], questions)
    assert {name: [int(row.argmax()) for row in rows] for name, rows in found.items()} == {
        "Most frequent place": [0, 0, 0],
        "Longest choice": [2, 0, 3],
        "Shortest choice": [0, 1, 2],
    }
    report = Choice().report("choices", questions, {"Tuned": found["Longest choice"], **found})
    assert report.tuned.value("accuracy") == pytest.approx(2 / 3)
    assert [c.test for c in report.comparisons] == ["exact McNemar"] * 3
    assert [example.row for example in report.worst] == [1]
