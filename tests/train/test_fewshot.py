"""k records of each label, several times: even splits that do not overlap, and the mean of the runs."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.report import Report, System
from gptwo.evaluate.statistics import compare_runs
from gptwo.evaluate.verdict import verdicts
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.tokenizer import train_bpe
from gptwo.train.fewshot import draw_split, mean_report, tune_few_shots

ROWS = [(f"a {word} {thing}", label) for word, label in (("fine", "good"), ("dull", "bad"))
        for thing in ("film", "book", "meal", "phone", "room", "song", "coat", "lamp")]  # fmt: skip


def label(record: Record) -> str:
    return str(record.fields["label"])


@pytest.fixture
def records():
    return [Record({"text": text, "label": name}, "data.csv", row) for row, (text, name) in enumerate(ROWS, 2)]


def test_splits_are_even_and_do_not_overlap(records):
    learn, check = draw_split(records, 3, 0, label)
    assert Counter(map(label, learn)) == Counter(map(label, check)) == {"good": 3, "bad": 3}
    assert not {one.row for one in learn} & {one.row for one in check}
    assert draw_split(records, 3, 0, label) == (learn, check)
    assert draw_split(records, 3, 1, label) != (learn, check)
    assert draw_split(records, 5, 0, label)[1] == []
    with pytest.raises(DataError, match="8 records, fewer than 9"):
        draw_split(records, 9, 0, label)


def test_the_mean_is_over_the_runs():
    reports = [
        Report("one", "classify", "accuracy", [System("Tuned", {"accuracy": value}, "tuned"), System("Only", {})][:n])
        for value, n in ((0.5, 2), (0.7, 1))
    ]
    found = mean_report(reports, "both", [3, 4])
    assert [system.name for system in found.systems] == ["Tuned"]
    assert found.tuned.value("accuracy") == pytest.approx(0.6)
    assert found.tuned.value("accuracy_spread") == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert found.recipe["runs"]["Tuned"] == [{"accuracy": 0.5}, {"accuracy": 0.7}]


def test_a_difference_within_the_spread_of_the_runs_is_no_defeat():
    def report(tuned, cheap):
        systems = [System("Tuned", {"accuracy": tuned}, "tuned"), System("Cheap", {"accuracy": cheap}, "baseline")]
        return Report("one", "classify", "accuracy", systems)

    (level,) = verdicts(mean_report([report(0.5, 0.7), report(0.7, 0.6), report(0.6, 0.6)], "all", [0, 1, 2]))
    assert level.outcome == "equal"
    assert "cannot be told apart over these runs" in level.text
    (worse,) = verdicts(mean_report([report(0.5, 0.61), report(0.7, 0.8), report(0.6, 0.69)], "all", [0, 1, 2]))
    assert worse.outcome == "worse"
    assert worse.certain
    difference = np.array([-0.11, -0.1, -0.09])
    assert stats.ttest_1samp(difference, 0).pvalue == pytest.approx(compare_runs(difference, np.zeros(3))[1])


def test_runs_are_tuned_on_their_own_split(tmp_path):
    lines = "text;label\n".replace(";", ",") + "".join(f"{text},{name}\n" for text, name in ROWS)
    (tmp_path / "data.csv").write_text(lines.replace("text,label", "review,stars"), encoding="utf-8")
    tokenizer = train_bpe(iter([text for text, _ in ROWS] * 9), 290)
    config = GPT2Config(tokenizer.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    settings = {
        "task.name": "classify",
        "data.columns": {"text": "review", "label": "stars"},
        "train.steps": 4,
        "train.threads": 1,
        "train.precision": "fp32",
        "track.trackers": ["events"],
    }
    report = tune_few_shots(
        create(config, tokenizer),
        train=[tmp_path / "data.csv"],
        test=[tmp_path / "data.csv"],
        shots=2,
        seeds=(0, 1),
        out=tmp_path / "out",
        settings=settings,
    )
    assert report.tuned.name == "Tuned"
    assert len(report.recipe["runs"]["Tuned"]) == 2
    assert report.records == 16
    splits = []
    for seed in (0, 1):
        assert (tmp_path / "out" / f"seed-{seed}" / "run" / "report.json").is_file()
        text = (tmp_path / "out" / f"seed-{seed}" / "train.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        assert Counter(row["label"] for row in rows) == {"good": 2, "bad": 2}
        splits.append(text)
    assert splits[0] != splits[1]
    assert (tmp_path / "out" / "report.html").is_file()
    with pytest.raises(UsageError):
        tune_few_shots("x", train=[], test=[], shots=0)


def test_given_splits_are_tuned_on_one_by_one(tmp_path):
    def write(name, rows):
        lines = [json.dumps({"sentence": text, "label_desc": label, "id": 3}) + "\n" for text, label in rows]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")

    for place in range(2):
        write(f"train_{place}.json", ROWS[place::4])
        write(f"dev_{place}.json", ROWS[place + 2 :: 4])
    write("test.json", ROWS)
    tokenizer = train_bpe(iter([text for text, _ in ROWS] * 9), 290)
    config = GPT2Config(tokenizer.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    settings = {
        "task.name": "classify",
        "data.columns": {"text": "sentence", "label": "label_desc"},
        "data.format": "jsonl",
        "train.steps": 4,
        "train.threads": 1,
        "train.precision": "fp32",
        "track.trackers": ["events"],
    }
    given = {"train": [str(tmp_path / "train_[01].json")], "test": [tmp_path / "test.json"], "settings": settings}
    report = tune_few_shots(
        create(config, tokenizer),
        valid=[tmp_path / "dev_0.json", tmp_path / "dev_1.json"],
        out=tmp_path / "out",
        **given,
    )
    assert len(report.recipe["runs"]["Tuned"]) == 2
    assert report.recipe["seeds"] == [0, 1]
    assert report.tuned.value("accuracy_spread") is not None
    assert report.tuned.value("f1_spread") is not None
    assert "splits: train_0.json, train_1.json" in report.notes
    for place in range(2):
        for part, rows in (("train", ROWS[place::4]), ("valid", ROWS[place + 2 :: 4])):
            lines = (tmp_path / "out" / f"split-{place}" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["text"] for line in lines] == [text for text, _ in rows]
    with pytest.raises(UsageError, match="2 training files, but 1 validation file"):
        tune_few_shots("x", valid=[tmp_path / "dev_0.json"], **given)
    with pytest.raises(UsageError, match="drawn as well"):
        tune_few_shots("x", shots=2, valid=[tmp_path / "dev_0.json"], **given)


def test_a_spread_is_named_after_its_metric():
    from gptwo.evaluate.metric_names import format_value, metric_name

    name = metric_name("accuracy_spread")
    assert (name.title, name.higher_is_better) == ("Accuracy, deviation over draws", False)
    assert format_value("f1_spread", 0.031) == "3.1"
