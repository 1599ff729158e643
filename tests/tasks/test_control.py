"""Texts to order: what is ordered, and whether it is obeyed."""

from __future__ import annotations

import json

import pytest

from gptwo.errors import DataError, MissingError, UsageError
from gptwo.model.pretrained import create, save
from gptwo.tasks import restore_task
from gptwo.tasks.control import Control, controls_of, holds, literal_values, required_of, slot_errors
from gptwo.tasks.forms import is_form, keeps, metre
from gptwo.tasks.runner import ModelRunner
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
    assert "of the real texts 100.0 % are found right" in " ".join(report.notes)


def test_required_words_are_counted(record):
    asked = [record(control="x", text="y", required="cat, mat"), record(control="x", text="y", required=["dog"])]
    assert [required_of(one) for one in asked] == [["cat", "mat"], ["dog"]]
    found = Control().measured(asked, Written(["the cat sat", "a dog"]))
    assert found["required_words"].value == pytest.approx(2 / 3)


def test_required_words_are_written_where_the_task_is_told_to(record, network, tokenizer):
    model = network("language").eval()
    asked = [
        record(1, control="x", text="y", required="cat, mat"),
        record(2, control="w", text="y"),
        record(3, control="z", text="y", required=["dog"]),
    ]
    free, told = (Control(max_target=14, required=on) for on in (False, True))
    texts = [task.predict(ModelRunner(model, tokenizer, 31), asked).texts for task in (free, told)]
    assert told.measured(asked, Written(texts[1]))["required_words"].value == 1
    assert free.measured(asked, Written(texts[0]))["required_words"].value < 1
    assert texts[0][1] == texts[1][1]  # a record without such words is drawn as ever
    assert restore_task(told.describe(), "language").required
    with pytest.raises(DataError, match=r"data\.csv:9"):
        told.predict(ModelRunner(model, tokenizer, 31), [record(9, control="x", required="sat on the mat, " * 8)])


VERSE = {
    "五言绝句": "猫坐木头上，狗坐垫子上。\n猫狗木头狗，猫狗猫狗猫。",
    "七言绝句": "猫猫猫坐木头上，狗狗狗坐垫子上。\n猫猫狗狗木头狗，猫狗猫狗猫狗猫。",
}


def test_forms_of_verse_are_counted():
    assert metre(VERSE["七言绝句"]) == (7, 7, 7, 7)
    assert keeps(VERSE["五言绝句"], "五言绝句")
    assert keeps(VERSE["五言绝句"], "五言絕句")
    assert not keeps(VERSE["五言绝句"], "五言律诗")
    assert keeps(VERSE["五言绝句"] + VERSE["五言绝句"], "五言律诗")
    assert not keeps(VERSE["五言绝句"].replace("狗坐", "狗x"), "五言绝句")
    assert is_form("七言律詩")
    assert not is_form("浣溪沙")


def test_a_form_is_judged_by_its_lines(record):
    given = [
        record(i, control={"form": form, "title": str(i)}, text=text)
        for i, (form, text) in enumerate([*VERSE.items()] * 6, 1)
    ]
    task = Control(max_target=10)
    task.fit(given)
    assert (task.ruled, task.judged) == (["form"], [])
    kept = task.measured(given, Written([one.fields["text"] for one in given]))
    assert kept["control_accuracy"].value == 1
    same = task.measured(given, Written([VERSE["五言绝句"]] * len(given)))
    assert same["control_accuracy"].value == pytest.approx(0.5)
    again = restore_task(task.describe(), "language")  # the folder alone judges as well
    assert again.measured(given, Written([VERSE["五言绝句"]] * 12))["control_accuracy"].value == pytest.approx(0.5)
    assert "lines tell form" in " ".join(task.notes(given))


@pytest.fixture
def mood_judge(tokenizer, network, tmp_path):
    """The folder of a classifier that finds every text good."""
    from gptwo.model.config import GPT2Config

    config = GPT2Config(tokenizer.vocab_size, n_positions=32, n_embd=8, n_layer=1, n_head=1)
    made = create(config, tokenizer, head="sequence", labels=["bad", "good"])
    made.model.score.weight.data[1] = made.model.score.weight.data[0]
    made.info |= {"task": "classify", "max_length": 32}
    return str(save(made, tmp_path / "judge"))


def test_a_given_classifier_judges_its_control(given, mood_judge):
    from gptwo.tasks.judges import Judge

    task = Control(max_target=10, judges={"mood": mood_judge})
    task.fit(given)
    assert task.judged == []
    assert task.measures[:2] == ("slot_error", "control_accuracy")
    texts = [one.fields["text"] for one in given]
    said = Judge(mood_judge, ["good"], where="test")([*texts, ""]).labels
    right = sum(label == one.fields["control"]["mood"] for label, one in zip(said, given, strict=False))
    assert task.measured(given, Written(texts))["control_accuracy"].value == pytest.approx(right / len(given))
    assert f"the classifier {mood_judge} reads mood" in " ".join(task.notes(given))
    again = restore_task(json.loads(json.dumps(task.describe())), "language")
    assert again.judges == {"mood": mood_judge}
    assert again.measured(given, Written(texts))["control_accuracy"].value == pytest.approx(right / len(given))


def test_a_judge_that_does_not_fit_is_told_before_training(given, mood_judge, base_folder, record):
    with pytest.raises(UsageError, match="No record has the control 'style'"):
        Control(max_target=10, judges={"style": mood_judge}).fit(given)
    with pytest.raises(UsageError, match="does not know 'great'"):
        Control(judges={"mood": mood_judge}).fit([*given, record(99, control={"mood": "great"}, text="x")])
    with pytest.raises(UsageError, match="one label to a text"):
        Control(judges={"mood": str(base_folder)}).fit(given)
    with pytest.raises(MissingError):
        Control(judges={"mood": "/nowhere/at/all"}).fit(given)


def test_required_words_of_a_file_reach_a_tuned_model(base_folder, tmp_path):
    from gptwo.train.apply import predict
    from gptwo.train.finetune import finetune

    rows = [{"order": "x", "text": f"the {word} sat", "must": word} for word in ("cat", "dog", "log", "mat")] * 2
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    settings = {
        "data.columns": {"control": "order", "text": "text", "required": "must"},
        "task.required": True,
        "task.max_target": 12,
        "train.steps": 4,
        "train.threads": 1,
        "train.precision": "fp32",
        "track.trackers": ["events"],
    }
    run = finetune(
        base_folder, task="control", train=path, valid=path, test=path, out=tmp_path / "run", settings=settings
    )
    assert run.report.tuned.value("required_words") == 1
    said = predict(tmp_path / "run", path, precision="fp32")
    assert all(holds(one["text"], row["must"]) for one, row in zip(said, rows, strict=True))
