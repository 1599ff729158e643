"""More records out of few: nothing is a copy, every text says where it is from, and the measurement compares fairly."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

import numpy as np
import pytest

from gptwo.cli.common import run as run_command
from gptwo.cli.main import app
from gptwo.data.swaps import swap_words
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.report import read_report
from gptwo.train.augment import Wish, augment
from gptwo.train.augment_measure import (
    FIGURES,
    WAYS,
    WRITTEN,
    change_text,
    measure_augmentation,
    report_of,
    some_of_each,
    swapped,
)
from gptwo.train.finetune import finetune
from gptwo.train.sift import Candidate, judge_of_model, reasons, sift

THINGS = ("mat", "log", "tree", "bird", "old tree", "cat", "dog", "old log")
ROWS = [{"text": f"{start} {thing}.", "label": label} for label, start in (("sat", "the cat sat on the"),
        ("sang", "a bird sang in the")) for thing in THINGS]  # fmt: skip
WRITER = {
    "task.prompt": "{label}\n",
    "task.decode": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 24},
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "train.steps": 150,
    "train.evaluate_every": 150,
    "optimizer.learning_rate": 1e-2,
    "track.trackers": ["events"],
    "model.dropout": 0.0,
}


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judge_by_word(texts):
    """Sure of a label whose word stands in the text."""
    table = np.array([[0.9, 0.1] if "sang" in text else [0.2, 0.8] if "sat" in text else [0.5, 0.5] for text in texts])
    return Predictions([("sang", "sat")[i] for i in table.argmax(1)], table, ["sang", "sat"])


def candidates(*pairs, ended=True):
    return [Candidate(text, label, 0, place, ended=ended) for place, (text, label) in enumerate(pairs)]


# --- choosing


def test_a_candidate_is_kept_or_told_why_not():
    asked = candidates(
        ("The cat  sat on the mat.", "sat"),
        ("a secret that sat there", "sat"),
        ("the dog sat under the tree all day", "sat"),
        ("the dog sat under the tree all day", "sat"),
        ("a bird sang to the dog", "sat"),
        ("nothing to hear, nothing at all", "sang"),
        (" ", "sat"),
        ("my aunt sang in the kitchen yesterday", "sang"),
    )
    kept = sift(
        asked,
        judge=judge_by_word,
        confidence=0.6,
        known=["the cat sat on the mat."],
        held_out=["A secret that sat there"],
    )
    assert [one.text for one in kept] == [asked[7].text, asked[2].text]  # the surest first
    assert [one.refused for one in asked] == [
        "a copy of a text that is there",
        "in the test data",
        "",
        "written twice",
        "judged to be of another label",
        "not sure enough",
        "empty",
        "",
    ]
    assert kept[0].confidence == pytest.approx(0.9)
    assert reasons(asked)["written twice"] == 1


def test_nearly_equal_texts_are_one_text_and_the_surest_stays():
    long = "the old dog sat under the tall tree by the river all day long"
    asked = candidates(
        (f"{long}!", "sat"), (f"{long} and sang", "sang"), ("a cat sat on a very different thing", "sat")
    )
    kept = sift(asked, judge=judge_by_word, confidence=0, known=[])
    assert [one.text for one in kept] == [asked[1].text, asked[2].text]
    assert asked[0].refused == "nearly a text that is there"
    again = candidates((f"{long}?", "sat"))
    assert sift(again, judge=judge_by_word, confidence=0, known=[long]) == []


def test_a_text_without_an_end_is_not_kept():
    asked = candidates(("the dog sat under", "sat"), ended=False)
    assert sift(asked, judge=judge_by_word, confidence=0, known=[]) == []
    assert asked[0].refused == "unfinished"


# --- writing


def test_records_are_written_for_every_label_and_say_where_they_are_from(base_folder, tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    done = augment(
        base_folder, train=train, out=tmp_path / "out", settings=WRITER, wish=Wish(0.5, 8, 0.5), held_out=["a bird"]
    )
    new, given = read(tmp_path / "out" / "written.jsonl"), read(tmp_path / "out" / "given.jsonl")
    assert done.given == {"sang": 8, "sat": 8}
    assert done.wanted == {"sang": 4, "sat": 4}
    assert done.written == {label: Counter(row["label"] for row in new)[label] for label in done.wanted}
    assert sum(done.written.values()) > 0
    known = {row["text"] for row in ROWS}
    for row in new:
        assert row["text"] not in known
        assert row["origin"] == "written"
        assert row["confidence"] >= 0.5
        assert {"writer", "judge", "seed", "place"} <= row.keys()
    assert given[0]["origin"].endswith("train.jsonl:1")
    assert read(tmp_path / "out" / "train.jsonl") == [*given, *new]
    refused = read(tmp_path / "out" / "refused.jsonl")
    assert len(refused) + len(new) == done.drawn
    assert sum(done.refused.values()) == len(refused)
    assert json.loads((tmp_path / "out" / "augment.json").read_text()) == done.to_dict()


def test_the_same_seed_writes_the_same_records(base_folder, tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    both = []
    for name in ("one", "other"):
        augment(base_folder, train=train, out=tmp_path / name, settings=WRITER, wish=Wish(0.5, 3, 0.5))
        both.append((tmp_path / name / "written.jsonl").read_text())
    assert both[0] == both[1]
    with pytest.raises(UsageError, match="There is a run in this folder"):
        augment(base_folder, train=train, out=tmp_path / "one", settings=WRITER)


def test_a_tuned_classifier_can_be_the_judge(base_folder, tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    keys = {key: value for key, value in WRITER.items() if not key.startswith("task.")} | {"train.evaluate_every": 30}
    finetune(base_folder, task="classify", train=train, valid=train, out=tmp_path / "run", settings=keys)
    judge = judge_of_model(tmp_path / "run", ["sat"])
    assert judge(["the cat sat on the mat.", "a bird sang in the tree."]).labels == ["sat", "sang"]
    with pytest.raises(UsageError, match="does not know 'swam'"):
        judge_of_model(tmp_path / "run", ["swam"])
    done = augment(
        base_folder,
        train=train,
        out=tmp_path / "out",
        settings=WRITER,
        judge=tmp_path / "run",
        wish=Wish(0.25, 4, 0.5),
    )
    assert done.judge == str(tmp_path / "run")
    with pytest.raises(UsageError, match="one label to a text"):
        judge_of_model(base_folder, ["sat"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task.name": "classify"}, "--classify"),
        ({"task.prompt": "{title}: "}, "only the label is known"),
        ({"task.decode": {"temperature": 0}}, "must draw"),
        ({"task.decode": {"temprature": 1}}, "Did you mean 'temperature'"),
    ],
)
def test_a_recipe_that_cannot_write_is_told_why(base_folder, tmp_path, settings, told):
    train = write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(UsageError, match=told):
        augment(base_folder, train=train, out=tmp_path / "out", settings={**WRITER, "train.steps": 1, **settings})
    with pytest.raises(UsageError, match="--tries"):
        Wish(tries=0.5)


def test_a_record_with_several_labels_is_named(base_folder, tmp_path):
    train = write(tmp_path / "train.jsonl", [*ROWS, {"text": "x", "label": ["sat", "sang"]}])
    with pytest.raises(DataError, match=r"train\.jsonl:17"):
        augment(base_folder, train=train, out=tmp_path / "out", settings=WRITER)


# --- measuring


def test_words_are_swapped_or_left_out_and_none_is_new():
    draw = random.Random(0)
    for text in ("one two three four five", "春眠不觉晓，处处闻啼鸟。"):
        for _ in range(20):
            made = swap_words(text, draw)
            assert Counter(made.replace(" ", "")) <= Counter(text)
            assert made != ""
    assert swap_words("one", draw) == "one"
    assert {len(swap_words("a b c d e f", draw).split()) for _ in range(30)} == {5, 6}


def test_draws_take_as_many_of_each_label_as_there_are(record_of):
    records = [record_of(row) for row in [*ROWS, {"text": "one more", "label": "rare"}]]
    drawn = some_of_each(records, 3, seed=1)
    assert Counter(one.fields["label"] for one in drawn) == {"sat": 3, "sang": 3, "rare": 1}
    assert drawn == some_of_each(records, 3, seed=1) != some_of_each(records, 3, seed=2)
    assert Counter(row["label"] for row in swapped(ROWS, {"sat": 5, "sang": 0}, 0)) == {"sat": 5}


@pytest.fixture
def record_of():
    from gptwo.data.sources import Record

    return lambda row: Record(row, "data.jsonl", 1)


def test_a_change_is_that_of_each_draw():
    runs = [
        {f"T, {way}": {"macro_f1": value} for way, value in (("given records", low), ("written texts added", high))}
        for low, high in ((0.4, 0.5), (0.6, 0.7))
    ]
    said = change_text("T", "written texts added", 10, runs)
    assert "50.0 ± 14.1 to 60.0 ± 14.1, change +10.0 ± 0.0 (2 of 2 draws better)" in said


def test_of_one_draw_no_spread_is_told():
    run = {
        f"T, {way}": dict.fromkeys(FIGURES, 0.5) | {"macro_f1": value}
        for way, value in zip(WAYS, (0.4, 0.5, 0.45), strict=True)
    }
    said = change_text("T", WRITTEN, 10, [run])
    assert said == "T, 10 of each label, written texts added: macro F1 40.0 to 50.0, change +10.0 (one draw)."
    report = report_of({10: [run]}, {10: 20}, {10: [20]}, [], "t")
    assert not any(key.endswith("_spread") for system in report.systems for key in system.metrics)
    assert not any("±" in note or "deviation" in note for note in report.notes)
    assert "drawn once" in report.notes[-1]


def test_the_measurement_compares_every_classifier_with_and_without(base_folder, tmp_path):
    train, test = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "test.jsonl", ROWS[:2] + ROWS[-2:])
    (tmp_path / "classify.toml").write_text(
        '[task]\nname = "classify"\n[train]\nsteps = 20\nbatch_size = 8\n[optimizer]\nlearning_rate = 1e-2\n'
        '[track]\ntrackers = ["events"]\n'
    )
    out = tmp_path / "out"
    report = measure_augmentation(
        base_folder,
        train=train,
        test=[test],
        out=out,
        settings={**WRITER, "train.steps": 60},
        classify=tmp_path / "classify.toml",
        sizes=(3, 5),
        draws=2,
        wish=Wish(1.0, 3, 0.4),
    )
    names = [system.name for system in report.systems]
    assert names[0] == "Network, given records"
    assert len(names) == 6
    assert report.tuned.name == "Network, written texts added"
    assert [point.records for point in report.sizes] == [6, 10]
    assert set(report.sizes[0].values) == set(names)
    assert sum("change" in note and "± " in note for note in report.notes) >= 2 * 2 * 2
    assert len(report.comparisons) == 5
    assert read_report(out).to_dict() == report.to_dict()
    runs = json.loads((out / "measure.json").read_text())
    assert {size: len(found) for size, found in runs.items()} == {"3": 2, "5": 2}
    one = out / "0003" / "seed-0"
    given, added = read(one / "given.jsonl"), read(one / "written.jsonl")
    assert len(given) == 6
    assert [{key: row[key] for key in ("text", "label")} for row in added][:6] == given
    assert len(read(one / "words.jsonl")) == len(added)  # the opponent gets as many
    steps = {name: json.loads((one / name / "report.json").read_text())["recipe"]["train"]["steps"] for name in
             ("given", "written", "words")}  # fmt: skip
    assert set(steps.values()) == {20}
    assert not (one / "given" / "best").exists()
    again = {"train": train, "test": [test], "out": out, "settings": {**WRITER, "train.steps": 60},
             "classify": tmp_path / "classify.toml", "wish": Wish(1.0, 3, 0.4)}  # fmt: skip
    with pytest.raises(UsageError, match="--resume"):
        measure_augmentation(base_folder, sizes=(3, 5), draws=2, **again)
    with pytest.raises(UsageError, match="there differ: wish"):
        measure_augmentation(base_folder, resume=True, **{**again, "wish": Wish(2.0)})
    begun = (one / "given" / "events.jsonl").stat().st_mtime_ns
    kept = measure_augmentation(base_folder, sizes=(3,), draws=2, resume=True, **again)
    assert kept.sizes == report.sizes[:1]
    assert (one / "given" / "events.jsonl").stat().st_mtime_ns == begun  # nothing was tuned again


def test_the_command(base_folder, tmp_path, monkeypatch, capsys):
    train, test = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "test.jsonl", ROWS[:2] + ROWS[-2:])
    sets = [f"--set={key}={value}" for key, value in WRITER.items() if key.startswith(("train.b", "optim", "train.p"))]

    def gptwo(*arguments):
        base = ("--model", str(base_folder), "--train", str(train), "--threads", "1", "--out", str(tmp_path / "out"))
        monkeypatch.setattr(sys, "argv", ["gptwo", "augment", *base, *sets, "--set=train.steps=20", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_command(app)
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = gptwo("--times", "0.25", "--tries", "2", "--confidence", "0", "--test", str(test), "--json")
    assert code == 0
    assert json.loads(out)["wanted"] == {"sang": 2, "sat": 2}
    code, _, err = gptwo("--measure", "3", "--draws", "1", "--tries", "2", "--test", str(test), "--overwrite")
    assert code == 0
    assert "TF-IDF + logistic regression, 3 of each label, written texts added: macro F1" in err
    code, _, err = gptwo("--measure", "3")
    assert (code, "--test" in err) == (2, True)
    code, _, err = gptwo("--measure", "x", "--test", str(test))
    assert (code, "--measure" in err) == (2, True)
