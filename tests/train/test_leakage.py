"""Test records that stand in the training data are told, equal or nearly so; others are not."""

from __future__ import annotations

import random

import pytest

from gptwo.data.sources import Record
from gptwo.recipe import TaskSection
from gptwo.tasks import make_task
from gptwo.train.leakage import leakage, text_of
from gptwo.train.parts import Part

LONG = "a long enough text about the harbour and its ships in the winter, number"


def part(name, texts):
    return Part(
        name, [Record({"text": text, "label": "x"}, f"{name}.csv", i) for i, text in enumerate(texts, 2)], [], []
    )


def texts(seed, count=8):
    """Texts of random letters, so that those of different seeds share nothing."""
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnop ", k=60)) for _ in range(count)]


@pytest.fixture
def job():
    return make_task(TaskSection(name="classify"))


def test_common_records_are_told_with_their_places(job):
    train, test = texts(1), texts(7)
    assert (
        leakage({"train": part("train", train), "valid": part("valid", train), "test": part("test", test)}, job) == []
    )
    (told,) = leakage({"train": part("train", train), "test": part("test", [*test, train[3].upper()])}, job)
    assert "1 test record (11.1%) stand" in told
    assert "test.csv:10" in told
    (told,) = leakage({"train": part("train", [*train, LONG]), "test": part("test", [*test, f"{LONG} 2"])}, job)
    assert "nearly stand" in told
    assert "test.csv:10 ~ train.csv:10" in told


def test_without_test_data_the_validation_data_are_compared(job):
    train = texts(1)
    (told,) = leakage({"train": part("train", train), "valid": part("valid", train[:2])}, job)
    assert "2 valid records" in told


def test_what_a_task_reads_is_its_text():
    tag = make_task(TaskSection(name="tag"))
    assert text_of(Record({"tokens": ["a", "b"], "tags": ["O", "O"]}, "f", 1), tag) == "a b"
    match = make_task(TaskSection(name="match"))
    assert text_of(Record({"text_a": "x", "text_b": "y", "label": "1"}, "f", 1), match) == "x\ny"
    language = make_task(TaskSection(name="language"))
    assert text_of(Record({"text": "x"}, "f", 1), language) == "x"
