"""A run looked at: each thing that can go wrong is found, with advice, and a good run has none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gptwo.errors import DataError, MissingError
from gptwo.evaluate.assess import assess_classification
from gptwo.evaluate.metrics import Predictions
from gptwo.recipe import load_recipe
from gptwo.train.inspect_run import inspect_run
from gptwo.train.pretrain import pretrain


@pytest.fixture
def run(tmp_path):
    """`run(losses, …)`: a run folder with these events; its findings by name."""

    def make(losses, evals=(), norms=None, reason="finished", metric="loss", vocab=None, report=None, recipe=""):
        events = [{"kind": "start", "step": 0, "total": len(losses)}]
        for step, loss in enumerate(losses, start=1):
            norm = norms[step - 1] if norms else 1.0
            events.append({"kind": "step", "step": step, "loss": loss, "grad_norm": norm})
        for step, metrics in evals:
            events.append({"kind": "eval", "step": step, "metrics": metrics, "metric": metric})
        if reason:
            events.append({"kind": "end", "step": len(losses), "reason": reason})
        lines = [json.dumps({"time": 0.0, **event}) for event in events]
        (tmp_path / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
        if vocab:
            (tmp_path / "best").mkdir(exist_ok=True)
            config = {"vocab_size": vocab, "architectures": ["GPT2LMHeadModel"]}
            (tmp_path / "best" / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if report is not None:
            report.write(tmp_path)
        return {finding.check: finding for finding in inspect_run(tmp_path)}

    return make


def falling(count=100, start=4.0, end=2.0):
    return [end + (start - end) * math.exp(-5 * i / count) for i in range(count)]


def test_a_good_run_has_no_errors_or_warnings(run):
    found = run(falling(), [(50, {"loss": 2.5}), (100, {"loss": 2.3})], vocab=300)
    assert {finding.severity for finding in found.values()} == {"info"}
    assert "ln V 5.704" in found["loss"].what
    assert found["ended"].what == "the run ended at step 100 of 100: finished"


def test_a_loss_no_better_than_guessing(run):
    found = run([5.7] * 30, [(30, {"loss": 5.7, "bits_per_byte": 4.1})], vocab=300)
    assert found["no-better-than-guessing"].severity == "error"
    assert "4.100 bits per byte" in found["loss"].what
    assert "--lr-range" in found["no-better-than-guessing"].fix


def test_overfitting_names_the_step_it_began_at(run):
    evals = [(20, {"loss": 3.0}), (40, {"loss": 2.6}), (60, {"loss": 2.8}), (100, {"loss": 3.5})]
    found = run(falling(), evals, vocab=300)
    assert found["overfitting"].severity == "warning"
    assert "step 40" in found["overfitting"].what
    assert "patience" in found["overfitting"].fix
    calm = run(falling(), [(20, {"loss": 3.0}), (40, {"loss": 2.6}), (100, {"loss": 2.62})], vocab=300)
    assert "overfitting" not in calm


def test_a_loss_that_rises_again_has_diverged(run):
    found = run(falling(60) + [2.1 + 0.1 * i for i in range(40)])
    assert found["divergence"].severity == "error"
    assert "learning_rate" in found["divergence"].fix
    assert "divergence" not in run(falling() + [2.0] * 50)


def test_slow_growth_of_the_gradient_norm_is_a_warning(run):
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    grows = [0.5 * math.exp(2 * i / 200 + noise[i]) for i in range(200)]
    found = run(falling(200), norms=grows)
    assert found["gradient-growth"].severity == "warning"
    level = run(falling(200), norms=[0.5 * math.exp(x) for x in noise])
    assert "gradient-growth" not in level
    clipped = run(falling(200), norms=[5.0] * 200)
    assert clipped["always-clipped"].severity == "info"


def test_a_run_that_failed_or_did_not_end(run):
    found = run([2.0] * 30, reason="failed: The loss is nan")
    assert found["failed"].severity == "error"
    assert "The loss is nan" in found["failed"].what
    assert run([2.0] * 30, reason=None)["unfinished"].severity == "warning"
    assert "interrupted" in run([2.0] * 30, reason="interrupted")["unfinished"].what


def test_training_that_still_gains(run):
    evals = [(step, {"accuracy": step / 100}) for step in (20, 40, 60, 80)]
    found = run(falling(80), evals, metric="accuracy")
    assert "accuracy" in found["still-improving"].what
    level = [(20, {"accuracy": 0.2}), (40, {"accuracy": 0.8}), (60, {"accuracy": 0.8}), (80, {"accuracy": 0.8})]
    assert "still-improving" not in run(falling(80), level, metric="accuracy")


def report(tuned, **more):
    gold = ["a"] * 40 + ["b"] * 20
    said = {"Tuned": Predictions(tuned), "TF-IDF + logistic regression": Predictions(gold)}
    return assess_classification(title="t", gold=gold, texts=["x"] * 60, predictions=said, **more)


def test_a_collapse_and_a_loss_to_the_baseline(run):
    found = run(falling(), report=report(["a"] * 60, warnings=["12 test records stand in the training data"]))
    assert "'a'" in found["label-collapse"].what
    assert "class_weights" in found["label-collapse"].fix
    assert "LOSES" in found["loses"].what
    assert "12 test records" in found["doubtful-figures"].what
    assert "label-collapse" not in run(falling(), report=report(["a"] * 40 + ["b"] * 20))


def test_a_run_of_ours_and_the_entropy_of_its_tokens(base_folder, texts_folder, tmp_path):
    recipe = load_recipe(
        None,
        {
            "model.base": str(base_folder),
            "data.train": str(texts_folder / "train.txt"),
            "data.valid": str(texts_folder / "valid.txt"),
            "train.steps": 4,
            "train.precision": "fp32",
            "train.threads": 1,
            "track.trackers": ["events"],
        },
        {},
    )
    pretrain(recipe, tmp_path / "run")
    found = {finding.check: finding for finding in inspect_run(tmp_path / "run")}
    marks = found["loss"].detail["references"]
    assert 0 < marks["unigram entropy"] < marks["ln V"]
    assert "bits per byte" in found["loss"].what


def test_what_is_no_run(tmp_path):
    with pytest.raises(MissingError, match="no run in this folder"):
        inspect_run(tmp_path)
    (tmp_path / "events.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match="cannot be read"):
        inspect_run(tmp_path)
