"""`gptwo tune`: a table for a person, one JSON object for a program, the right exit code for every mistake."""

from __future__ import annotations

import pytest

RANGE = "search.optimizer.learning_rate={low = 1e-3, high = 3e-2, log = true}"


@pytest.fixture
def tune(command, base, reviews, quick):
    """`tune("--flag", …)` of the tiny model on the reviews, into the folder `tune`."""

    def call(*more: object, ranges=RANGE, model=base):
        flags = ["--model", model, "--train", reviews, "--task", "classify", "--columns", "text=正文,label=标签"]
        flags += ["--set", ranges] if ranges else []
        for name, value in (("steps", 6), ("batch_size", 8)):
            flags += ["--set", f"train.{name}={value}"]
        return command("tune", *flags, "--out", "tune", "--threads", 1, "--precision", "fp32", *more)

    return call


def test_a_search_prints_its_trials_and_what_to_do_next(tune, command):
    code, out, err = tune("--trials", 2)
    assert (code, out) == (0, "")
    for words in ("trial 1/2: accuracy", "trial 2/2", "Trials, on the validation data", "optimizer.learning_rate"):
        assert words in err
    assert "gptwo finetune tune/best.toml --out runs/best" in err
    code, _, err = command("finetune", "tune/best.toml", "--out", "again")
    assert code == 0, err
    code, out, _ = command("predict", "--model", "again", "猫")
    assert (code, out.count("\n")) == (0, 1)


def test_json_is_one_object(tune, one_object):
    code, out, _ = tune("--trials", 2, "--json", "--set", "search.sampler=random")
    assert code == 0
    found = one_object(out)
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"]
    assert found["best"] in found["trials"]
    assert found["report"]["task"] == "classify"
    code, out, _ = tune("--resume", "--trials", 3, "--json", "--set", "search.sampler=random")
    assert (code, len(one_object(out)["trials"])) == (0, 3)


def test_mistakes(tune):
    code, _, err = tune(ranges=None)
    assert code == 2
    assert 'fix:   "optimizer.learning_rate" = {' in err
    code, _, err = tune(ranges="search.optimizer.learning_rte=[1]")
    assert code == 2
    assert "Did you mean 'learning_rate'" in err
    code, _, err = tune("--resume", "--lr-range")
    assert code == 2
    code, _, err = tune(model="nowhere")
    assert code == 4
    code, _, err = tune("--trials", 1)
    assert code == 0
    code, _, err = tune("--trials", 1)
    assert code == 2
    assert "--resume" in err


def test_a_gate(tune):
    assert tune("--trials", 1, "--fail-under", "log_loss=0.0001")[0] == 5


def test_the_range_test_of_learning_rates(tune, tmp_path, one_object):
    code, out, err = tune("--lr-range", ranges=None)
    assert (code, out) == (0, "")
    assert "try:  --learning-rate " in err
    assert (tmp_path / "tune" / "rates.html").is_file()
    code, out, _ = tune("--lr-range", "--overwrite", "--json", ranges=None)
    assert code == 0
    assert one_object(out)["suggested"] > 0


def test_without_optuna_the_error_names_the_extra(tune, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = tune()
    assert code == 4
    assert 'pip install "gptwo[tune]"' in err
