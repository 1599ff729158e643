"""The run folder: who may write into it, and what a resumed run may have changed."""

from __future__ import annotations

import json

import pytest

from gptwo import runtime
from gptwo.errors import DataError, GptwoError, UsageError
from gptwo.recipe import load_recipe
from gptwo.runtime import Choice
from gptwo.train.run import open_run, read_environment, settle, write_environment

CPU, FP32 = Choice("cpu", ""), Choice("fp32", "")


def recipe(**settings):
    return load_recipe(None, {key.replace("__", "."): value for key, value in settings.items()}, environment={})


@pytest.fixture
def used(tmp_path):
    """The folder of a run with a checkpoint, a best model, a report and a file of the user's own."""
    folder = open_run(tmp_path / "run", recipe())
    for name in ("checkpoints/step-000004/progress.json", "best/config.json", "report.html", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "events.jsonl").write_text('{"kind": "start", "step": 0}\n')
    return folder


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_new_run_gets_its_folder_and_its_recipe(tmp_path):
    asked = recipe(train__steps=7)
    folder = open_run(tmp_path / "a" / "b", asked)
    assert names(folder) == ["recipe.toml"]
    assert load_recipe(folder / "recipe.toml", environment={}) == asked


def test_a_used_folder_needs_a_word(used):
    with pytest.raises(UsageError, match=r"a run in this folder already[\s\S]*--resume[\s\S]*--overwrite"):
        open_run(used, recipe())
    with pytest.raises(UsageError, match="give one of them"):
        open_run(used, recipe(), resume=True, overwrite=True)


def test_resuming_keeps_everything(used):
    before = names(used)
    open_run(used, recipe(), resume=True)
    assert names(used) == before


def test_overwriting_removes_the_old_run_and_nothing_else(used):
    open_run(used, recipe(), overwrite=True)
    assert names(used) == ["notes.txt", "recipe.toml"]


def test_resuming_a_folder_without_a_run_begins_one(tmp_path):
    assert names(open_run(tmp_path / "new", recipe(), resume=True)) == ["recipe.toml"]


@pytest.mark.parametrize(
    "settings",
    [
        {"train__batch_size": 3},
        {"train__seed": 3},
        {"train__accumulate": 3},
        {"optimizer__name": "muon"},
        {"model__n_layer": 3},
        {"task__name": "tag"},
        {"data__max_length": 3},
        {"freeze__policy": "head"},
        {"train__metric": "loss"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_run_cannot_go_on_as_another(used, settings):
    key = next(iter(settings)).replace("__", ".")
    before = (used / "recipe.toml").read_text()
    with pytest.raises(UsageError, match=f"not the one this run was begun with[\\s\\S]*{key} was .* and is "):
        open_run(used, recipe(**settings), resume=True)
    assert (used / "recipe.toml").read_text() == before


def test_what_does_not_make_it_another_may_change(used):
    changed = recipe(
        train__steps=9,
        optimizer__learning_rate=1e-6,
        schedule__warmup=100,
        train__threads=1,
        track__trackers=["events"],
        data__train=["/elsewhere/train.csv"],
    )
    open_run(used, changed, resume=True)
    assert load_recipe(used / "recipe.toml", environment={}) == changed


def test_before_the_first_checkpoint_everything_may_change(tmp_path):
    folder = open_run(tmp_path / "run", recipe())
    (folder / "events.jsonl").write_text("")
    open_run(folder, recipe(train__batch_size=3), resume=True)


@pytest.mark.parametrize("place", ["file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path, place, monkeypatch):
    (tmp_path / "file").write_text("x")
    target = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "read-only": tmp_path / "ro"}[place]
    if place == "read-only":

        def refuse(*_args, **_named):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(GptwoError, match=r"run folder cannot be written[\s\S]*choose another --out"):
        open_run(target, recipe())


def test_a_read_only_file_system_is_an_error_at_once():
    with pytest.raises(GptwoError, match="run folder cannot be written"):
        open_run("/proc/gptwo-run", recipe())


# --- what was chosen on the machine


def test_a_resumed_run_keeps_its_precision_and_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "available_cpus", lambda: 8)
    chosen = []
    monkeypatch.setattr(runtime, "set_threads", lambda count: chosen.append(count))
    (tmp_path / "environment.json").write_text(
        json.dumps({"run": {"device": "cpu", "precision": "bf16", "threads": 3}})
    )
    assert settle(recipe(), tmp_path, resume=True)[1] == Choice("bf16", "as the run began")
    assert settle(recipe(train__precision="fp32", train__threads=2), tmp_path, resume=True)[1].value == "fp32"
    assert settle(recipe(), tmp_path, resume=False)[1].value == "fp32"
    monkeypatch.setattr(runtime, "available_cpus", lambda: 2)
    settle(recipe(), tmp_path, resume=True)
    assert chosen == [3, 2, None, 2]


def test_a_damaged_environment_is_no_obstacle(tmp_path):
    (tmp_path / "environment.json").write_text("{")
    assert read_environment(tmp_path) == {}
    assert settle(recipe(train__precision="fp32", train__threads=1), tmp_path, resume=True)[0].value == "cpu"


def test_the_environment_says_machine_choices_and_data(tmp_path):
    machine = write_environment(tmp_path, CPU, FP32, {"train": ["abc"]}, resume=False)
    found = read_environment(tmp_path)
    assert found["machine"] == machine
    assert {"processor", "cpus", "memory_bytes", "torch", "python", "gptwo"} <= machine.keys()
    assert found["run"]["precision"] == "fp32"
    assert found["data"] == {"train": ["abc"]}


def test_a_run_cannot_go_on_with_other_data(used):
    write_environment(used, CPU, FP32, {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}, resume=False)
    write_environment(used, CPU, FP32, {"train": ["b", "a"], "valid": ["c"], "test": ["e"]}, resume=True)
    with pytest.raises(DataError, match="The train data are not those"):
        write_environment(used, CPU, FP32, {"train": ["a"], "valid": ["c"]}, resume=True)
    with pytest.raises(DataError, match="The valid data are not those"):
        write_environment(used, CPU, FP32, {"train": ["a", "b"]}, resume=True)
