"""A resumed run is the uninterrupted one, to the last bit, however it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptwo.data.pack import pack
from gptwo.errors import Interrupted
from gptwo.model.pretrained import load
from gptwo.recipe import load_recipe
from gptwo.train.checkpoint import list_checkpoints
from gptwo.train.events import EventsFile, read_events
from gptwo.train.pretrain import pretrain
from gptwo.train.run import begun_recipe

STEPS = 6


@pytest.fixture(scope="session")
def shards(tokenizer, texts_folder, tmp_path_factory):
    """Packed texts, so that no run has to."""
    folder = tmp_path_factory.mktemp("shards")
    tokenizer.save(folder / "tokenizer")
    for name in ("train", "valid"):
        pack(texts_folder / f"{name}.txt", folder / name, folder / "tokenizer", workers=0, progress=False)
    return folder


@pytest.fixture(scope="session")
def recipe_of(shards):
    """A recipe in which everything that has a state has one: dropout, two optimizers, thawing, a moving schedule."""

    def make(**settings):
        return load_recipe(
            None,
            {
                "model.tokenizer": str(shards / "tokenizer"),
                "model.n_layer": 2,
                "model.n_embd": 8,
                "model.n_head": 2,
                "model.n_positions": 16,
                "model.dropout": 0.1,
                "data.train": [str(shards / "train")],
                "data.valid": [str(shards / "valid")],
                "train.steps": STEPS,
                "train.batch_size": 2,
                "train.accumulate": 2,
                "train.precision": "fp32",
                "train.threads": 1,
                "train.log_every": 1,
                "train.evaluate_every": 2,
                "train.checkpoint_every": 2,
                "optimizer.name": "muon",
                "optimizer.learning_rate": 1e-2,
                "schedule.name": "cosine",
                "track.trackers": ["events"],
                **{key.replace("__", "."): value for key, value in settings.items()},
            },
            environment={},
        )

    return make


def course(folder: Path) -> list[tuple]:
    """What a run did: every loss and evaluation, bit by bit."""
    events = read_events(folder)
    return [
        (event["kind"], event["step"], event.get("loss"), event.get("grad_norm"), event.get("metrics"))
        for event in events
        if event["kind"] in ("step", "eval")
    ]


@pytest.fixture(scope="session")
def whole(recipe_of, tmp_path_factory):
    """`whole(**settings)`: the folder of a run that nothing interrupted."""
    made = {}

    def make(**settings) -> Path:
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            pretrain(recipe_of(**settings), made[key])
        return made[key]

    return make


def is_same_run(folder: Path, wanted: Path, same_weights) -> bool:
    return course(folder) == course(wanted) and same_weights(load(folder).model, load(wanted).model)


SETTINGS = {
    "muon and thawing": {"freeze__gradual_every": 2},
    "adamw, decay by layer": {"optimizer__name": "adamw", "optimizer__layer_decay": 0.5, "optimizer__l2": 0.01},
    "recomputed": {"train__gradient_checkpointing": True},
    "bf16": {"train__precision": "bf16"},
    "a log line over several steps": {"train__log_every": 4},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_resumed_equals_uninterrupted(recipe_of, whole, tmp_path, monkeypatch, same_weights, settings):
    from gptwo.train import trainer

    real = trainer._Loop.step

    def step(loop, loader):
        if loop.progress.step == stops.pop(0):
            raise KeyboardInterrupt
        return real(loop, loader)

    wanted = whole(**settings)
    monkeypatch.setattr(trainer._Loop, "step", step)
    stops = [-1, -1, -1, 3, *[-1] * 2, 4, *[-1] * 9]  # at step 3, then, from the checkpoint of step 2, at step 4
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe_of(**settings), tmp_path / "run", resume=True)
    pretrain(recipe_of(**settings), tmp_path / "run", resume=True)
    assert is_same_run(tmp_path / "run", wanted, same_weights)


def test_other_dropout_or_data_order_would_be_noticed(recipe_of, whole, tmp_path):
    """The comparison above can fail."""
    pretrain(recipe_of(train__seed=1), tmp_path / "run")
    assert course(tmp_path / "run") != course(whole())


def in_child(work, die: dict[str, int]) -> int:
    """Run in a child process that is killed at the n-th call of some of: fsync, rename, remove, event. Its exit code.

    Returns:
        0 where it got through, -9 where it was killed.
    """
    child = os.fork()
    if child == 0:
        left = dict(die)

        def count(name: str) -> None:
            left[name] = left.get(name, 0) - 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        fsync, on_event = os.fsync, EventsFile.on_event
        os.fsync = lambda handle: (count("fsync"), fsync(handle))[1]
        EventsFile.on_event = lambda tracker, event: (on_event(tracker, event), count("event"))[0]
        sys.addaudithook(lambda event, _: count(event.removeprefix("os.")) if event.startswith("os.re") else None)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Moments of a run of 6 steps with a checkpoint and a new best model every second one.
MOMENTS = [
    {"event": 2},
    {"event": 6},
    {"event": 9},
    *({"fsync": number} for number in (3, 12, 17, 20, 22, 33)),
    *({"rename": number} for number in (2, 4, 7)),
    *({"remove": number} for number in (1, 9, 14)),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(f"{k}{v}" for k, v in moment.items()))
def test_killed_and_resumed_equals_uninterrupted(recipe_of, whole, tmp_path, same_weights, moment):
    settings = {"freeze__gradual_every": 2, "train__keep_last": 1}
    wanted = whole(**settings)
    folder = tmp_path / "run"
    assert in_child(lambda: pretrain(recipe_of(**settings), folder), moment) == -signal.SIGKILL
    assert in_child(lambda: pretrain(recipe_of(**settings), folder, resume=True), {}) == 0
    assert is_same_run(folder, wanted, same_weights)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000006"]
    assert not list(folder.glob(".best*"))


def test_a_kill_never_costs_more_than_the_steps_since_the_last_checkpoint(recipe_of, tmp_path):
    folder = tmp_path / "run"
    assert in_child(lambda: pretrain(recipe_of(), folder), {"event": 9}) == -9
    steps = [event["step"] for event in read_events(folder) if event["kind"] == "checkpoint"]
    assert [path.name for path in list_checkpoints(folder)][-1] == f"step-{steps[-1]:06d}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_and_resumed_equals_uninterrupted(
    recipe_of, whole, tmp_path, monkeypatch, same_weights, number
):
    real = EventsFile.on_event

    def on_event(tracker, event):
        real(tracker, event)
        if event["kind"] == "step" and event["step"] == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(EventsFile, "on_event", on_event)
    with pytest.raises(Interrupted):
        pretrain(recipe_of(), tmp_path / "run")
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-000003"
    monkeypatch.undo()
    monkeypatch.setattr("gptwo.runtime.matmul_rate", lambda precision, device: 1e9)
    pretrain(recipe_of(), tmp_path / "run", resume=True)
    assert is_same_run(tmp_path / "run", whole(), same_weights)


def test_a_signal_from_outside_saves_and_ends_with_130(recipe_of, tmp_path):
    """The whole command, in a process of its own, stopped once its log shows a step."""
    recipe = recipe_of(train__steps=1_000_000, train__evaluate_every=1_000_000, train__checkpoint_every=1_000_000)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    events = tmp_path / "run" / "events.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "gptwo", "pretrain", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        for _ in range(6000):
            if process.poll() is not None or (events.is_file() and '"step", "step": 2,' in events.read_text()):
                break
            time.sleep(0.05)  # between two looks
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "a checkpoint was saved" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert out == ""
    assert len(list_checkpoints(tmp_path / "run")) == 1
    assert read_events(tmp_path / "run")[-1]["reason"] == "interrupted"


def test_a_finished_run_can_be_resumed_and_is_finished(recipe_of, tmp_path, same_weights):
    first = pretrain(recipe_of(), tmp_path / "run")
    before = course(tmp_path / "run")
    again = pretrain(recipe_of(), tmp_path / "run", resume=True)
    assert same_weights(first.model, again.model)
    assert course(tmp_path / "run") == before


def test_a_run_can_be_made_longer(recipe_of, tmp_path):
    settings = {"schedule__name": "constant", "schedule__warmup": 0}
    pretrain(recipe_of(**settings), tmp_path / "run")
    pretrain(recipe_of(**settings, train__steps=9), tmp_path / "run", resume=True)
    pretrain(recipe_of(**settings, train__steps=9), tmp_path / "whole")
    assert course(tmp_path / "run")[-1] == course(tmp_path / "whole")[-1]


def test_without_a_recipe_a_resumed_run_takes_its_own(recipe_of, tmp_path):
    recipe = recipe_of()
    pretrain(recipe, tmp_path / "run")
    assert begun_recipe(tmp_path / "run", resume=False) is None
    assert load_recipe(begun_recipe(tmp_path / "run", resume=True), environment={}) == recipe
