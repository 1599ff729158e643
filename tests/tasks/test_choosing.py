"""The tasks that choose, end to end: a tiny model learns, is saved, and the folder alone says the same."""

from __future__ import annotations

import json

import pytest

from gptwo.errors import DataError
from gptwo.model.pretrained import load
from gptwo.train.apply import measure, predict, records_of_texts
from gptwo.train.finetune import finetune

FAST = {
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "optimizer.learning_rate": 1e-2,
    "track.trackers": ["events"],
    "model.dropout": 0.0,
}
WORDS = ["cat", "dog", "mat"]


@pytest.fixture
def tune(base_folder, known_speed, tmp_path):
    """`tune("match", rows, epochs=9, **settings)`: a run in tmp_path/run that is trained and measured on the rows."""

    def run(task, rows, **given):
        data = tmp_path / "data.jsonl"
        data.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        settings = {**FAST, **{key.replace("__", "."): value for key, value in given.items()}}
        return finetune(
            base_folder, task=task, train=data, valid=data, test=data, out=tmp_path / "run", settings=settings
        )

    return run


def check_saved(run, tmp_path, figure, answer):
    """The folder alone predicts and measures what the report says."""
    said = predict(tmp_path / "run", tmp_path / "data.jsonl", precision="fp32")
    assert [answer(row) for row in said] == run.report.tuned.predictions
    again = measure(tmp_path / "run", [str(tmp_path / "data.jsonl")], precision="fp32")
    assert again.primary == run.report.primary == figure
    assert again.tuned.value(figure) == pytest.approx(run.report.tuned.value(figure))
    assert again.task == run.report.task
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    return said


def test_pairs(tune, tmp_path):
    rows = [
        {"text_a": f"the {a}", "text_b": f"the {b} sat", "label": "same" if a == b else "other"}
        for a in WORDS[:2]
        for b in WORDS[:2]
    ] * 5
    run = tune("match", rows, train__epochs=25)
    assert run.report.tuned.value("accuracy") == 1.0
    assert [system.name for system in run.report.systems] == [
        *("Before tuning", "Tuned", "Majority class", "TF-IDF of the pair + logistic regression")
    ]
    check_saved(run, tmp_path, "accuracy", lambda row: row["label"])
    (row,) = predict(tmp_path / "run", records_of_texts(["the dog\tthe dog sat"]))
    assert (row["text_a"], row["text_b"], row["label"]) == ("the dog", "the dog sat", "same")
    with pytest.raises(DataError, match=r"1 parts; match needs text_a, text_b[\s\S]*tabs"):
        predict(tmp_path / "run", records_of_texts(["the dog"]))


@pytest.mark.parametrize("loss", ["listwise", "pairwise"])
def test_lists(tune, tmp_path, loss):
    rows = [
        {"query": f"the {a}", "candidates": [f"{b} sat" for b in order], "relevant": [f"{a} sat"]}
        for a in WORDS
        for order in (WORDS, WORDS[::-1], [*WORDS[1:], WORDS[0]])
    ] * 2
    run = tune("rank", rows, train__epochs=25, task__loss=loss)
    assert run.report.tuned.value("mrr") == 1.0
    assert run.report.systems[0].name == "Before tuning"  # a probe, which may solve a toy task too
    said = predict(tmp_path / "run", tmp_path / "data.jsonl", precision="fp32")
    assert all(row["ranked"][0]["candidate"] == f"{row['query'].split()[1]} sat" for row in said)
    again = measure(tmp_path / "run", [str(tmp_path / "data.jsonl")], precision="fp32")
    assert again.tuned.predictions == run.report.tuned.predictions
    (row,) = predict(tmp_path / "run", records_of_texts(["the dog\tcat sat\tdog sat"]))
    assert row["ranked"][0]["candidate"] == "dog sat"


@pytest.mark.parametrize("score", ["head", "likelihood"])
def test_choices(tune, tmp_path, score):
    rows = [
        {"stem": stem, "choices": order, "answer": right}
        for stem, right in (("Anna lives in", "Berlin."), ("the cat sat on the", "mat."), ("猫坐在___上，", "垫子"))
        for order in (["Berlin.", "mat.", "垫子"], ["垫子", "Berlin.", "mat."], ["mat.", "垫子", "Berlin."])
    ] * 2
    run = tune("choice", rows, train__epochs=20, task__score=score)
    assert run.report.tuned.value("accuracy") == 1.0
    assert [system.name for system in run.report.systems] == [
        *("Before tuning", "Tuned", "Most frequent place", "Longest choice", "Shortest choice")
    ]
    check_saved(run, tmp_path, "accuracy", lambda row: row["answer"])
    assert load(tmp_path / "run").model.head_kind == ("language" if score == "likelihood" else "sequence")
    (row,) = predict(tmp_path / "run", records_of_texts(["Anna lives in\tmat.\tBerlin."]))
    assert (row["answer"], row["place"]) == ("Berlin.", 1)


@pytest.mark.parametrize("context", ["both", "left"])
def test_answers(tune, tmp_path, context):
    rows = [
        {
            "context": f"{before}{name}{after}",
            "question": "who",
            "answers": [{"text": name, "answer_start": len(before)}] if name in ("Anna", "狗") else [],
        }
        for name in ("Anna", "狗", "the mat")
        for before, after in (("the cat sat on ", " and Berlin"), ("", " sat"), ("the dog ", "。"))
    ] * 2
    run = tune("extract", rows, train__epochs=30, task__context=context)
    assert run.report.tuned.value("exact_match") == 1.0
    assert run.report.notes[0].startswith("6 of 18 test questions have no answer; the tuned model gives none to 6, 6")
    said = check_saved(run, tmp_path, "f1", lambda row: row["answer"])
    assert said[0]["start"] == 15
    (row,) = predict(tmp_path / "run", records_of_texts(["the dog Anna。\twho"]))
    assert (row["answer"], row["start"]) == ("Anna", 8)


def test_an_error_in_the_records_stops_before_training(tune, tmp_path):
    rows = [{"context": "the cat", "question": "who", "answers": [{"text": "dog", "answer_start": 4}]}] * 2
    with pytest.raises(DataError, match=r"'dog' is not in its context at character 4[\s\S]*data\.jsonl:1"):
        tune("extract", rows)
    assert not (tmp_path / "run" / "best").exists()


RECORDS = {
    "match": {"text_a": "a", "text_b": "b", "label": "yes"},
    "rank": {"query": "q", "candidates": ["a", "b"], "relevant": ["a"]},
    "choice": {"stem": "s", "choices": ["a", "b"], "answer": "a"},
    "extract": {"question": "q", "context": "a b", "answers": ["a"]},
}


@pytest.mark.parametrize(
    ("task", "bad", "check", "words"),
    [
        ("match", {"label": "Yes"}, "label-spelling", "one label in 2 spellings"),
        ("rank", {"relevant": ["c"]}, "unusable-records", "'c' in `relevant`"),
        ("choice", {"answer": "c"}, "unusable-records", "'c' is none of the 2 choices"),
        ("extract", {"answers": ["c"]}, "unusable-records", "'c' is not in its context"),
    ],
)
def test_the_doctor_finds_records_that_cannot_be_used(tmp_path, capsys, monkeypatch, task, bad, check, words):
    from gptwo.cli.main import main

    rows = [RECORDS[task], {**RECORDS[task], **bad}, RECORDS[task]]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["gptwo", "doctor", "data", str(tmp_path / "data.jsonl"), "--task", task, "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    (found,) = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["check"] == check]
    assert words in found["what"]
    assert found["rows"][0].endswith("data.jsonl:2")
