"""`gptwo finetune`: Chinese data, one JSON object, a clear word and the right exit code for every mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptwo.train.checkpoint import list_checkpoints

COLUMNS = ("--columns", "text=正文,label=标签")


@pytest.fixture
def finetune(command, base, reviews, quick):
    """`finetune("--flag", …)` of the tiny model on the reviews, into the folder `run`."""

    def call(*more: object, model=base, train=reviews, task="classify", out="run", **given):
        flags = ["--out", out]
        for name, value in (("--model", model), ("--train", train), ("--task", task)):
            flags += [name, value] if value is not None else []
        columns = COLUMNS if train == reviews else ()
        return command("finetune", *flags, *columns, *quick, *more, **given)

    return call


def test_a_run_prints_its_report_and_what_to_do_next(finetune, reviews, tmp_path):
    code, out, err = finetune()
    assert (code, out) == (0, "")
    for words in ("rejected", "Before tuning", "Tuned", "Majority class", "TF-IDF", "好评", "step 6/6", "set aside"):
        assert words in err
    assert 'use it: gptwo predict --model run "a text"' in err
    (row,) = (json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines())
    assert (row["file"], row["row"], row["reason"]) == (str(reviews), 4, "'text' is empty")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("rejects.jsonl" in note for note in report["notes"])
    assert "评论.csv" in (tmp_path / "run" / "report.html").read_text()


def test_json_is_one_object_on_stdout(finetune, one_object):
    code, out, err = finetune("--json")
    assert code == 0
    report = one_object(out)
    assert report["task"] == "classify"
    assert [system["role"] for system in report["systems"]] == ["before", "tuned", "baseline", "baseline"]
    assert "step 6/6" in err


def test_a_run_that_diverges_says_where_and_the_way_back_and_its_checkpoints_stay(finetune, tmp_path):
    steep = ("--learning-rate", "1e30", "--set", "train.checkpoint_every=1", "--set", "schedule.name=constant")
    code, out, err = finetune(*steep)
    assert (code, out) == (3, "")
    for words in ("training has diverged", "where: step ", "评论.csv:", "optimizer.learning_rate", "goes on from"):
        assert words in err
    assert "Traceback" not in err
    assert list_checkpoints(tmp_path / "run")


def test_strict_stops_at_the_bad_row(finetune, reviews):
    code, out, err = finetune("--strict")
    assert (code, out) == (3, "")
    assert f"where: {reviews}:4" in err


def test_a_used_folder(finetune):
    assert finetune()[0] == 0
    code, _, err = finetune()
    assert code == 2
    assert "--resume" in err
    assert "--overwrite" in err
    code, _, err = finetune("--resume", "--overwrite")
    assert code == 2
    assert "give one of them" in err
    code, _, err = finetune("--resume")
    assert code == 0
    assert "resumed at step 6" in err
    code, _, err = finetune("--resume", "--batch-size", "4")
    assert code == 2
    assert "train.batch_size was 8 and is 4" in err
    code, _, err = finetune("--overwrite", "--batch-size", "4")
    assert code == 0
    assert "resumed" not in err


def test_resuming_without_anything_else_takes_the_runs_own_recipe(finetune, command):
    assert finetune()[0] == 0
    assert command("finetune", "--resume", "--out", "run")[0] == 0
    code, _, err = command("finetune", "--resume", "--out", "elsewhere")
    assert code == 2
    assert "no run to go on with" in err


def test_a_recipe_of_init_runs(command, base, reviews, quick):
    assert command("init", "classify")[0] == 0
    code, _, err = command(
        "finetune",
        "recipe.toml",
        "--model",
        base,
        "--train",
        reviews,
        "--test",
        reviews,
        *COLUMNS,
        *quick,
        "--out",
        "run",
    )
    assert code == 0, err


def test_flags_go_over_the_environment_and_that_over_the_recipe(command, base, reviews, quick, monkeypatch, tmp_path):
    (tmp_path / "recipe.toml").write_text("[train]\nseed = 1\nclip = 0.1\nlog_every = 1\n")
    monkeypatch.setenv("GPTWO__TRAIN__SEED", "2")
    monkeypatch.setenv("GPTWO__TRAIN__CLIP", "0.2")
    flags = ("--model", base, "--train", reviews, "--task", "classify", *COLUMNS, *quick, "--out", "run")
    assert command("finetune", "recipe.toml", *flags, "--set", "train.seed=3")[0] == 0
    written = (tmp_path / "run" / "recipe.toml").read_text()
    assert "seed = 3\n" in written
    assert "clip = 0.2\n" in written
    assert "log_every = 1\n" in written


def test_a_gate_decides_the_exit_code_after_the_report(finetune, tmp_path):
    code, out, err = finetune("--fail-under", "accuracy=1.1", "--json")
    assert code == 5
    assert json.loads(out)["task"] == "classify"
    assert "below 1.1" in err
    assert finetune("--fail-under", "log_loss=100", "--overwrite")[0] == 0
    assert finetune("--fail-under", "log_loss=0.0", "--overwrite")[0] == 5


@pytest.mark.parametrize(
    ("gate", "words"), [("accuracy", "not metric=value"), ("acuracy=1", "Did you mean 'accuracy'"), ("=1", "no metric")]
)
def test_a_gate_that_cannot_be_is_told_before_training(finetune, tmp_path, gate, words):
    code, _, err = finetune("--fail-under", gate)
    assert code == 2
    assert words in err
    assert not (tmp_path / "run").exists()


FILES = {
    "empty.csv": "",
    "header.csv": "text,label\n",
    "misspelt.csv": "text,lable\na,b\n",
    "one-label.csv": "text,label\na,x\nb,x\n",
    "broken.toml": "[train]\nsteps = \n",
    "unknown.toml": "[train]\nstepz = 3\n",
    "range.toml": "[train]\nsteps = 0\n",
}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--train", "empty.csv"], 3, r"no rows[\s\S]*empty\.csv"),
        (["--train", "header.csv"], 3, r"no rows[\s\S]*header\.csv"),
        (["--train", "misspelt.csv"], 3, r"no column 'label'[\s\S]*misspelt\.csv[\s\S]*Did you mean 'lable'"),
        (["--train", "one-label.csv"], 3, "needs two labels"),
        (["--train", "nowhere.csv"], 3, r"no such file[\s\S]*nowhere\.csv"),
        (["--train", "good.csv", "--set", "train.stepz=1"], 2, "Did you mean 'steps'"),
        (["--train", "good.csv", "--set", "steps=1"], 2, r"write train\.steps"),
        (["--train", "good.csv", "--set", "nonsense"], 2, "key=value"),
        (["--train", "good.csv", "--columns", "text"], 2, "is no pair"),
        (["--train", "good.csv", "--task", "clasify"], 2, "'classify'"),
        (["--train", "good.csv", "--device", "cude"], 2, "Did you mean 'cuda'"),
        (["--train", "good.csv", "--freeze", "haed"], 2, "freeze.policy"),
        (["--train", "good.csv", "--epochs", "0"], 2, r"train\.epochs[\s\S]*greater than 0"),
        (["--train", "good.csv", "--model", "no-such-model"], 4, "not on this machine|There is no such model"),
        (["--train", "good.csv", "--no-such-flag"], 2, "No such option"),
        (["--train", "good.csv", "--epochs", "many"], 2, "--epochs"),
        (["broken.toml"], 2, r"not valid TOML[\s\S]*line 2"),
        (["unknown.toml"], 2, r"unknown\.toml: train\.stepz"),
        (["range.toml"], 2, r"range\.toml: train\.steps"),
        (["nowhere.toml"], 4, "no such recipe"),
        ([], 2, "no records to learn from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_has_its_words_and_its_exit_code(command, base, tmp_path, arguments, code, words):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "good.csv").write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    found, out, err = command("finetune", "--model", base, "--task", "classify", *arguments, "--out", "run")
    assert (found, out) == (code, "")
    assert re.search(words, err), err
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_without_a_model_the_flag_is_named(command, reviews):
    code, _, err = command("finetune", "--task", "classify", "--train", reviews)
    assert code == 2
    assert "model.base" in err
    assert "--model" in err


def test_a_file_where_the_run_folder_should_be(finetune, tmp_path):
    (tmp_path / "run").write_text("x")
    code, _, err = finetune()
    assert code == 1
    assert "run folder cannot be written" in err


def test_an_interrupted_run_ends_with_130_and_can_go_on(finetune, monkeypatch, tmp_path):
    import os
    import signal

    from gptwo.train.events import EventsFile

    real = EventsFile.on_event

    def on_event(tracker, event):
        real(tracker, event)
        if event["kind"] == "eval":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(EventsFile, "on_event", on_event)
        code, out, err = finetune("--json", "--steps", "40")
    assert (code, out) == (130, "")
    assert "a checkpoint was saved" in err
    assert len(list_checkpoints(tmp_path / "run")) == 1
    code, _, err = finetune("--resume", "--steps", "40")
    assert code == 0, err


def test_the_whole_command_in_a_process_of_its_own(base, reviews, quick, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gptwo", "finetune", "--model", base, "--task", "classify", "--train", reviews, *COLUMNS,
         *quick, "--out", tmp_path / "run", "--json"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "classify"
