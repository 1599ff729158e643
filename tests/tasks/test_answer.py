"""Answers in free words: several right ones, and none."""

from __future__ import annotations

import pytest

from gptwo.errors import DataError, UsageError
from gptwo.model.loss import IGNORE
from gptwo.tasks import restore_task
from gptwo.tasks.answer import Answer
from gptwo.tasks.texts import Written

ASKED = {"context": "Anna lives in Berlin.", "question": "Where does Anna live?"}


@pytest.fixture
def given(record):
    return [
        record(1, **ASKED, answers=["Berlin", "in Berlin"]),
        record(2, **ASKED, answers=[]),
        record(3, **ASKED, answers=["the cat"]),
    ]


def test_the_question_stays_whole_and_the_context_is_cut(record, tokenizer):
    task = Answer(max_target=5)
    long = record(context=ASKED["context"] * 9, question=ASKED["question"], answers=["Berlin"])
    (asked,) = task.encode(long, tokenizer, 60, target=False)
    text = tokenizer.decode(asked.ids)
    assert text.endswith(f"\nQ: {ASKED['question']}\nA:\n")
    assert text.startswith("Anna lives")
    assert asked.truncated > 0


def test_a_question_without_room_for_context_names_file_and_row(record, tokenizer):
    long = record(9, context="x", question="the cat sat on the mat. " * 9, answers=["y"])
    with pytest.raises(DataError, match=r"leaves none for the context[\s\S]*data\.csv:9"):
        Answer(max_target=5).encode(long, tokenizer, 60)


def test_no_answer_is_written_and_read_back_as_nothing(given, tokenizer):
    task = Answer(max_target=20)
    (example,) = task.encode(given[1], tokenizer, 120)
    learned = [label for label in example.labels if label != IGNORE]
    assert tokenizer.decode(learned, skip_special=True) == "unanswerable"
    assert task.finish(" Unanswerable. ") == ""
    assert task.finish(" Berlin ") == "Berlin"
    assert len(task.encode(given[0], tokenizer, 120)) == 2  # each right answer is learned


def test_figures_with_and_without_an_answer(given):
    task = Answer()
    found = task.measured(given, Written(["Berlin.", "", "a dog"]))
    assert {key: figure.value for key, figure in found.items()} == pytest.approx(
        {"f1": 2 / 3, "exact_match": 2 / 3, "f1/answerable": 1 / 2, "f1/unanswerable": 1}
    )
    assert "f1/answerable" not in task.measured(given[:1], Written(["x"]))


def test_the_report_compares_exact_matches_by_mcnemar(given):
    task = Answer(max_target=5)
    systems = {"Tuned": Written(["Berlin", "", "x"], ended=[True] * 3), **task.baselines(given * 2, given)}
    report = task.report("t", given, systems)
    assert report.primary == "f1"
    tests = {(one.other, one.metric): one.test for one in report.comparisons}
    assert tests["Most frequent answer", "exact_match"] == "exact McNemar"
    assert tests["Most frequent answer", "f1"] == "paired bootstrap"
    assert "1 of 3 questions have no answer" in " ".join(report.notes)
    assert [(one.row, one.gold) for one in report.worst] == [(3, "the cat")]


def test_the_most_frequent_answer_may_be_none(record):
    train = [record(**ASKED, answers=answers) for answers in ([], [], ["x"])]
    assert Answer().baselines(train, train[:1])["Most frequent answer"].texts == [""]


def test_sentences_of_the_context_answer_too(record):
    asked = {"context": "Anna lives in Berlin. The cat sleeps.", "question": "Where does Anna live?"}
    records = [record(**asked, answers=["Berlin"])]
    assert Answer().baselines(records, records)["BM25-best sentence"].texts == ["Anna lives in Berlin."]
    alone = Answer("Q: {question}\nA:\n").baselines(records, records)
    assert list(alone) == ["Most frequent answer"]


def test_chinese_answers_are_compared_by_character(record):
    asked = [record(context="小明住在北京。", question="小明住在哪里？", answers=["北京"])]
    found = Answer().measured(asked, Written(["北京市"]))
    assert found["f1"].value == pytest.approx(0.8)
    assert "CMRC" in " ".join(Answer().notes(asked))


@pytest.mark.parametrize("answers", [["Berlin", ""], ["Berlin", "unanswerable"]])
def test_an_empty_answer_among_others_names_file_and_row(record, answers):
    with pytest.raises(DataError, match=r"data\.csv:4"):
        Answer().references_of(record(4, **ASKED, answers=answers))


def test_settings_are_kept():
    task = Answer("{question}=", no_answer="没有答案")
    assert task.columns == ("question", "answers")
    again = restore_task(task.describe(), "language")
    assert isinstance(again, Answer)
    assert again.describe() == task.describe()
    assert again.finish("没有答案") == ""
    with pytest.raises(UsageError, match=r"task\.no_answer"):
        Answer(no_answer=" ")
