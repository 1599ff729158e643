"""Trackers: events reach everyone, files survive kills, and a tracker that fails costs one warning."""

from __future__ import annotations

import io
import json
import re
import sys
import threading

import pytest
from rich.console import Console

from gptwo.errors import MissingError, UsageError
from gptwo.train.console import ConsoleTracker, machine
from gptwo.train.events import EventsFile, plain, read_events
from gptwo.train.track import Background, Trackers, make_trackers

RECIPE = {"task": "classify", "train": {"seed": 7}}


class Recorder:
    name = "recorder"

    def __init__(self):
        self.events, self.closed = [], False

    def on_event(self, event):
        self.events.append(event)

    def close(self):
        self.closed = True


class Broken(Recorder):
    name = "broken"

    def on_event(self, event):
        super().on_event(event)
        raise ConnectionError("the server said no\nand much more")


def a_run(trackers: Trackers, first: int = 0, last: int = 4) -> None:
    """A small run: start, steps, an evaluation, a sample, a checkpoint, end."""
    trackers.emit(
        "start", first, total=last, device="cpu", threads=2, precision="bf16", precision_why="4 times as fast"
    )
    for step in range(first + 1, last + 1):
        trackers.emit("step", step, loss=3.0 - step / 10, learning_rate=1e-3, tokens=64 * step)
    trackers.emit("eval", last, metrics={"accuracy": 0.75, "LOC": {"f1": 0.5}}, better=True)
    trackers.emit("sample", last, texts=["Once upon [a] time", "从前[/b]"])
    trackers.emit("checkpoint", last, path="checkpoints/step-000004")
    trackers.emit("end", last, reason="finished")
    trackers.close()


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_events_file_holds_one_object_a_line(tmp_path):
    a_run(Trackers([EventsFile(tmp_path)]))
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["kind"] for event in events] == [
        "start", "step", "step", "step", "step", "eval", "sample", "checkpoint", "end"
    ]  # fmt: skip
    assert events[2]["loss"] == pytest.approx(2.8)
    assert events[6]["texts"][1] == "从前[/b]"
    assert all(event["time"] > 0 for event in events)


def test_a_half_written_line_is_removed_when_the_run_resumes(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind": "start", "step": 0}\n{"kind": "step", "st' + b"x" * 200_000)
    assert [event["kind"] for event in read_events(tmp_path)] == ["start"]
    Trackers([EventsFile(tmp_path)]).emit("notice", 1, message="again")
    assert [event["kind"] for event in read_events(tmp_path)] == ["start", "notice"]


def test_a_file_with_nothing_but_half_a_line_becomes_empty(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"kind": "sta')
    EventsFile(tmp_path).close()
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_steps_that_a_kill_undid_are_left_out(tmp_path):
    trackers = Trackers([EventsFile(tmp_path)])
    trackers.emit("start", 0)
    for step in (1, 2, 3):
        trackers.emit("step", step, loss=1.0)
    trackers.emit("start", 2)  # resumed from the checkpoint of step 2
    trackers.emit("step", 3, loss=2.0)
    trackers.close()
    steps = [(event["step"], event["loss"]) for event in read_events(tmp_path) if event["kind"] == "step"]
    assert steps == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_notices_before_a_start_belong_to_it(tmp_path):
    trackers = Trackers([EventsFile(tmp_path)])
    for start, words in ((0, ("an older run",)), (0, ("24 records", "a prefix")), (2, ("24 records", "another base"))):
        for word in words:
            trackers.emit("notice", message=word)
        trackers.emit("start", start)
        for step in range(start + 1, start + 4):
            trackers.emit("step", step, loss=1.0)
    trackers.close()
    found = [event.get("message", event["step"]) for event in read_events(tmp_path)]
    assert found == ["24 records", "a prefix", 0, 1, 2, "another base", 2, 3, 4, 5]


def test_no_file_means_no_events(tmp_path):
    assert read_events(tmp_path) == []


def test_numbers_of_any_kind_become_json(tmp_path):
    numpy = pytest.importorskip("numpy")
    value = plain({"a": numpy.float32(0.5), "b": float("nan"), "c": numpy.arange(2), "d": tmp_path, "e": (1, None)})
    assert value == {"a": 0.5, "b": None, "c": [0, 1], "d": str(tmp_path), "e": [1, None]}
    json.dumps(value, allow_nan=False)


def test_a_failing_tracker_warns_once_and_the_others_go_on(capsys):
    broken, recorder = Broken(), Recorder()
    a_run(Trackers([broken, recorder]))
    assert len(broken.events) == 1
    assert not broken.closed
    assert recorder.closed
    assert recorder.events[-1]["kind"] == "end"
    notices = [event["message"] for event in recorder.events if event["kind"] == "notice"]
    assert notices == [
        "tracker 'broken' failed and is off for the rest of this run: ConnectionError: the server said no"
    ]
    assert capsys.readouterr().err.count("broken") == 1


def test_two_failing_trackers_end_in_silence_not_in_a_loop(capsys):
    trackers = Trackers([Broken(), Broken()])
    trackers.emit("start")
    trackers.emit("step", 1, loss=1.0)
    assert trackers.trackers == []
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_tracker_that_fails_while_closing_warns_too(capsys):
    class Leaky(Recorder):
        name = "leaky"

        def close(self):
            raise OSError("disk full")

    recorder = Recorder()
    Trackers([Leaky(), recorder]).close()
    assert recorder.closed
    assert "leaky" in capsys.readouterr().err


def test_a_hanging_tracker_does_not_hold_up_the_run(capsys):
    release = threading.Event()

    class Hanging(Recorder):
        name = "hanging"

        def on_event(self, event):
            release.wait()

    recorder = Recorder()
    a_run(Trackers([Background(Hanging(), patience=0.0), recorder]))
    release.set()
    assert recorder.events[-1]["kind"] == "notice"  # after the end: what was queued may be lost
    assert "hanging" in capsys.readouterr().err


def test_a_background_tracker_gets_every_event_and_its_error_surfaces():
    recorder = Recorder()
    a_run(Trackers([Background(recorder)]))
    assert [event["kind"] for event in recorder.events][-1] == "end"
    assert recorder.closed

    broken = Background(Broken())
    broken.on_event({"kind": "start", "step": 0})
    with pytest.raises(ConnectionError):
        broken.close()
    with pytest.raises(ConnectionError):
        broken.on_event({"kind": "step", "step": 1})


def test_console_writes_plain_lines_where_there_is_no_terminal():
    console = plain_console()
    a_run(Trackers([ConsoleTracker(console)]))
    shown = console.file.getvalue()
    assert "step 1/4  loss 2.9000  lr 1.00e-03" in shown
    assert "step 2/4" not in shown  # at most one line in ten seconds
    assert "step 4/4" in shown  # but always the last
    assert "eval at step 4  accuracy 0.75  LOC/f1 0.5  (best so far)" in shown
    assert "Once upon [a] time\n从前[/b]\n" in shown
    assert re.search(r"ended at step 4/4 after \d+:\d\d:\d\d: finished", shown)
    assert "on cpu with 2 threads, in bf16 (4 times as fast)" in shown
    assert machine({"device": "cpu", "threads": 1}) == "on cpu with 1 thread"
    assert "\x1b" not in shown


def test_console_says_how_long_it_will_take():
    console = plain_console()
    tracker = ConsoleTracker(console)
    tracker.on_event({"kind": "start", "step": 100, "total": 400, "time": 1000.0})
    tracker.on_event({"kind": "step", "step": 200, "loss": 1.0, "tokens_per_second": 51234.5, "share_of_ceiling": 0.62,
                      "time": 1100.0})  # fmt: skip
    assert "resumed at step 100\n" in console.file.getvalue()
    assert "51,234 tok/s  62% of ceiling  0:03:20 left" in console.file.getvalue()


def test_console_draws_a_bar_on_a_terminal_and_leaves_the_line_free_at_the_end():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    tracker = ConsoleTracker(console)
    a_run(Trackers([tracker]))
    assert "4/4" in console.file.getvalue()
    assert "━" in console.file.getvalue()
    assert tracker.progress is None


def test_console_bears_a_loss_that_is_not_a_number():
    console = plain_console()
    Trackers([ConsoleTracker(console)]).emit("step", 1, loss=float("nan"), learning_rate=1e-3)
    assert "lr 1.00e-03" in console.file.getvalue()


def test_unknown_tracker_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'tensorboard'"):
        make_trackers(["tensorbord"], tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_before_training(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingError, match=r"gptwo\[track\]"):
        make_trackers([name], tmp_path)


def test_events_are_always_written(tmp_path):
    a_run(make_trackers([], tmp_path))
    assert read_events(tmp_path)[-1]["kind"] == "end"


def test_tensorboard_shows_curves_and_samples(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'gptwo[track]'")
    pytest.importorskip("torch", reason="needs torch")
    a_run(make_trackers(["tensorboard"], tmp_path))
    a_run(make_trackers(["tensorboard"], tmp_path), first=4, last=6)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(point.step, round(point.value, 4)) for point in found.Scalars("train/loss")] == [
        (1, 2.9), (2, 2.8), (3, 2.7), (4, 2.6), (5, 2.5), (6, 2.4)
    ]  # fmt: skip
    assert found.Scalars("eval/LOC/f1")[0].value == 0.5
    assert "sample/2/text_summary" in found.Tags()["tensors"]


def test_wandb_offline_keeps_one_run_across_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install 'gptwo[track]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    a_run(make_trackers(["wandb"], tmp_path, recipe=RECIPE))
    first = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    a_run(make_trackers(["wandb"], tmp_path, recipe=RECIPE), first=4, last=6)
    assert json.loads((tmp_path / "trackers.json").read_text())["wandb"] == first
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{first}/run-{first}.wandb"))) >= 1
    assert not [event for event in read_events(tmp_path) if event["kind"] == "notice"]


def test_mlflow_keeps_metrics_and_recipe_in_the_run_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install 'gptwo[track]'")
    pytest.importorskip("sqlalchemy", reason="MLflow's local database needs the full mlflow, not mlflow-skinny")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    a_run(make_trackers(["mlflow"], tmp_path, recipe=RECIPE))
    a_run(make_trackers(["mlflow"], tmp_path, recipe=RECIPE), first=4, last=6)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(json.loads((tmp_path / "trackers.json").read_text())["mlflow"])
    assert run.data.params == {"task": "classify", "train.seed": "7"}
    assert run.data.metrics["eval/accuracy"] == 0.75
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]
