"""What all tests share: one thread each, no network, and the real data sets where this machine has them."""

from __future__ import annotations

import os

# Before torch, tokenizers or huggingface_hub is imported: several test workers share few cores, and no test dials out.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("gptwo", deadline=None, max_examples=50)
hypothesis.settings.load_profile("gptwo")

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """Where unpacked data sets lie: $GPTWO_DATA, or ~/.cache/gptwo-data."""
    return Path(os.environ.get("GPTWO_DATA") or Path.home() / ".cache" / "gptwo-data")


@cache
def find_data_set(name: str) -> Path | None:
    """The folder of a data set, unpacked on first use where `shared/data/get` is at hand; None where it is not."""
    folder = data_folder() / name
    if folder.is_dir():
        return folder
    unpack = ROOT.parent / "shared" / "data" / "get"
    if unpack.is_file():
        done = subprocess.run([str(unpack), name], capture_output=True, text=True, check=False)
        if done.returncode == 0 and Path(done.stdout.strip()).is_dir():
            return Path(done.stdout.strip())
    return None


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """A GPU is for test_cuda.py; to everything else the machine has none, nor have the commands that it starts."""
    if request.path.name != "test_cuda.py":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def data_set() -> Callable[[str], Path]:
    """`data_set(name)` is the folder of a real data set; the test is skipped, saying why, where it is absent."""

    def locate(name: str) -> Path:
        folder = find_data_set(name)
        if folder is None:
            pytest.skip(f"data set {name!r} is not here: put it at {data_folder() / name}, or set GPTWO_DATA")
        return folder

    return locate
