"""Checkpoints: whole or not there, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gptwo.errors import DataError, GptwoError
from gptwo.train import checkpoint as module
from gptwo.train.checkpoint import Progress, check_space, list_checkpoints, load_checkpoint, save_checkpoint
from gptwo.train.optim import build_optimizers

PROGRESS = Progress(
    step=3, batches=7, tokens=99, best=0.1 + 0.2, best_step=2, bad_evaluations=1, seconds=1.5, loss_sum=1 / 3
)


@pytest.fixture
def trained(case):
    """A network and its optimizers after a few steps."""

    def make(steps: int = 2, name: str = "muon"):
        model = case().model()
        optimizers = build_optimizers(model, name=name, learning_rate=1e-2)
        for step in range(steps):
            ids = torch.full((1, 4), step)
            model(ids).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return model, optimizers

    return make


def state_of(optimizers) -> list[torch.Tensor]:
    return [
        optimizer.state[tensor][key]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for tensor in group["params"]
        for key in sorted(optimizer.state.get(tensor, {}))
    ]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_everything_comes_back(tmp_path, trained, same_weights, name):
    model, optimizers = trained(3, name)
    torch.manual_seed(11)
    torch.rand(5)
    path = save_checkpoint(tmp_path, model, optimizers, PROGRESS, keep=2)
    wanted = torch.rand(4)

    again, fresh = trained(0, name)
    assert not same_weights(model, again)
    assert load_checkpoint(path, again, fresh, "cpu") == PROGRESS
    assert same_weights(model, again)
    assert len(state_of(fresh)) == len(state_of(optimizers)) > 0
    assert all(torch.equal(a, b) for a, b in zip(state_of(fresh), state_of(optimizers), strict=True))
    assert torch.equal(torch.rand(4), wanted)


def test_a_progress_of_another_version_is_read(tmp_path, trained):
    model, optimizers = trained()
    path = save_checkpoint(tmp_path, model, optimizers, PROGRESS, keep=2)
    file = path / "progress.json"
    file.write_text(file.read_text().replace('"step": 3', '"step": 3, "later": true'))
    assert load_checkpoint(path, model, optimizers, "cpu") == PROGRESS


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_checkpoint_is_a_data_error_with_a_way_on(tmp_path, trained, name, damage):
    model, optimizers = trained()
    path = save_checkpoint(tmp_path, model, optimizers, PROGRESS, keep=2)
    if damage == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes((path / name).read_bytes()[:20])
    with pytest.raises(DataError, match=r"checkpoint is damaged[\s\S]*from the checkpoint before it"):
        load_checkpoint(path, model, optimizers, "cpu")


def test_a_checkpoint_of_another_network_is_a_data_error(tmp_path, trained):
    model, optimizers = trained()
    path = save_checkpoint(tmp_path, model, optimizers, PROGRESS, keep=2)
    model.transformer.extra = torch.nn.Linear(2, 2)
    with pytest.raises(DataError, match=r"another network[\s\S]*transformer\.extra"):
        load_checkpoint(path, model, optimizers, "cpu")


# --- what interrupts the writing

STEPS_ON_DISK = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


def ended_at(step: int, work) -> bool:
    """Do the work in a child process that is killed at its `step`-th change of the file system; whether it got through.

    Writing a file, flushing it, making, renaming and removing are changes.
    """
    child = os.fork()
    if child == 0:
        left = step

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), 9)

        def audit(event: str, arguments: tuple) -> None:
            opened = event == "open" and isinstance(arguments[1], str) and arguments[1] != "r"
            if opened or event in STEPS_ON_DISK:
                count()

        fsync = os.fsync
        os.fsync = lambda handle: (count(), fsync(handle))[1]
        sys.addaudithook(audit)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -9)
    return code == 0


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path, trained, same_weights):
    old, old_optimizers = trained(1)
    new, new_optimizers = trained(4)
    later = Progress(step=4)
    seen, step, finished = set(), 0, False
    while not finished:
        folder = tmp_path / f"{step}"
        for number in (2, 3):
            save_checkpoint(folder, old, old_optimizers, Progress(step=number), keep=2)
        step += 1
        finished = ended_at(step, partial(save_checkpoint, folder, new, new_optimizers, later, keep=2))
        names = [path.name for path in list_checkpoints(folder)]
        assert names[:2] in (["step-000002", "step-000003"], ["step-000003", "step-000004"])
        for path in list_checkpoints(folder):
            model, optimizers = trained(0)
            progress = load_checkpoint(path, model, optimizers, "cpu")
            assert same_weights(model, new if progress.step == 4 else old)
        seen.add(names[-1])
        save_checkpoint(folder, new, new_optimizers, Progress(step=5), keep=1)
        assert [entry.name for entry in (folder / "checkpoints").iterdir()] == ["step-000005"]
    assert seen == {"step-000003", "step-000004"}
    assert step > 12


def test_saving_the_same_step_again_replaces_it(tmp_path, trained, same_weights):
    old, old_optimizers = trained(1)
    new, new_optimizers = trained(4)
    save_checkpoint(tmp_path, old, old_optimizers, Progress(step=1), keep=1)
    path = save_checkpoint(tmp_path, new, new_optimizers, Progress(step=1), keep=1)
    load_checkpoint(path, old, old_optimizers, "cpu")
    assert same_weights(old, new)


@pytest.mark.parametrize("place", ["model", "optimizer", "progress", "flush", "rename"])
def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path, trained, monkeypatch, place):
    model, optimizers = trained()
    save_checkpoint(tmp_path, model, optimizers, Progress(step=1), keep=2)
    before = {file: file.read_bytes() for file in (tmp_path / "checkpoints").rglob("*") if file.is_file()}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_args, **_named):
        raise full

    real = module.save_file

    def save_some(tensors, file):
        if file.name.startswith(place):
            file.write_bytes(b"half")
            raise full
        real(tensors, file)

    monkeypatch.setattr(module, "save_file", save_some)
    if place == "progress":
        monkeypatch.setattr("pathlib.Path.write_text", fail)
    if place == "flush":
        monkeypatch.setattr(os, "fsync", fail)
    if place == "rename":
        monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(GptwoError, match=r"earlier ones are untouched[\s\S]*No space left[\s\S]*--resume"):
        save_checkpoint(tmp_path, model, optimizers, Progress(step=2), keep=1)
    assert {file: file.read_bytes() for file in (tmp_path / "checkpoints").rglob("*") if file.is_file()} == before
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_file_system_that_takes_no_more_is_no_crash(tmp_path, trained):
    """The system itself refuses to write more than 4 KB to a file, halfway through the tensors."""
    model, optimizers = trained()
    save_checkpoint(tmp_path, model, optimizers, Progress(step=1), keep=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(GptwoError, match="earlier ones are untouched"):
            save_checkpoint(tmp_path, model, optimizers, Progress(step=2), keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_failed_checkpoint_ends_the_run_with_its_reason(case, monkeypatch):
    def full(tensors, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = case(train__checkpoint_every=2)
    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(GptwoError, match="could not be written"):
        run.run()
    assert run.recorder.events[-1]["reason"].startswith("failed: The checkpoint could not be written")
    assert list_checkpoints(run.folder) == []


# --- room


def test_too_little_room_is_foreseen(tmp_path, trained, monkeypatch):
    model, _ = trained(0)
    count = sum(tensor.numel() for tensor in model.parameters())
    need = count * (12 * 3 + 8)  # three times weights and two moments, two best models

    def free(room: int):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room))

    free(need)
    check_space(tmp_path, model, 2)
    free(need - 1)
    with pytest.raises(GptwoError, match=r"GB free; the checkpoints of this run need[\s\S]*lower train\.keep_last"):
        check_space(tmp_path, model, 2)
    check_space(tmp_path, model, 1)


def test_frozen_weights_need_less_room_and_old_checkpoints_give_theirs(tmp_path, trained, monkeypatch):
    model, optimizers = trained()
    count = sum(tensor.numel() for tensor in model.parameters())
    for tensor in model.parameters():
        tensor.requires_grad_(False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count * (4 * 3 + 8)))
    check_space(tmp_path, model, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count * (4 * 3 + 8) - 1))
    with pytest.raises(GptwoError):
        check_space(tmp_path, model, 2)
    save_checkpoint(tmp_path, model, optimizers, Progress(step=1), keep=2)
    check_space(tmp_path, model, 2)
