"""Extraction: windows cover the context, spans come back as characters, no answer is an answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.model.loss import IGNORE
from gptwo.tasks.extract import Extract
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.windows import END, START, answers_of, span_loss, span_probe

CONTEXT = "Anna lives in Berlin. the cat sat on the mat. 猫坐在垫子上，狗坐在木头上。"


@pytest.fixture
def ask(record):
    """`ask("Berlin", row=2)`: a question whose answers are these texts."""

    def make(*answers, row=1, context=CONTEXT, question="where"):
        return record(row, context=context, question=question, answers=list(answers))

    return make


# --- answers


@pytest.mark.parametrize(
    "item",
    [
        "Berlin",
        {"text": "Berlin", "answer_start": 14},
        {"text": "Berlin", "start": 14},
        json.dumps({"text": "Berlin", "answer_start": 14}),
        json.dumps({"text": "Berlin"}),
    ],
)
def test_an_answer_may_be_written_in_several_ways(ask, item):
    (answer,) = answers_of(ask(item))
    assert (answer.text, answer.start) == ("Berlin", 14)


def test_an_empty_answer_is_none(ask):
    assert answers_of(ask()) == answers_of(ask("")) == answers_of(ask({"text": "", "answer_start": -1})) == []


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("Bonn", "does not occur"),
        ({"text": "Berlin", "answer_start": 13}, "stands at character 14"),
        ({"text": "Berlin", "answer_start": 900}, "at character 900"),
    ],
)
def test_a_span_that_is_not_in_its_context_names_file_and_row(ask, tokenizer, item, words):
    for call in (lambda one: Extract().fit([one]), lambda one: Extract().encode(one, tokenizer, 64)):
        with pytest.raises(DataError, match=r"is not in its context[\s\S]*data\.csv:7") as caught:
            call(ask(item, row=7))
        assert words in str(caught.value)


def test_no_answer_at_all_cannot_be_learned(ask):
    with pytest.raises(DataError, match="No training question has an answer"):
        Extract().fit([ask(), ask()])
    task = Extract()
    task.fit([ask("Berlin"), ask()])
    assert task.no_answer


# --- windows


@pytest.mark.parametrize("context", ["both", "left"])
def test_one_window_holds_question_and_context(ask, tokenizer, context):
    (example,) = Extract(context=context).encode(ask("Berlin"), tokenizer, 400)
    question, ids, end = tokenizer.encode("where"), tokenizer.encode(CONTEXT), tokenizer.end_id
    head = [*([*ids, end] if context == "both" else []), *question, end]
    assert list(example.ids) == [*head, *ids, end]
    assert list(example.labels[: len(head)]) == [IGNORE] * len(head)
    labels = np.array(example.labels[len(head) :])
    (first,), (last,) = np.flatnonzero(labels & START), np.flatnonzero(labels & END)
    assert tokenizer.decode(ids[first : last + 1]).strip() == "Berlin"
    assert labels[-1] == 0


def test_a_bert_vocabulary_begins_with_its_start_token(ask, chinese):
    (example,) = Extract(context="left").encode(ask("垫子", context="猫坐在垫子上", question="猫"), chinese, 32)
    assert list(example.ids) == [
        *(chinese.start_id, *chinese.encode("猫"), chinese.end_id, *chinese.encode("猫坐在垫子上"), chinese.end_id)
    ]


@pytest.mark.parametrize("context", ["both", "left"])
@pytest.mark.parametrize(("max_length", "stride"), [(24, None), (24, 1), (40, 3), (64, 900), (400, None)])
def test_windows_cover_the_context_and_fit(ask, tokenizer, context, max_length, stride):
    task = Extract(context=context, stride=stride)
    reading = task.read(ask("Berlin"), tokenizer, max_length)
    assert (reading.windows[0][0], reading.windows[-1][1]) == (0, len(reading.ids))
    for (_, end), (first, _) in zip(reading.windows, reading.windows[1:], strict=False):
        assert first <= end
    for example in task.encode(ask("Berlin"), tokenizer, max_length):
        assert len(example.ids) == len(example.labels) <= max_length
        marks = np.array([label for label in example.labels if label != IGNORE])
        assert ((marks & START) > 0).sum() == ((marks & END) > 0).sum() == 1


def test_an_answer_that_is_not_wholly_in_a_window_is_none_there(ask, tokenizer):
    task = Extract(context="left")
    examples = task.encode(ask("木头"), tokenizer, 24)
    nulls = [example.labels[-1] == START + END for example in examples]
    assert nulls.count(True) > 1
    assert nulls.count(False) >= 1


def test_a_long_question_is_cut_and_counted(ask, tokenizer):
    question = "where is the cat " * 20
    examples = Extract(context="left").encode(ask("Berlin", question=question), tokenizer, 48)
    assert sum(example.truncated for example in examples) == len(tokenizer.encode(question)) - 16
    with pytest.raises(UsageError, match="too few for a question"):
        Extract().encode(ask("Berlin"), tokenizer, 4)


@given(st.integers(0, len(CONTEXT) - 1), st.integers(1, 12))
def test_the_tokens_of_an_answer_are_its_characters(tokenizer, start, length):
    from gptwo.data.sources import Record

    text = CONTEXT[start : start + length]
    record = Record(
        {"context": CONTEXT, "question": "q", "answers": [{"text": text, "answer_start": start}]}, "data.csv", 1
    )
    known = answers_of(record)
    if not known:  # white space alone
        return
    reading = Extract().read(record, tokenizer, 400)
    found = reading.answer(CONTEXT, *reading.tokens_of(known[0]), 1.0)
    assert CONTEXT[found.start : found.start + len(found.text)] == found.text
    assert text.strip() in found.text


# --- loss


def test_the_loss_is_the_mean_of_two_cross_entropies():
    scores = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    scores[1, 3:] = float("-inf")
    labels = torch.tensor([[0, START, 0, END, 0], [START + END, 0, 0, -1, -1]])
    wanted = 0.0
    for row, size, start, end in ((0, 5, 1, 3), (1, 3, 0, 0)):
        part = scores[row, :size].T
        wanted += torch.nn.functional.cross_entropy(part, torch.tensor([start, end]), label_smoothing=0.1)
    torch.testing.assert_close(span_loss(scores, labels, 0.1), wanted)


@pytest.mark.parametrize("row_tokens", [None, 128])
@pytest.mark.parametrize("context", ["both", "left"])
def test_packed_and_padded_windows_have_the_same_loss(ask, tokenizer, network, row_tokens, context):
    task = Extract(context=context)
    given = [ask("Berlin"), ask(), ask("cat", context="the cat sat"), ask("木头")]
    task.fit(given)
    model = network("token", task.labels)
    examples = [example for i, one in enumerate(given) for example in task.encode(one, tokenizer, 32, i)]
    alone = sum(task.loss(model, collate([example])) for example in examples)
    batch = collate(examples, row_tokens=row_tokens)
    torch.testing.assert_close(task.loss(model, batch), alone, atol=1e-4, rtol=1e-4)
    assert task.count(batch) == len(examples) > 4
    found = task.evaluate(ModelRunner(model, tokenizer, 32), given)
    assert set(found) == set(task.figures)
    assert found["loss"] == pytest.approx(float(alone.detach()) / len(examples), rel=1e-4)


# --- answers out of scores


@pytest.mark.parametrize("context", ["both", "left"])
def test_an_answer_does_not_depend_on_the_other_questions(ask, tokenizer, network, context):
    task = Extract(context=context)
    model = network("token", task.labels)
    given = [ask(), ask(context="the cat"), ask(context=""), ask(question="who is the cat")]
    together = task.predict(ModelRunner(model, tokenizer, 32), given)
    for one, answer in zip(given, together, strict=True):
        (alone,) = task.predict(ModelRunner(model, tokenizer, 32), [one])
        assert (alone.text, alone.start) == (answer.text, answer.start)
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)
        text = one.fields["context"]
        assert text[answer.start : answer.start + len(answer.text)] == answer.text or not text
    assert task.rows(given, together)[2] == {"question": "where", "answer": "", "start": None, "probability": 1.0}


def test_the_window_in_which_a_span_stands_out_most_gives_the_answer(ask, tokenizer):
    task = Extract(context="left", answer_length=3)
    one = ask("Berlin")
    reading = task.read(one, tokenizer, 40)
    tables = []
    for first, end in reading.windows:
        table = np.full((end - first + 1, 2), -9.0)
        table[-1] = -0.1  # no answer here
        tables.append(table)
    place = len(reading.windows) - 1
    tables[place][1, 0] = tables[place][2, 1] = -0.2
    tables[place][-1] = -3.0
    tables[0][1, 0] = tables[0][5, 1] = -0.01  # sure, but longer than answers may be
    (answer,) = task.decode([one], [reading], tables)
    first = reading.windows[place][0]
    assert answer.start == reading.offsets[first + 1][0]
    assert answer.probability == pytest.approx(np.exp(-0.4))


def test_without_an_answer_the_threshold_decides(ask, tokenizer):
    one = ask("Berlin")
    for no_answer, threshold, odds, wanted in (
        (False, 0.5, -9.0, True),
        (True, 0.5, -1.0, False),
        (True, 0.8, -1.0, True),
        (True, 0.5, 1.0, True),
        (True, 0.2, 1.0, False),
    ):
        task = Extract(context="left", threshold=threshold)
        task.no_answer = no_answer
        reading = task.read(one, tokenizer, 400)
        table = np.full((len(reading.ids) + 1, 2), -50.0)
        table[3, 0] = odds
        table[3, 1] = table[-1, 0] = table[-1, 1] = 0.0
        (answer,) = task.decode([one], [reading], [table])
        assert bool(answer.text) == wanted, (no_answer, threshold, odds)


def test_the_report_counts_questions_without_an_answer(ask, tokenizer, network):
    given = [ask("Berlin"), ask(), ask("the cat")]
    task = Extract()
    task.fit(given)
    said = task.opinion(ModelRunner(network("token", task.labels), tokenizer, 32), given)
    report = task.report("answers", given, {"Tuned": said, **task.baselines(given, given)}, notes=["last"])
    assert [system.name for system in report.systems] == [
        "Tuned",
        "Most frequent kind of answer",
        "BM25-best sentence",
    ]
    assert report.primary == "f1"
    assert report.notes[0].startswith("1 of 3 test questions have no answer")
    assert report.notes[-1] == "last"


def test_the_probe_finds_answers_by_frozen_features(ask, network, tokenizer):
    names = ["Berlin", "Bonn", "Rome", "Paris"]
    rows = [ask(name, row=i, context=f"Anna {i} lives in {name}.") for i in range(10) for name in names]
    rows += [ask(row=i, context=f"the cat {i} sat") for i in range(10)]
    task = Extract(context="left")
    task.fit(rows)
    model = network("token", task.labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = task.probe(ModelRunner(model, tokenizer, 24), rows, rows[-14:])
    right = [answer.text == name for answer, name in zip(said, [*names, *[""] * 10], strict=True)]
    fresh = [answer.text for answer in task.predict(ModelRunner(model, tokenizer, 24), rows[-14:])]
    assert sum(right) >= 12
    assert sum(right) > sum(text == name for text, name in zip(fresh, [*names, *[""] * 10], strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_probe_is_the_least_of_the_penalised_loss():
    generator = torch.Generator().manual_seed(1)
    states = [torch.randn(size, 3, generator=generator) for size in (4, 6, 5)]
    labels = [torch.zeros(len(one), dtype=torch.long) for one in states]
    for one, (start, end) in zip(labels, [(0, 2), (3, 3), (1, 4)], strict=True):
        one[start] += START
        one[end] += END
    head = span_probe(states, labels)
    every = torch.cat(states)
    scaled = [(one - every.mean(0)) / every.std(0) for one in states]
    weight = torch.linalg.lstsq(torch.cat(scaled), head(every)).solution.requires_grad_()
    costs = [
        -((marks & mark > 0) * (one @ weight)[:, place].log_softmax(0)).sum()
        for one, marks in zip(scaled, labels, strict=True)
        for place, mark in enumerate((START, END))
    ]
    (sum(costs) + weight.square().sum() / 0.2).backward()
    assert weight.grad.abs().max() < 1e-2
