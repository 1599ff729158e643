"""Several kinds of labels at once: each kind is learned and measured by itself, a missing label teaches nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.tasks.joint import Joint
from gptwo.tasks.runner import ModelRunner

KINDS = ["topic", "mood"]


@pytest.fixture
def records(record):
    rows = [("cat", "good"), ("dog", "bad"), ("mat", ""), ("cat", "bad"), ("", "good"), ("dog", "good")]
    return [
        record(i, text=f"the {topic} sat {i}", topic=[topic] if topic else [], mood=[mood] if mood else [])
        for i, (topic, mood) in enumerate(rows, start=1)
    ]


@pytest.fixture
def task(records):
    task = Joint(KINDS)
    task.fit(records)
    return task


def test_labels_are_those_of_each_kind_sorted(task):
    assert task.labels == ["topic: cat", "topic: dog", "topic: mat", "mood: bad", "mood: good"]
    assert task.names == {"topic": ["cat", "dog", "mat"], "mood": ["bad", "good"]}


def test_the_loss_is_that_of_each_kind_without_missing_labels(task, records, tokenizer, network):
    model = network("sequence", task.labels)
    batch = collate([task.encode(one, tokenizer, 32, i)[0] for i, one in enumerate(records)])
    topics, moods = task.scores(model, batch)
    wanted = F.cross_entropy(topics[[0, 1, 2, 3, 5]], torch.tensor([0, 1, 2, 0, 1]), reduction="sum")
    wanted = wanted + F.cross_entropy(moods[[0, 1, 3, 4, 5]], torch.tensor([1, 0, 0, 1, 1]), reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), wanted)
    assert task.count(batch) == 10
    found = task.evaluate(ModelRunner(model, tokenizer, 32), records)
    assert set(found) == set(task.figures)
    assert found["loss"] == pytest.approx(float(wanted.detach()) / 10, rel=1e-4)


def test_a_prediction_does_not_depend_on_the_others(task, records, tokenizer, network):
    model = network("sequence", task.labels)
    together = task.predict(ModelRunner(model, tokenizer, 32), records)
    alone = task.predict(ModelRunner(model, tokenizer, 32), records[2:3])
    for kind in KINDS:
        np.testing.assert_allclose(together[kind].probabilities[2], alone[kind].probabilities[0], atol=1e-6)
        np.testing.assert_allclose(together[kind].probabilities.sum(1), 1, atol=1e-6)
    (row,) = task.rows(records[2:3], alone)
    assert row["mood"]["label"] == alone["mood"].labels[0]


def test_the_report_has_every_kind(task, records, tokenizer, network):
    said = task.opinion(ModelRunner(network("sequence", task.labels), tokenizer, 32), records)
    report = task.report("both", records, {"Tuned": said, **task.baselines(records, records)})
    assert [system.name for system in report.systems] == ["Tuned", "Majority class", "TF-IDF + logistic regression"]
    assert set(report.tables) == set(KINDS)
    majority = report.systems[1]
    assert majority.value("accuracy/topic") == pytest.approx(2 / 5)
    assert majority.value("accuracy/mood") == pytest.approx(3 / 5)
    assert majority.value("mean_accuracy") == pytest.approx(np.mean([1, 0.0, 0, 0.5, 1, 0.5]))
    assert {c.metric for c in report.comparisons} == {"mean_accuracy", "accuracy/topic", "accuracy/mood"}
    assert report.to_dict()["verdicts"]


def test_the_probe_reads_each_kind_off_frozen_features(task, records, tokenizer, network):
    said = task.probe(ModelRunner(network("sequence", task.labels), tokenizer, 32), records * 4, records)
    for kind, labels in task.names.items():
        np.testing.assert_allclose(said[kind].probabilities.sum(1), 1, atol=1e-6)
        assert said[kind].probabilities.shape == (len(records), len(labels))
    right = [
        a == one.fields["mood"][0] for a, one in zip(said["mood"].labels, records, strict=True) if one.fields["mood"]
    ]
    assert np.mean(right) > 0.5
    assert task.report("both", records, {"Before tuning": said, "Tuned": said}).systems[0].value("mean_accuracy") > 0.5


def test_wrong_labels_name_file_and_row(task, record):
    with pytest.raises(DataError, match=r"'bat' of 'topic'[\s\S]*data\.csv:4[\s\S]*'mat'"):
        task.places_of(record(4, text="x", topic=["bat"], mood=["good"]))
    with pytest.raises(DataError, match=r"no label of any kind[\s\S]*data\.csv:4"):
        task.places_of(record(4, text="x", topic=[], mood=[""]))
    with pytest.raises(DataError, match=r"2 labels of 'mood'"):
        task.places_of(record(4, text="x", topic=[], mood=["good", "bad"]))
    with pytest.raises(DataError, match=r"'mood' needs two labels"):
        Joint(KINDS).fit([record(1, text="x", topic=[t], mood=["good"]) for t in ("cat", "dog")])
    with pytest.raises(UsageError, match=r"two kinds or more"):
        Joint(["topic"])


def test_both_kinds_are_learned_end_to_end(base_folder, known_speed, tmp_path):
    from gptwo.train.apply import measure, predict
    from gptwo.train.finetune import finetune

    rows = [
        {"text": f"{mood} {topic}", "topic": topic if topic != "mat" or mood == "the" else None, "mood": mood}
        for topic in ("cat", "dog", "mat")
        for mood in ("the", "Anna")
    ] * 4
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "task.kinds": KINDS,
        "train.epochs": 15,
        "train.threads": 1,
        "train.precision": "fp32",
        "optimizer.learning_rate": 1e-2,
        "track.trackers": ["events"],
    }
    run = finetune(
        base_folder, task="joint", train=data, valid=data, test=data, out=tmp_path / "run", settings=settings
    )
    assert run.report.tuned.value("mean_accuracy") == 1.0
    said = predict(tmp_path / "run", data, precision="fp32")
    assert [[row[kind]["label"] for kind in KINDS] for row in said] == run.report.tuned.predictions
    again = measure(tmp_path / "run", [str(data)], precision="fp32")
    assert again.tuned.value("accuracy/topic") == 1.0
