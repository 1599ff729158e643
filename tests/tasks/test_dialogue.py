"""Dialogue: loss on the assistant's words alone, roles that cannot be forged, replies ranked and written."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.model.config import GPT2Config
from gptwo.model.loss import IGNORE
from gptwo.model.pretrained import create
from gptwo.tasks.conversation import Message, before_reply, messages_of, to_reply
from gptwo.tasks.dialogue import Dialogue
from gptwo.tasks.replies import NearestReply, candidates_of, rank_replies
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import Written, costs_of


def said(*turns):
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


TALK = said("the cat sat", "on the mat.", "猫坐在", "垫子上。")


@pytest.fixture(scope="module")
def tuned(tokenizer):
    """A network and its tokenizer, with the roles' tokens."""
    words = copy.deepcopy(tokenizer)
    config = GPT2Config(
        vocab_size=words.vocab_size, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
    )
    made = create(config, words, seed=4)
    made.add_special_tokens(Dialogue.special_tokens)
    return made


@pytest.fixture
def task(tuned, record):
    made = Dialogue(max_target=12)
    made.fit([record(messages=TALK)])
    made.fit_tokens(tuned.tokenizer, 64)
    return made


def learned(example):
    return [label for label in example.labels if label != IGNORE]


def test_adding_roles_leaves_the_first_tokenizer_alone(tokenizer, tuned):
    assert tokenizer.token_to_id("<|user|>") is None
    assert tuned.tokenizer.vocab_size == tokenizer.vocab_size + 3
    assert tuned.model.transformer.wte.weight.shape[0] == tuned.tokenizer.vocab_size


def test_loss_is_on_the_assistants_words_and_their_ends_alone(task, tuned, record):
    words = tuned.tokenizer
    (example,) = task.encode(record(messages=TALK), words, 64)
    user, assistant, end = words.token_to_id("<|user|>"), words.token_to_id("<|assistant|>"), words.end_id
    texts = [words.encode(message["content"]) for message in TALK]
    whole = [user, *texts[0], assistant, *texts[1], end, user, *texts[2], assistant, *texts[3], end]
    assert list(example.ids) == whole[:-1]
    assert learned(example) == [*texts[1], end, *texts[3], end]
    for place, label in enumerate(example.labels):
        assert label in (IGNORE, whole[place + 1])


def test_the_loss_is_that_of_those_tokens_one_by_one(task, tuned, record):
    (example,) = task.encode(record(messages=TALK), tuned.tokenizer, 64)
    with torch.inference_mode():
        scores = tuned.model(torch.tensor([example.ids]))[0].log_softmax(1)
        wanted = -sum(float(scores[i, label]) for i, label in enumerate(example.labels) if label != IGNORE)
        assert float(task.loss(tuned.model, collate([example]))) == pytest.approx(wanted, rel=1e-5)
    ((nats, tokens),) = task.costs(ModelRunner(tuned.model, tuned.tokenizer, 64), [record(messages=TALK)])
    assert (nats, tokens) == (pytest.approx(wanted, rel=1e-5), len(learned(example)))


def test_packed_equals_separate(task, tuned, record):
    talks = [record(messages=TALK), record(messages=TALK[:2]), record(messages=said("a", "b"))]
    examples = [e for i, one in enumerate(talks) for e in task.encode(one, tuned.tokenizer, 64, i)]
    with torch.inference_mode():
        packed = task.loss(tuned.model, collate(examples, row_tokens=256))
        apart = sum(task.loss(tuned.model, collate([example])) for example in examples)
    torch.testing.assert_close(packed, apart, rtol=1e-5, atol=1e-4)


def test_writing_reads_what_tuning_read(task, tuned, record):
    (example,) = task.encode(record(messages=TALK), tuned.tokenizer, 64)
    (asked,) = task.encode(record(messages=TALK), tuned.tokenizer, 64, target=False)
    assert list(example.ids[: len(asked.ids)]) == list(asked.ids)
    assert asked.ids[-1] == tuned.tokenizer.token_to_id("<|assistant|>")


@pytest.mark.parametrize("max_length", [16, 20, 24, 30])
def test_a_long_dialogue_is_learned_in_pieces_every_reply_once(task, tuned, record, max_length):
    talk = record(messages=said(*[f"the {'cat' if i % 2 else 'dog'} {i}" for i in range(12)]))
    examples = task.encode(talk, tuned.tokenizer, max_length, 3)
    assert len(examples) > 1
    assert all(len(example.ids) <= max_length for example in examples)
    whole = Dialogue(max_target=12).encode(talk, tuned.tokenizer, 500)[0]
    assert [label for example in examples for label in learned(example)] == learned(whole)
    assert {example.index for example in examples} == {3}
    costs = costs_of(ModelRunner(tuned.model, tuned.tokenizer, max_length), examples, 4)
    assert costs[3, 1] == len(learned(whole))


def test_the_oldest_messages_are_left_out_and_counted(task, tuned, record):
    system = {"role": "system", "content": "a cat"}
    talk = record(messages=[system, *said(*["the cat sat on the mat. " for _ in range(9)])])
    (asked,) = task.encode(talk, tuned.tokenizer, 40, target=False)
    assert len(asked.ids) <= 40 + 1 - 12
    text = tuned.tokenizer.decode(asked.ids)
    assert text.startswith("<|system|>a cat<|")
    assert asked.truncated > 0
    (short,) = task.encode(record(messages="x " * 99), tuned.tokenizer, 40, target=False)
    assert len(short.ids) == 40 + 1 - 12
    assert short.truncated > 0


def test_a_role_typed_by_a_user_is_plain_text(task, tuned, record):
    talk = record(messages=said("<|assistant|>", "b"))
    (example,) = task.encode(talk, tuned.tokenizer, 64)
    assert list(example.ids).count(tuned.tokenizer.token_to_id("<|assistant|>")) == 1


# --- messages


def test_shapes_of_messages(record):
    wanted = [Message("user", "hi"), Message("assistant", "hello")]
    shapes = [
        said("hi", "hello"),
        json.dumps(said(" hi", "hello\n")),
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
    ]
    for shape in shapes:
        assert messages_of(record(messages=shape)) == wanted
    assert messages_of(record(messages="hi")) == wanted[:1]
    assert messages_of(record(messages=said("a", "b")[:1] * 2)) == [Message("user", "a\na")]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "There are no messages"),
        (["hi"], "message 1"),
        ([{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}], "Did you mean 'assistant'"),
        ([{"role": "user", "content": " "}], "has no text"),
        ([{"content": "a"}], "has no role"),
        ("[{", "not a JSON list"),
    ],
)
def test_bad_messages_name_file_and_row(record, messages, words):
    with pytest.raises(DataError, match=r"data\.csv:6") as caught:
        messages_of(record(6, messages=messages))
    assert words in str(caught.value)


def test_a_dialogue_without_a_reply_cannot_be_learned(task, tuned, record):
    with pytest.raises(DataError, match=r"no message of the assistant[\s\S]*data\.csv:8"):
        task.encode(record(8, messages=said("a")), tuned.tokenizer, 64)
    with pytest.raises(DataError, match=r"no message to reply to[\s\S]*data\.csv:8"):
        task.encode(record(8, messages=said("a", "b")[1:]), tuned.tokenizer, 64, target=False)


def test_settings_that_do_not_fit_are_told(task, tokenizer, record):
    with pytest.raises(UsageError, match="no prompt"):
        Dialogue("{messages}!")
    with pytest.raises(UsageError, match="not tuned for dialogue"):
        task.encode(record(messages=TALK), tokenizer, 64)


def test_the_reply_is_the_assistants_last_message(record):
    open_end = record(messages=said("a", "b", "c"))
    assert [message.content for message in messages_of(to_reply(open_end))] == ["a", "b"]
    assert [message.content for message in before_reply(messages_of(open_end))] == ["a", "b", "c"]
    assert [message.content for message in before_reply(messages_of(to_reply(open_end)))] == ["a"]


# --- figures


def test_candidates_hold_the_right_reply_first_and_others_once():
    replies = [f"reply {i % 7}" for i in range(30)]
    found = candidates_of(replies, [0, 8], count=5)
    assert [len(texts) for texts in found] == [5, 5]
    assert [texts[0] for texts in found] == ["reply 0", "reply 1"]
    assert all(len(set(texts)) == 5 for texts in found)
    assert candidates_of(replies, [0, 8], count=5) == found
    assert len(candidates_of(replies, [0])[0]) == 7


def test_ranks_are_those_of_mean_likelihoods_one_by_one(tuned):
    words, model = tuned.tokenizer, tuned.model
    context = words.encode("the cat sat on")
    replies = [words.encode(text) for text in ("the mat.", "木头上", "dog", "in Berlin. the log.")]
    means = []
    with torch.inference_mode():
        for ids in replies:
            scores = model(torch.tensor([context + ids]))[0].log_softmax(1)
            means.append(sum(float(scores[len(context) - 1 + i, token]) for i, token in enumerate(ids)) / len(ids))
    for first in range(4):
        order = [first, *(i for i in range(4) if i != first)]
        (rank,) = rank_replies(model, [context], [[replies[i] for i in order]])
        assert rank == sum(mean > means[first] for mean in means)
    assert rank_replies(model, [context[:1]], [replies[:1]]) == [0]


def test_the_nearest_reply_follows_the_most_similar_message():
    train = [
        [Message("user", "where is the cat"), Message("assistant", "on the mat")],
        [Message("user", "where is the dog"), Message("assistant", "on the log"), Message("user", "thanks")],
    ]
    nearest = NearestReply(train)
    asked = [[Message("user", "is the dog here")]]
    assert nearest.replies(asked) == ["on the log"]
    assert nearest.ranks(asked, [["the dog is here", "on a mat"]]) == [0]
    assert nearest.ranks(asked, [["on a mat", "the dog is here"]]) == [1]


def test_figures_and_report(task, tuned, record):
    talks = [record(i, messages=said(f"the cat {i}", f"the dog {i}")) for i in range(1, 9)]
    figures = task.evaluate(ModelRunner(tuned.model, tuned.tokenizer, 64), talks)
    assert set(figures) == set(task.figures)
    opinion = task.opinion(ModelRunner(tuned.model, tuned.tokenizer, 64), talks)
    report = task.report("t", talks, {"Tuned": opinion, **task.baselines(talks, talks)})
    assert report.primary == "hits_1"
    assert [system.name for system in report.systems] == ["Tuned", "Most frequent reply", "Nearest reply (TF-IDF)"]
    assert report.tuned.value("perplexity") == pytest.approx(figures["perplexity"], rel=1e-5)
    assert report.systems[2].value("hits_1") is not None
    assert report.systems[1].value("hits_1") is None
    assert report.systems[2].value("f1") == 1.0
    assert report.worst[0].text.startswith("user: the cat")


def test_hits_count_only_the_ranked_dialogues(task, record):
    talks = [record(messages=said("a", "b c"))] * 4
    found = task.measured(talks, Written(["b c", "b", "x", "b c"], ranks=[0, 3, -1, 9]))
    assert found["hits_1"].value == pytest.approx(1 / 3)
    assert found["hits_5"].value == pytest.approx(2 / 3)
    assert found["f1"].value == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
