"""Examples in the prompt: drawn evenly, scored by words, calibrated, told with mean and spread."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.shots import Shots, calibrate, draw, few_shot, label_table, probabilities
from gptwo.evaluate.suites.base import Subject
from gptwo.generate.engine import Engine
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.tokenizer import train_bpe

ROWS = [(f"{word} {thing}", label) for word, label in (("fine", "good"), ("dull", "bad"), ("odd", "odd"))
        for thing in ("film", "book", "meal")]  # fmt: skip


def records(rows=ROWS, **more) -> list[Record]:
    return [Record({"text": text, "label": label, **more}, "data.csv", i) for i, (text, label) in enumerate(rows, 2)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    tokenizer = train_bpe(iter([f"{text}\nLabel: {label}\n\n" for text, label in ROWS] * 9), 300)
    config = GPT2Config(tokenizer.vocab_size, n_positions=96, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    return Subject("tiny", Engine(create(config, tokenizer, seed=2)))


@pytest.mark.parametrize("count", [0, 1, 3, 5, 9])
def test_examples_are_drawn_evenly_and_by_seed(count):
    train = records()
    chosen = draw(train, count, seed=4)
    assert len({id(one) for one in chosen}) == count
    counts = Counter(one.fields["label"] for one in chosen)
    assert count == 0 or max(counts.values()) - min([counts[label] for label in ("good", "bad", "odd")]) <= 1
    assert chosen == draw(train, count, seed=4)
    if count in (3, 5):
        assert any(chosen != draw(train, count, seed=seed) for seed in range(5))


def test_too_few_examples_are_told():
    with pytest.raises(DataError, match="10 examples are to be drawn from 9"):
        draw(records(), 10, 0)


def test_the_prompt_is_what_it_says():
    shots = Shots(1, pattern="Review: {text}\nSentiment: {label}", words={"good": "positive"})
    one = records()[0]
    assert shots.query(one) == "Review: fine film\nSentiment:"
    assert shots.prompt([one]) == "Review: fine film\nSentiment: positive\n\n"
    assert shots.free("N/A") == "Review: N/A\nSentiment:"


def test_the_table_holds_the_likelihood_of_each_word(subject):
    shots = Shots(1)
    example, query = records()[0], "dull book\nLabel:"
    table, cut = label_table(subject, shots, [example], [query], ["bad", "good"])
    whole = "fine film\nLabel: good\n\n" + query
    direct = [one.logprob for one in subject.engine.loglikelihood([whole, whole], [" bad", " good"])]
    assert table[0] == pytest.approx(direct, rel=1e-5)
    assert cut == 0
    assert probabilities(table).sum() == pytest.approx(1)


def test_calibration_takes_out_what_the_prompt_favours():
    shares = np.array([[0.9, 0.1], [0.7, 0.3]])
    free = np.array([[0.8, 0.2], [0.8, 0.2]])
    assert calibrate(shares, free).argmax(1).tolist() == [0, 1]
    assert calibrate(free[:1], free)[0] == pytest.approx([0.5, 0.5])


def test_the_report_has_zero_and_k_shots_with_mean_and_spread(subject):
    report = few_shot(subject, records(), records(ROWS[::2]), Shots(3, seeds=(0, 1, 2)), resamples=30)
    names = [system.name for system in report.systems]
    assert names == ["3 shots, calibrated", "0 shots", "0 shots, calibrated", "3 shots", "Majority class"]
    runs = report.recipe["runs"]["3 shots, calibrated"]
    assert len(runs) == 3
    values = [run["accuracy"] for run in runs]
    assert report.tuned.name == "3 shots, calibrated"
    assert report.tuned.value("accuracy") == pytest.approx(np.mean(values))
    assert report.tuned.value("accuracy_spread") == pytest.approx(np.std(values, ddof=1))
    assert report.systems[1].metrics["accuracy"].low is not None
    assert any("Zhao" in note for note in report.notes)
    again = few_shot(subject, records(), records(ROWS[::2]), Shots(3, seeds=(0, 1, 2)), resamples=30)
    assert again.recipe["runs"] == report.recipe["runs"]


def test_zero_shots_need_no_training_records(subject):
    report = few_shot(subject, [], records(), Shots(0), resamples=30)
    assert [system.name for system in report.systems] == ["0 shots, calibrated", "0 shots"]


def test_a_prompt_longer_than_the_context_is_counted(subject):
    long = records([("a very long film " * 30, "good"), ("short", "bad")])
    report = few_shot(subject, long, records(ROWS[:2]), Shots(2, seeds=(0,)), resamples=30)
    assert any("longer than the context" in note for note in report.notes)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"count": -1}, "--shots"),
        ({"count": 1, "seeds": ()}, "--seeds"),
        ({"count": 1, "pattern": "{text}"}, "--prompt"),
        ({"count": 1, "pattern": "{label}: {text}"}, "--prompt"),
    ],
)
def test_settings_that_cannot_be_are_usage_errors(settings, where):
    with pytest.raises(UsageError, match=where):
        Shots(**settings)


def test_words_must_tell_the_labels_apart(subject):
    with pytest.raises(UsageError, match="Two labels"):
        few_shot(subject, [], records(), Shots(0, words={"good": "bad"}))
    with pytest.raises(UsageError, match="'good'"):
        few_shot(subject, [], records(), Shots(0, words={"godo": "x"}))


def test_a_missing_field_is_told_with_its_row(subject):
    with pytest.raises(DataError, match=r"data.csv:2"):
        few_shot(subject, [], records(), Shots(0, pattern="{title}: {label}"))
    with pytest.raises(DataError, match=r"data.csv:7"):
        few_shot(subject, [], [Record({"text": "a"}, "data.csv", 7)], Shots(0))
