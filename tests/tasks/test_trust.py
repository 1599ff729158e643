"""A classifier's confidences: calibrated without changing an answer, withheld below a threshold; the untuned probe."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.evaluate.assess import TUNED
from gptwo.recipe import TaskSection
from gptwo.tasks import make_task, restore_task
from gptwo.tasks.runner import ModelRunner

WORDS = {"cat": "the cat sat on the mat", "dog": "the dog sat on the log", "both": "the cat and the dog"}


@pytest.fixture
def records(record):
    """60 records of three labels."""
    return [record(i, text=f"{i} {text}", label=label) for i in range(20) for label, text in WORDS.items()]


@pytest.fixture
def job(records):
    task = make_task(TaskSection(name="classify"))
    task.fit(records)
    return task


def fitted(job, network, tokenizer, records, **given):
    model = network("sequence", job.labels)
    before = job.predict(ModelRunner(model, tokenizer, 32), records)
    found = job.calibrate(ModelRunner(model, tokenizer, 32), records, target_precision=given.get("target_precision"))
    return model, before, found


def test_calibration_changes_no_answer_and_makes_the_records_less_surprising(job, network, tokenizer, records):
    model, before, found = fitted(job, network, tokenizer, records)
    after = job.predict(ModelRunner(model, tokenizer, 32), records)
    assert after.labels == before.labels
    assert found == {"temperature": found["temperature"], "records": 60}
    assert found["temperature"] != 1.0
    gold = job.gold(records)

    def cost(said):
        return -np.log(
            [row[job.labels.index(label)] for row, label in zip(said.probabilities, gold, strict=True)]
        ).mean()

    assert cost(after) < cost(before)
    restored = restore_task({**job.describe(), "calibration": found}, "sequence")
    again = restored.predict(ModelRunner(model, tokenizer, 32), records)
    assert np.allclose(again.probabilities, after.probabilities)


def test_a_report_says_what_calibration_did(job, network, tokenizer, records):
    model, _, found = fitted(job, network, tokenizer, records, target_precision=0.3)
    said = job.predict(ModelRunner(model, tokenizer, 32), records)
    report = job.report("t", records, {TUNED: said})
    assert report.scaling.temperature == found["temperature"]
    assert report.scaling.ece_after == pytest.approx(report.tuned.value("ece"))
    assert report.abstention.target == 0.3
    assert report.abstention.threshold == found["abstain_below"]


def test_rows_tell_who_abstains(job, network, tokenizer, records):
    model, *_ = fitted(job, network, tokenizer, records)
    said = job.predict(ModelRunner(model, tokenizer, 32), records)
    assert "abstain" not in job.rows(records, said)[0]
    job.calibration = {**job.calibration, "abstain_below": float(np.median(said.probabilities.max(1)))}
    rows = job.rows(records, said)
    assert {row["abstain"] for row in rows} == {True, False}


def test_too_few_records_are_not_calibrated(job, network, tokenizer, records):
    assert fitted(job, network, tokenizer, records[:19])[2] == {}
    assert job.calibration == {}


def test_several_labels_at_once(network, tokenizer, record):
    rows = [record(i, text=f"the cat sat {i}", label=["cat", "mat"][: i % 3]) for i in range(40)]
    task = make_task(TaskSection(name="classify", multi_label=True))
    task.fit(rows)
    model, before, found = fitted(task, network, tokenizer, rows, target_precision=0.9)
    assert set(found) == {"temperature", "records"}
    assert task.predict(ModelRunner(model, tokenizer, 32), rows).labels == before.labels
    assert task.report("t", rows, {TUNED: before}).scaling.records == 40


def test_the_probe_reads_labels_off_frozen_features(job, network, tokenizer, records):
    model = network("sequence", job.labels)
    train, test = records[:45], records[45:]
    said = job.probe(ModelRunner(model, tokenizer, 32), train, test)
    assert np.allclose(said.probabilities.sum(1), 1)
    right = np.mean([a == b for a, b in zip(said.labels, job.gold(test), strict=True)])
    fresh = job.predict(ModelRunner(model, tokenizer, 32), test)
    assert right > 0.8
    assert right > np.mean([a == b for a, b in zip(fresh.labels, job.gold(test), strict=True)])


def test_a_probe_of_one_label_or_of_several(job, network, tokenizer, records, record):
    model = network("sequence", job.labels)
    one = [row for row in records if row.fields["label"] == "cat"]
    assert set(job.probe(ModelRunner(model, tokenizer, 32), one, records).labels) == {"cat"}
    rows = [record(i, text=f"the cat sat {i}", label=["cat"] if i % 2 else ["cat", "mat"]) for i in range(12)]
    task = make_task(TaskSection(name="classify", multi_label=True))
    task.fit(rows)
    said = task.probe(ModelRunner(network("sequence", task.labels), tokenizer, 32), rows, rows)
    assert said.probabilities[:, task.labels.index("cat")] == pytest.approx(np.ones(12))


def test_the_probe_of_tags_reads_them_off_single_tokens(network, tokenizer, record):
    rows = [
        record(i, tokens=["the", word, "sat"], tags=["O", f"B-{word}", "O"])
        for i in range(8)
        for word in ("cat", "dog")
    ]
    task = make_task(TaskSection(name="tag"))
    task.fit(rows)
    said = task.probe(ModelRunner(network("token", task.labels), tokenizer, 32), rows, rows[:3])
    assert said.labels == task.gold(rows[:3])
    assert all(0 < confidence <= 1 for confidence in said.confidences)


def test_the_probe_of_a_ranking_finds_what_is_relevant(network, tokenizer, record):
    lists = [["the cat", "the dog"], ["the dog", "the cat", "the log"]]
    rows = [record(i, query=str(i), candidates=lists[i % 2], relevant=["the cat"]) for i in range(12)]
    task = make_task(TaskSection(name="rank"))
    task.fit(rows)
    said = task.probe(ModelRunner(network("sequence", task.labels), tokenizer, 32), rows, rows[:5])
    assert [len(scores) for scores in said] == [2, 3, 2, 3, 2]
    assert all(lists[i % 2][scores.argmax()] == "the cat" for i, scores in enumerate(said))


@pytest.mark.parametrize("score", ["head", "likelihood"])
def test_choices_are_calibrated_without_changing_one(network, tokenizer, record, score):
    rows = [record(i, stem=f"{i} ___", choices=["cat", "dog", "log"][: 2 + i % 2], answer=i % 2) for i in range(40)]
    task = make_task(TaskSection(name="choice", score=score))
    task.fit(rows)
    model = network(task.head, task.labels)
    before = task.predict(ModelRunner(model, tokenizer, 32), rows)
    found = task.calibrate(ModelRunner(model, tokenizer, 32), rows, target_precision=0.3)
    after = task.predict(ModelRunner(model, tokenizer, 32), rows)
    assert found["temperature"] != 1.0
    assert [row.argsort().tolist() for row in after] == [row.argsort().tolist() for row in before]
    report = task.report("t", rows, {TUNED: after})
    assert report.scaling.temperature == found["temperature"]
    assert report.scaling.ece_after == pytest.approx(report.calibration.ece)
    assert report.abstention.threshold == found["abstain_below"]
    restored = restore_task({**task.describe(), "calibration": found}, task.head)
    assert np.allclose(restored.predict(ModelRunner(model, tokenizer, 32), rows)[0], after[0])
    restored.calibration["abstain_below"] = 0.5
    assert all(row["abstain"] == (row["probability"] < 0.5) for row in restored.rows(rows, after))


def test_each_kind_of_joint_labels_has_a_temperature(network, tokenizer, record):
    rows = [
        record(i, text=f"the {word} {i}", topic=word, mood=mood if i < 10 else "")
        for i in range(20)
        for word, mood in (("cat", "good"), ("dog", "bad"))
    ]
    task = make_task(TaskSection(name="joint", kinds=["topic", "mood"]))
    task.fit(rows)
    model = network("sequence", task.labels)
    before = task.predict(ModelRunner(model, tokenizer, 32), rows)
    found = task.calibrate(ModelRunner(model, tokenizer, 32), rows, target_precision=None)
    assert {kind: one["records"] for kind, one in found["kinds"].items()} == {"topic": 40, "mood": 20}
    after = task.predict(ModelRunner(model, tokenizer, 32), rows)
    assert all(after[kind].labels == before[kind].labels for kind in task.kinds)
    report = task.report("t", rows, {TUNED: after})
    assert 0 <= report.tuned.value("ece/topic") <= 1
    assert sum("are divided by a temperature" in note for note in report.notes) == 2
    restored = restore_task({**task.describe(), "calibration": found}, "sequence")
    said = restored.predict(ModelRunner(model, tokenizer, 32), rows)
    assert np.allclose(said["mood"].probabilities, after["mood"].probabilities)
