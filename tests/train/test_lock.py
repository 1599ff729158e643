"""A run folder belongs to one process at a time, and a killed one leaves it free."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from gptwo.errors import UsageError
from gptwo.train.finetune import finetune
from gptwo.train.lock import hold


def test_the_second_is_told_who_holds_the_folder_and_what_to_do(tmp_path):
    with (
        hold(tmp_path / "run"),
        pytest.raises(UsageError, match=rf"at work in this run folder[\s\S]*process {os.getpid()}[\s\S]*kill -INT"),
        hold(tmp_path / "run"),
    ):
        pass
    with hold(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_an_error_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        raise ZeroDivisionError
    with hold(tmp_path):
        pass


def test_a_killed_process_hinders_nobody(tmp_path):
    work = f"import os\nfrom gptwo.train.lock import hold\nwith hold({str(tmp_path)!r}):\n    os.kill(os.getpid(), 9)\n"
    assert subprocess.run([sys.executable, "-c", work], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "lock").read_text().startswith("process ")
    with hold(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


def test_a_lock_whose_file_was_just_removed_is_no_lock(tmp_path, monkeypatch):
    """Another process ends between our opening of the file and our locking of it."""
    real, calls = fcntl.flock, []

    def flock(handle, how):
        if not calls:
            (tmp_path / "lock").unlink()
        calls.append(how)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path):
        assert len(calls) == 2
        with pytest.raises(UsageError), hold(tmp_path):
            pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path), hold(tmp_path):
        pass


def test_a_run_does_not_touch_a_folder_that_another_has(base_folder, labelled, tmp_path):
    with hold(tmp_path / "run"), pytest.raises(UsageError, match="at work in this run folder"):
        finetune(base_folder, task="classify", train=labelled / "train.jsonl", out=tmp_path / "run", overwrite=True)
    assert list((tmp_path / "run").iterdir()) == []
