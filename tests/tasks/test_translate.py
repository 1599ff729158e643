"""Translation, and what all tasks that write share: loss on the target alone, one prompt for tuning and writing."""

from __future__ import annotations

import pytest
import torch

from gptwo.data.batching import collate
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.report import Report
from gptwo.generate.engine import Engine
from gptwo.model.loss import IGNORE
from gptwo.model.pretrained import Pretrained
from gptwo.tasks import make_task, restore_task
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import Written, costs_of, cut_to_fit, decode_options, evenly
from gptwo.tasks.translate import Translate

PAIR = {"source": "the cat sat on the mat.", "target": "猫坐在垫子上。"}
OTHER = {"source": "the dog sat.", "target": "狗坐在木头上。"}


@pytest.fixture
def task(record, tokenizer):
    """A task that has learned from two records; greedy, so that texts are short to compute."""
    made = Translate(decode={"num_beams": 1}, max_target=12)
    made.fit([record(**PAIR), record(**OTHER)])
    made.fit_tokens(tokenizer, 32)
    return made


# --- examples


def test_loss_is_on_the_target_and_its_end_alone(task, record, tokenizer):
    (example,) = task.encode(record(**OTHER), tokenizer, 32)
    prompt, target = tokenizer.encode(OTHER["source"] + "\n=\n"), tokenizer.encode(OTHER["target"])
    target = [*target, tokenizer.end_id][:12]
    assert list(example.ids) == (prompt + target)[:-1]
    assert list(example.labels) == [IGNORE] * (len(prompt) - 1) + target


def test_the_loss_is_that_of_the_targets_tokens_one_by_one(task, record, tokenizer, network):
    model = network("language")
    (example,) = task.encode(record(**OTHER), tokenizer, 32)
    ids = [*example.ids, example.labels[-1]]
    begin = next(i for i, label in enumerate(example.labels) if label != IGNORE)
    with torch.inference_mode():
        scores = model(torch.tensor([example.ids]))[0].log_softmax(1)
        wanted = -sum(float(scores[i, ids[i + 1]]) for i in range(begin, len(example.ids)))
        found = task.loss(model, collate([example]))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert task.count(collate([example])) == len(example.ids) - begin
    ((nats, tokens),) = costs_of(ModelRunner(model, tokenizer, 32), [example], 1)
    assert (nats, tokens) == (pytest.approx(wanted, rel=1e-5), len(example.ids) - begin)


def test_packed_equals_separate(task, record, tokenizer, network):
    model = network("language")
    examples = [e for i, pair in enumerate((PAIR, OTHER, OTHER)) for e in task.encode(record(**pair), tokenizer, 32, i)]
    with torch.inference_mode():
        packed = task.loss(model, collate(examples, row_tokens=128))
        apart = sum(task.loss(model, collate([example])) for example in examples)
    assert collate(examples, row_tokens=128).ids.shape[0] == 1
    torch.testing.assert_close(packed, apart, rtol=1e-5, atol=1e-4)


def test_tuning_and_writing_read_the_same_prompt(task, record, tokenizer, chinese):
    for words in (tokenizer, chinese):
        (learned,) = task.encode(record(**PAIR), words, 32)
        (asked,) = task.encode(record(**PAIR), words, 32, target=False)
        assert list(learned.ids[: len(asked.ids)]) == list(asked.ids)
        assert learned.labels[len(asked.ids) - 1] != IGNORE
        assert learned.labels[len(asked.ids) - 2] == IGNORE
    assert asked.ids[0] == chinese.start_id


def test_a_source_too_long_loses_its_end_and_is_counted(task, record, tokenizer):
    long = {"source": PAIR["source"] * 9, "target": "猫。"}
    (example,) = task.encode(record(**long), tokenizer, 32)
    (asked,) = task.encode(record(**long), tokenizer, 32, target=False)
    assert len(asked.ids) <= 32 + 1 - 12
    text = tokenizer.decode(asked.ids)
    assert text.endswith("\n=\n")
    assert long["source"].startswith(text.removesuffix("\n=\n"))
    kept = len(tokenizer.encode(text.removesuffix("\n=\n")))
    assert asked.truncated == example.truncated == len(tokenizer.encode(long["source"])) - kept


def test_a_target_too_long_is_cut_and_counted(task, record, tokenizer):
    long = {"source": "猫", "target": "the cat sat on the mat. " * 4}
    (example,) = task.encode(record(**long), tokenizer, 32)
    assert len([label for label in example.labels if label != IGNORE]) == 12
    assert example.truncated == len(tokenizer.encode(long["target"].strip())) + 1 - 12


def test_each_of_several_references_is_learned_once(task, record, tokenizer):
    several = record(source="the cat", target=["猫", "一只猫", "猫"])
    examples = task.encode(several, tokenizer, 32, 5)
    assert len(examples) == 2
    assert {example.index for example in examples} == {5}


def test_the_longest_training_target_decides_how_long_a_text_may_be(record, tokenizer):
    task = Translate()
    task.fit([record(**PAIR), record(source="x", target="猫")])
    task.fit_tokens(tokenizer, 100)
    assert task.max_target == len(tokenizer.encode(PAIR["target"])) + 1
    crowded = Translate()
    crowded.fit([record(**PAIR)])
    crowded.fit_tokens(tokenizer, 16)
    assert crowded.max_target == 8


@pytest.mark.parametrize("room", range(3, 30))
def test_a_cut_text_fits_and_is_a_beginning(tokenizer, room):
    text = "猫坐 the cat 在垫子上"
    found = cut_to_fit(tokenizer, text, "<{}>".format, room)
    if found is None:
        assert room < 5
        return
    ids, cut = found
    assert len(ids) <= room
    kept = tokenizer.decode(ids)[1:-1]
    assert text.startswith(kept.rstrip("�"))
    assert (cut == 0) == (kept == text)


# --- bad input


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": "", "target": "x"}, "The source is empty"),
        ({"source": " ", "target": "x"}, "The source is empty"),
        ({"source": "x", "target": []}, "The target is empty"),
        ({"source": "x", "target": ["y", " "]}, "The target is empty"),
    ],
)
def test_empty_texts_name_file_and_row(record, tokenizer, fields, words):
    with pytest.raises(DataError, match=rf"{words}[\s\S]*data\.csv:7"):
        Translate(max_target=4).encode(record(7, **fields), tokenizer, 32)


def test_a_prompt_without_room_for_the_source_names_file_and_row(record, tokenizer):
    task = Translate("{hint}: {source}=", max_target=10)
    assert task.columns == ("hint", "source", "target")
    crowded = record(3, hint="the cat sat on the mat. " * 9, source="x", target="y")
    with pytest.raises(DataError, match=r"leaves none for the source[\s\S]*data\.csv:3"):
        task.encode(crowded, tokenizer, 32)


@pytest.mark.parametrize("prompt", ["no field", "{source} {target}"])
def test_a_prompt_has_the_source_and_not_the_target(prompt):
    with pytest.raises(UsageError, match=r"task\.prompt"):
        Translate(prompt)


def test_no_records_and_no_room_are_told(tokenizer):
    with pytest.raises(DataError, match="nothing to learn from"):
        Translate().fit([])
    with pytest.raises(UsageError, match=r"task\.max_target"):
        Translate(max_target=40).fit_tokens(tokenizer, 32)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"beams": 2}, "num_beams"),
        ({"num_beams": 0}, "num_beams must be"),
        ({"max_new_tokens": 5}, r"task\.max_target"),
        ({"num_beams": 3, "top_p": 0.5}, "does not sample"),
    ],
)
def test_wrong_options_of_decoding_are_usage_errors(given, words):
    with pytest.raises(UsageError, match=words):
        Translate(decode=given)


def test_options_of_decoding():
    assert Translate().decode == {"num_beams": 4, "length_penalty": 1.0}
    assert decode_options({"num_beams": 4}, {"temperature": 0}) == {"num_beams": 1, "temperature": 0}
    once = decode_options({"num_beams": 4}, {"top_k": 5})
    assert decode_options({"num_beams": 4}, once) == once


# --- writing


def test_texts_are_those_of_the_engine_in_the_order_of_the_records(task, record, tokenizer, network):
    model = network("language")
    given = [record(**PAIR), record(source="x", target="y"), record(**OTHER)]
    said = task.predict(ModelRunner(model, tokenizer, 32), given)
    engine = Engine(Pretrained(model, tokenizer, model.config))
    for one, text in zip(given, said.texts, strict=True):
        prompt = f"{one.fields['source']}\n=\n"
        (alone,) = engine.generate(prompt, max_new_tokens=12, temperature=0, stop="\n")
        assert text == alone.text.strip()
    assert task.rows(given, said)[1] == {"source": "x", "target": said.texts[1]}


def test_beams_are_those_of_the_engine_however_many_are_written(record, tokenizer, network):
    model, given = network("language"), [record(**PAIR), record(**OTHER), record(source="a", target="b")]
    task = Translate(decode={"num_beams": 3, "length_penalty": 0.5}, max_target=6)
    said = task.predict(ModelRunner(model, tokenizer, 32), given)
    engine = Engine(Pretrained(model, tokenizer, model.config))
    for one, text in zip(given, said.texts, strict=True):
        (alone,) = engine.generate(
            f"{one.fields['source']}\n=\n", max_new_tokens=6, num_beams=3, length_penalty=0.5, stop="\n"
        )
        assert text == alone.text.strip()


def test_a_text_of_several_lines_is_ended_only_where_training_has_none(record, tokenizer):
    task = Translate(max_target=5)
    assert task.options(32)["stop"] == ("\n",)
    task.fit([record(source="x", target="a\nb")])
    assert "stop" not in task.options(32)


# --- the verdict


def test_figures_and_report(task, record, tokenizer, network):
    pytest.importorskip("sacrebleu")
    given = [record(i, **pair) for i, pair in enumerate((PAIR, OTHER) * 3, start=1)]
    model = network("language")
    figures = task.evaluate(ModelRunner(model, tokenizer, 32), given)
    assert set(figures) == set(task.figures) == {"loss", "perplexity", "bleu", "chrf"}
    right = Written([one.fields["target"] for one in given], ended=[True] * 6)
    systems = {"Before tuning": task.opinion(ModelRunner(model, tokenizer, 32), given), "Tuned": right}
    report = task.report("t", given, {**systems, **task.baselines(given, given)})
    assert isinstance(report, Report)
    assert report.primary == "bleu"
    assert [system.name for system in report.systems] == ["Before tuning", "Tuned", "Copy of the source"]
    assert report.tuned.value("bleu") == pytest.approx(100)
    assert report.systems[0].value("perplexity") == pytest.approx(figures["perplexity"], rel=1e-5)
    assert report.systems[2].predictions == [one.fields["source"] for one in given]
    assert {(c.other, c.metric) for c in report.comparisons} >= {("Copy of the source", "bleu")}
    assert any("sacrebleu" in note and "tok:zh" in note for note in report.notes)
    assert report.worst == []
    assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_the_worst_texts_come_first_with_their_rows(task, record):
    pytest.importorskip("sacrebleu")
    given = [record(i, source=f"s{i}", target="the cat sat on the mat") for i in (4, 5, 6)]
    said = Written(["the cat sat on the mat", "zzz", "the cat sat"], ended=[True, True, False], cut=[0, 3, 0])
    report = task.report("t", given, {"Tuned": said})
    assert [(one.row, one.predicted) for one in report.worst] == [(5, "zzz"), (6, "the cat sat")]
    notes = " ".join(report.notes)
    assert "1 of 3 sources were too long" in notes
    assert "1 of 3 texts were ended by the limit" in notes


def test_a_saved_task_is_the_same_again(task):
    from gptwo.recipe import load_recipe

    again = restore_task({**task.describe()}, "language")
    assert isinstance(again, Translate)
    assert again.describe() == task.describe()
    keys = {"task.name": "translate", "task.decode.num_beams": 2, "task.max_target": 7, "task.evaluate_texts": 0}
    made = make_task(load_recipe(None, keys, environment={}).task)
    assert isinstance(made, Translate)
    assert (made.decode["num_beams"], made.max_target, made.figures) == (2, 7, ("loss", "perplexity"))


def test_records_evenly_spread():
    assert evenly(range(10), 3) == [0, 3, 6]
    assert evenly(range(3), 5) == [0, 1, 2]
