"""What the machine is asked, and that asking changes nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gptwo import runtime
from gptwo.errors import MissingError, UsageError


def test_a_device_is_what_was_asked_for_or_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device("cpu").value == "cpu"
    assert runtime.pick_device("auto").value == "cpu"
    with pytest.raises(MissingError, match=r"'cuda:1' is not available here[\s\S]*--device cpu"):
        runtime.pick_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.pick_device("auto").value == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert runtime.pick_device("auto") == runtime.Choice("cuda", "a GPU")
    assert runtime.pick_device("cuda:1").value == "cuda:1"


def test_unknown_names_are_usage_errors():
    with pytest.raises(UsageError, match="Did you mean 'cuda'"):
        runtime.pick_device("cude")
    with pytest.raises(UsageError, match="Did you mean 'bf16'"):
        runtime.pick_precision("bf61", "cpu")
    with pytest.raises(UsageError, match="at least 1"):
        runtime.set_threads(-1)


@pytest.mark.parametrize(
    ("bf16", "fp32", "chosen"), [(700e9, 170e9, "bf16"), (200e9, 170e9, "fp32"), (9e9, 90e9, "fp32")]
)
def test_bf16_is_chosen_where_the_machine_gains_from_it(monkeypatch, bf16, fp32, chosen):
    monkeypatch.setattr(runtime, "matmul_rate", lambda precision, device: {"bf16": bf16, "fp32": fp32}[precision])
    found = runtime.pick_precision("auto", "cpu")
    assert found.value == chosen
    assert f"bf16 products run at {bf16 / 1e9:.0f} GFLOP/s" in found.why
    assert runtime.pick_precision("fp32", "cpu") == runtime.Choice("fp32", "asked for")
    assert runtime.pick_precision("auto", "mps").value == "fp32"


def test_measuring_the_machine_draws_no_random_number(monkeypatch):
    """Otherwise a run's dropout would depend on whether the machine had been measured before."""
    monkeypatch.setattr(runtime.time, "perf_counter", iter(range(1000)).__next__)
    state = torch.get_rng_state()
    assert runtime.matmul_rate.__wrapped__("fp32", "cpu") == 2 * 1536**3
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_are_those_this_process_may_use(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert runtime.set_threads(1) == torch.get_num_threads() == 1
        monkeypatch.setattr(runtime, "available_cpus", lambda: 2)
        assert runtime.set_threads(None) == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("400000 100000", 4), ("50000 100000", 1), ("nonsense", 8), (None, 8)]
)
def test_a_containers_quota_bounds_the_cpus(monkeypatch, tmp_path, quota, cpus):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    real = open

    def fake(path, *rest, **named):
        if path == "/sys/fs/cgroup/cpu.max":
            if quota is None:
                raise FileNotFoundError(path)
            (tmp_path / "cpu.max").write_text(quota + "\n")
            path = tmp_path / "cpu.max"
        return real(path, *rest, **named)

    monkeypatch.setattr("builtins.open", fake)
    assert runtime.available_cpus() == cpus


def test_peak_memory_is_at_least_what_is_held():
    held = torch.ones(2_000_000)
    assert runtime.peak_memory() > held.numel() * 4


def test_the_machine_is_described_in_plain_values():
    found = runtime.describe_machine()
    assert all(isinstance(value, str | int) for value in found.values())
    assert found["torch"] == torch.__version__


def test_peak_memory_is_of_this_process_not_of_its_parent():
    held = bytearray(200_000_000)
    code = "from gptwo.runtime import peak_memory; print(peak_memory())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak < len(held) < runtime.peak_memory()
