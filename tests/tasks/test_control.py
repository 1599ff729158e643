"""Texts to order: what is ordered, and whether it is obeyed."""

from __future__ import annotations

import pytest

from gptwo.errors import DataError
from gptwo.tasks import restore_task
from gptwo.tasks.control import Control, controls_of, holds, literal_values, required_of, slot_errors
from gptwo.tasks.texts import Written

pytest.importorskip("sacrebleu")


@pytest.fixture
def given(record):
    """Names are repeated in the texts, moods are not."""
    texts = {"good": "{} is a lovely place", "bad": "{} is a dirty hole"}
    return [
        record(i, control={"name": name, "mood": mood}, text=texts[mood].format(name))
        for i, (name, mood) in enumerate(
            ((name, mood) for name in ("Aromi", "Zizzi", "Blue Spice") for mood in ("good", "bad") for _ in range(3)), 1
        )
    ]


def test_controls_in_every_shape(record):
    for shape in (
        {"name": "Aromi", "area": "centre"},
        '{"name": "Aromi", "area": "centre"}',
        "name[Aromi], area[centre]",
    ):
        assert controls_of(record(control=shape)) == {"name": "Aromi", "area": "centre"}
    assert controls_of(record(control="浣溪沙")) == {"control": "浣溪沙"}
    for wrong in ({}, {"name": ""}, "{not json"):
        with pytest.raises(DataError, match=r"data\.csv:4"):
            controls_of(record(4, control=wrong))


def test_the_prompt_names_the_controls(given, tokenizer):
    (example,) = Control(max_target=10).encode(given[0], tokenizer, 90)
    assert tokenizer.decode(example.ids).startswith("name: Aromi, mood: good\n=\nAromi is")


def test_values_that_texts_repeat_are_told_from_those_they_do_not(given):
    task = Control(max_target=10)
    task.fit(given)
    assert task.literal == {"name": ["Aromi", "Blue Spice", "Zizzi"]}
    assert task.judged == ["mood"]
    assert task.measures[:2] == ("slot_error", "control_accuracy")
    assert literal_values([{"a": "x"}], ["y"]) == {}
    again = restore_task(task.describe(), "language")
    assert again.literal == task.literal
    assert again.measures[0] == "slot_error"


def test_errors_of_slots():
    literal = {"name": ["Aromi", "Zizzi"], "near": ["Cafe Rouge"]}
    order = {"name": "Aromi"}
    assert slot_errors(order, "Aromi is nice.", literal) == (0, 1)
    assert slot_errors(order, "It is nice.", literal) == (1, 1)
    assert slot_errors(order, "Zizzi is nice.", literal) == (2, 1)
    assert slot_errors(order, "Aromi is near cafe rouge.", literal) == (1, 1)
    assert holds("in the centre.", "centre")
    assert not holds("centred", "centre")
    assert holds("《浣溪沙》词", "浣溪沙")


def test_obedient_and_disobedient_texts(given):
    task = Control(max_target=10)
    task.fit(given)
    obedient = task.measured(given, Written([one.fields["text"] for one in given]))
    assert obedient["slot_error"].value == 0
    assert obedient["control_accuracy"].value == 1
    assert obedient["bleu"].value == pytest.approx(100)
    same = task.measured(given, Written([given[0].fields["text"]] * len(given)))
    assert same["control_accuracy"].value == pytest.approx(0.5)
    assert same["slot_error"].value == pytest.approx(2 * 2 / 3)
    assert same["self_bleu"] == pytest.approx(1)
    assert same["distinct_1"] < obedient["distinct_1"]


def test_the_report_names_the_classifier_and_the_nearest_text(given):
    task = Control(max_target=10)
    task.fit(given)
    said = Written([one.fields["text"] for one in given])
    report = task.report("t", given, {"Tuned": said, **task.baselines(given, given)})
    assert report.primary == "slot_error"
    assert report.systems[1].name == "Nearest training text"
    assert report.systems[1].predictions == [one.fields["text"] for one in given]
    assert "of the real texts it reads 100.0 % right" in " ".join(report.notes)


def test_required_words_are_counted(record):
    asked = [record(control="x", text="y", required="cat, mat"), record(control="x", text="y", required=["dog"])]
    assert [required_of(one) for one in asked] == [["cat", "mat"], ["dog"]]
    found = Control().measured(asked, Written(["the cat sat", "a dog"]))
    assert found["required_words"].value == pytest.approx(2 / 3)
