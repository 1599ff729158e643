"""Runs that tune an adapter: from records to a folder that predicts, writes, is measured, and goes on after a kill."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import gptwo
from gptwo.errors import DataError, UsageError
from gptwo.model import pretrained as models
from gptwo.train.apply import measure, predict, records_of_texts
from gptwo.train.checkpoint import list_checkpoints
from gptwo.train.events import read_events
from gptwo.train.finetune import finetune

FAST = {
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "optimizer.learning_rate": 3e-2,
    "track.trackers": ["events"],
    "model.dropout": 0.0,
}
NAMES = ("lora", "adalora", "houlsby", "pfeiffer", "parallel", "prefix", "prompt", "bitfit", "ia3")


@pytest.fixture
def labelled(tmp_path):
    rows = [{"text": f"the {word} sat {i}", "label": word} for i in range(30) for word in ("cat", "dog")]
    for name, part in (("train", rows[:48]), ("test", rows[48:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part), encoding="utf-8")
    return tmp_path


@pytest.fixture
def tune(base_folder, labelled):
    """`tune("lora", …)`: a run in labelled/run."""

    def run(adapter, task="classify", out="run", model=base_folder, resume=False, **given):
        settings = {**FAST, "adapter.name": adapter, **{key.replace("__", "."): v for key, v in given.items()}}
        return finetune(
            model,
            task=task,
            train=labelled / "train.jsonl",
            test=labelled / "test.jsonl",
            out=labelled / out,
            settings=settings,
            resume=resume,
        )

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_run_learns_and_its_folder_predicts(tune, labelled, base_folder, name):
    run = tune(name, train__epochs=8, train__log_every=6)
    first, *_, last = (event["loss"] for event in read_events(run.folder) if event["kind"] == "step")
    assert last < first
    assert {path.name for path in (labelled / "run" / "best").iterdir()} >= {"adapter_config.json", "gptwo.json"}
    assert not (labelled / "run" / "best" / "config.json").exists()
    said = predict(labelled / "run", labelled / "test.jsonl", precision="fp32")
    assert [row["label"] for row in said] == run.report.tuned.predictions
    again = measure(labelled / "run", [str(labelled / "test.jsonl")], precision="fp32")
    assert again.tuned.value("log_loss") == pytest.approx(run.report.tuned.value("log_loss"), rel=1e-5)
    base = dict(models.load(base_folder).model.transformer.named_parameters())
    for place, tensor in run.model.model.transformer.named_parameters():
        if place in base and f"transformer.{place}" not in run.model.adapter.tuned:
            assert torch.equal(tensor, base[place]), place


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_a_language_model_writes_with_its_adapter(tune, labelled, name):
    run = tune(name, "language", train__steps=6, train__sample_every=3)
    assert run.report.samples
    (text,) = gptwo.Engine(labelled / "run").generate("the cat", max_new_tokens=8, temperature=0)
    assert text == gptwo.Engine(run.model).generate("the cat", max_new_tokens=8, temperature=0)[0]
    assert measure(labelled / "run", [str(labelled / "test.jsonl")], precision="fp32").tuned is not None


@pytest.mark.parametrize("packed", [True, False])
def test_packed_or_padded_virtual_tokens_learn_the_same(tune, packed):
    run = tune("prompt", out=f"run{packed}", train__epochs=1, data__packed=packed, train__clip=0.0)
    losses = [event["loss"] for event in read_events(run.folder) if event["kind"] == "eval" and "loss" in event]
    assert run.outcome.evaluations, losses


@pytest.mark.parametrize("name", ["lora", "adalora", "prefix", "houlsby"])
def test_resumed_equals_uninterrupted(tune, labelled, monkeypatch, name):
    from gptwo.train import trainer

    settings = {
        "train__epochs": 3,
        "model__dropout": 0.1,
        "adapter__dropout": 0.1,
        "adapter__rank_every": 2,
        "optimizer__name": "muon" if name == "lora" else "adamw",
        "train__checkpoint_every": 4,
        "train__log_every": 1,
    }
    whole = tune(name, out="whole", **settings)
    real = trainer._Loop.step

    def step(loop, loader):
        if loop.progress.step == 11:
            raise KeyboardInterrupt
        return real(loop, loader)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Loop, "step", step)
        with pytest.raises(KeyboardInterrupt):
            tune(name, out="cut", **settings)
    resumed = tune(name, out="cut", resume=True, **settings)

    def course(out):
        kinds = ("step", "eval", "ranks")
        kept = ("kind", "step", "loss", "grad_norm", "metrics", "ranks", "budget")
        return [
            {key: event[key] for key in kept if key in event}
            for event in read_events(labelled / out)
            if event["kind"] in kinds
        ]

    assert course("cut") == course("whole")
    one, other = (dict(run.model.model.named_parameters()) for run in (whole, resumed))
    assert all(torch.equal(one[place], other[place]) for place in one)
    assert resumed.report.to_dict()["systems"] == whole.report.to_dict()["systems"]


def test_checkpoints_hold_what_is_tuned_alone(tune, labelled):
    run = tune("lora", train__steps=3)
    (newest, *_) = reversed(list_checkpoints(labelled / "run"))
    assert set(load_file(newest / "model.safetensors")) == set(run.model.adapter.tuned)
    moments = {name.partition("|")[0] for name in load_file(newest / "optimizer.safetensors")}
    assert moments == set(run.model.adapter.tuned)


def test_ranks_over_time_are_in_the_log_and_end_at_the_budget(tune, labelled):
    run = tune("adalora", train__epochs=4, adapter__rank=2, adapter__initial_rank=4, adapter__rank_every=3)
    found = [event for event in read_events(labelled / "run") if event["kind"] == "ranks"]
    assert len(found) > 2
    assert found[0]["step"] == 0
    assert set(found[0]["ranks"].values()) == {4}
    assert found[0]["budget"] == 32 > found[-1]["budget"] == 16
    assert sum(found[-1]["ranks"].values()) == 16
    assert [event for event in run.report.events if event["kind"] == "ranks"] == found
    assert "Ranks that AdaLoRA chose" in (labelled / "run" / "report.html").read_text(encoding="utf-8")
    assert run.outcome.reason == "finished"


def test_an_adapter_with_a_freezing_policy(tune):
    run = tune("lora", train__steps=3, freeze__policy="last", freeze__last=1, freeze__gradual_every=2)
    for name, tensor in run.model.model.named_parameters():
        if name.endswith("lora_B"):
            assert bool(tensor.any()) == (".h.1." in name), name


def test_the_report_and_the_log_say_what_was_tuned(tune, labelled):
    run = tune("lora", train__steps=2)
    (start,) = (event for event in read_events(labelled / "run") if event["kind"] == "start")
    assert 0 < start["tuned"] < start["parameters"] / 2
    assert any("lora" in note for note in run.report.notes)


def test_a_tuned_adapter_can_be_tuned_on(tune, labelled):
    tune("lora", out="first", train__epochs=6)
    more = tune("ia3", out="second", model=labelled / "first", train__steps=1, optimizer__learning_rate=1e-9)
    assert more.report.systems[0].value("accuracy") == 1.0
    assert gptwo.load(labelled / "second").adapter.config.name == "ia3"
    whole = tune("none", out="third", model=labelled / "first", train__steps=1, optimizer__learning_rate=1e-9)
    assert whole.model.adapter is None
    assert whole.report.tuned.value("accuracy") == 1.0


def test_pretraining_goes_on_with_an_adapter(base_folder, tmp_path):
    from gptwo.recipe import load_recipe
    from gptwo.train.pretrain import pretrain

    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 60, encoding="utf-8")
    settings = {
        **FAST,
        "model.base": str(base_folder),
        "data.train": [str(tmp_path / "a.txt")],
        "data.valid": [str(tmp_path / "a.txt")],
        "data.block_size": 16,
        "adapter.name": "lora",
        "train.steps": 4,
        "train.batch_size": 2,
    }
    best = pretrain(load_recipe(None, settings, environment={}), tmp_path / "run")
    assert best.adapter.config.name == "lora"
    assert gptwo.load(tmp_path / "run").adapter is not None


# --- what cannot work


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"adapter__rank": 99}, "larger than the matrix"),
        ({"adapter__targets": ["q_proj"]}, "no linear layer 'q_proj'"),
        ({"model__random": True}, "random weights"),
        ({"adapter__nme": 1}, "Did you mean 'name'"),
        ({"freeze__policy": "pattern", "freeze__pattern": "wte"}, "No parameter is left"),
    ],
)
def test_what_cannot_work_is_told_before_training(tune, labelled, given, words):
    with pytest.raises(UsageError, match=words):
        tune("lora", **given)
    assert not (labelled / "run" / "events.jsonl").exists()


def test_a_prefix_longer_than_the_context(tune):
    with pytest.raises(UsageError, match="no room"):
        tune("prefix", adapter__tokens=48)


def test_a_run_does_not_go_on_over_another_base(tune, base_folder, tmp_path):
    import shutil

    from tests.adapt.kinds import shake

    shutil.copytree(base_folder, tmp_path / "base")
    tune("lora", model=tmp_path / "base", train__steps=2)
    other = models.load(base_folder)
    shake(other.model, 0.1)
    models.save(other, tmp_path / "base")
    with pytest.raises(DataError, match="base of the adapter is not the one"):
        tune("lora", model=tmp_path / "base", train__steps=2, resume=True)


def test_predictions_of_texts(tune, labelled):
    tune("lora", train__epochs=6)
    said = predict(labelled / "run", records_of_texts(["the cat sat 77", "the dog sat 78"]), precision="fp32")
    assert [row["label"] for row in said] == ["cat", "dog"]
