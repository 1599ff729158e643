"""Tasks that write, end to end: records in, texts out, and the saved folder alone writes the same."""

from __future__ import annotations

import json

import pytest

import gptwo
from gptwo.errors import UsageError
from gptwo.evaluate.report import read_report
from gptwo.generate.engine import Engine
from gptwo.model.pretrained import load
from gptwo.tasks import restore_task
from gptwo.train.apply import measure, predict, records_of_texts
from gptwo.train.finetune import finetune

FAST = {
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "train.steps": 120,
    "train.evaluate_every": 60,
    "optimizer.learning_rate": 1e-2,
    "track.trackers": ["events"],
    "model.dropout": 0.0,
    "task.decode": {"num_beams": 2},
}
WORDS = {"the cat": "猫", "the dog": "狗", "a bird": "the old tree", "the log": "木头"}


@pytest.fixture
def tune(base_folder, tmp_path):
    """`tune("translate", rows, **settings)`: a run on the same records for train, valid and test."""

    def run(task, rows, **settings):
        path = tmp_path / f"{task}.jsonl"
        path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        files = dict.fromkeys(("train", "valid", "test"), path)
        keys = {**FAST, **{key.replace("__", "."): value for key, value in settings.items()}}
        return finetune(base_folder, task=task, out=tmp_path / "run", settings=keys, **files), path

    return run


def test_a_tiny_language_is_learned_and_the_folder_alone_translates_it(tune, tmp_path):
    pytest.importorskip("sacrebleu")
    rows = [{"source": source, "target": target} for source, target in WORDS.items()] * 2
    run, path = tune("translate", rows)
    tuned, names = run.report.tuned, [system.name for system in run.report.systems]
    assert names == ["Before tuning", "Tuned", "Copy of the source"]
    assert tuned.predictions == [row["target"] for row in rows]
    assert tuned.value("chrf") == pytest.approx(100)
    assert tuned.value("perplexity") < run.report.systems[0].value("perplexity")
    assert read_report(tmp_path / "run").to_dict() == run.report.to_dict()
    assert "<html" in (tmp_path / "run" / "report.html").read_text()

    said = predict(tmp_path / "run", path, precision="fp32")
    assert [(row["row"], row["target"]) for row in said] == list(enumerate(tuned.predictions, start=1))
    assert predict(tmp_path / "run", records_of_texts(["the dog"]))[0] == {
        "row": 1,
        "source": "the dog",
        "target": "狗",
    }
    again = measure(tmp_path / "run", [str(path)], precision="fp32")
    for key in ("bleu", "chrf", "perplexity"):
        assert again.tuned.value(key) == pytest.approx(tuned.value(key), rel=1e-5)
    (text,) = Engine(tmp_path / "run").generate("the cat\n=\n", temperature=0)  # the prompt is plain text
    assert text.text == "猫"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert {"loss", "perplexity", "bleu", "chrf"} <= set([e for e in events if e["kind"] == "eval"][-1]["metrics"])


def test_where_tuning_loses_to_the_copy_the_report_says_so(tune):
    pytest.importorskip("sacrebleu")
    text = "the cat sat on the mat. the dog sat on the log."
    rows = [{"source": f"{text} {i}", "target": f"{text} {i}"} for i in range(12)]
    run, _ = tune("translate", rows, train__steps=1, train__evaluate_every=1)
    losing = [verdict for verdict in run.report.to_dict()["verdicts"] if verdict["other"] == "Copy of the source"]
    assert losing[0]["outcome"] == "worse"
    assert "LOSES" in losing[0]["text"]


def test_summaries(tune, tmp_path):
    pytest.importorskip("rouge_score")
    rows = [{"text": [f"{source}. "] * 3, "short": [target]} for source, target in WORDS.items()]
    run, path = tune("summarize", rows * 2, data__columns={"document": "text", "summary": "short"})
    names = [system.name for system in run.report.systems]
    assert names == ["Before tuning", "Tuned", "First sentence", "First 3 sentences"]
    assert run.report.tuned.predictions == [row["short"][0] for row in rows * 2]
    said = predict(tmp_path / "run", path, precision="fp32")  # the columns are remembered
    assert [row["summary"] for row in said] == run.report.tuned.predictions


def test_answers_and_none(tune, tmp_path):
    rows = [
        {"context": "the cat sat on the mat", "question": "where", "answers": ["on the mat"]},
        {"context": "the cat sat on the mat", "question": "who", "answers": ["the cat", "a cat"]},
        {"context": "a bird sang", "question": "where", "answers": []},
        {"context": "a bird sang", "question": "who", "answers": ["a bird"]},
    ]
    run, path = tune("answer", rows * 2, task__max_target=14, train__steps=200)
    assert run.report.tuned.value("exact_match") == 1.0
    assert run.report.systems[2].name == "Most frequent answer"
    said = predict(tmp_path / "run", path, precision="fp32")
    assert [row["answer"] for row in said] == run.report.tuned.predictions
    assert said[2]["answer"] == ""
    (row,) = predict(tmp_path / "run", records_of_texts(["a bird sang\twho"]))
    assert row["answer"] == "a bird"


def test_a_dialogue_adds_its_roles_and_the_folder_alone_replies(tune, base_folder, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": source}, {"role": "assistant", "content": target}]}
        for source, target in WORDS.items()
    ]
    run, path = tune("dialogue", rows * 2)
    assert load(base_folder).tokenizer.token_to_id("<|user|>") is None
    best = load(tmp_path / "run")
    assert best.config.vocab_size == load(base_folder).config.vocab_size + 3
    assert restore_task(best.info, best.model.head_kind).name == "dialogue"
    assert run.report.tuned.predictions == [row["messages"][1]["content"] for row in rows * 2]
    assert run.report.tuned.value("hits_1") == 1.0
    (row,) = predict(tmp_path / "run", records_of_texts(["the dog"]))
    assert (row["messages"], row["reply"]) == ("the dog", "狗")
    again = measure(tmp_path / "run", [str(path)], precision="fp32")
    assert again.tuned.predictions == run.report.tuned.predictions


def test_a_bad_row_is_counted_and_set_aside(tune, tmp_path):
    pytest.importorskip("sacrebleu")
    rows = [{"source": source, "target": target} for source, target in WORDS.items()]
    run, _ = tune("translate", [*rows, {"source": "", "target": "x"}], train__steps=2, train__evaluate_every=2)
    assert "rejected" in " ".join(run.report.notes) or "reject" in " ".join(run.report.notes)
    assert (tmp_path / "run" / "rejects.jsonl").is_file()
    assert gptwo.__version__


def test_the_note_on_long_sources_says_what_they_must_fit_into(tune):
    rows = [{"context": "the cat sat on the mat. " * (12 if i < 2 else 1), "question": "who?", "answers": ["the cat"]}
            for i in range(6)]  # fmt: skip
    run, _ = tune("answer", rows, train__steps=1, train__evaluate_every=1, task__max_target=9)
    (note, *_) = [note for note in run.report.notes if note.startswith("train:")]
    assert "2 of 6 records do not fit into 48 tokens, of which 9 are for the answers; " in note


def test_code_is_measured_again_as_the_run_did_where_that_is_asked_for(tune, tmp_path):
    rows = [{"prompt": f"set x to {i}", "code": f"x = {i}", "tests": [f"assert x == {i}"]} for i in range(3)] * 2
    settings = {"train__steps": 1, "train__evaluate_every": 1, "task__execute": True, "task__tries": 5}
    settings |= {"task__decode": {"temperature": 0.8}, "task__max_target": 6, "task__evaluate_texts": 0}
    run, path = tune("code", rows, **settings)
    again = measure(tmp_path / "run", [str(path)], precision="fp32", execute=True)
    assert again.primary == run.report.primary == "pass_1"
    assert again.tuned.predictions == run.report.tuned.predictions
    for key in ("pass_1", "pass_5", "chrf"):
        assert again.tuned.value(key) == pytest.approx(run.report.tuned.value(key))
    quiet = measure(tmp_path / "run", [str(path)], precision="fp32")
    assert quiet.primary == "chrf"
    assert any("--execute" in note for note in quiet.notes)
    with pytest.raises(UsageError, match="without training records"):
        measure(tmp_path / "run", [str(path)], precision="fp32", train=[str(path)])
