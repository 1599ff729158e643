"""What this machine can do: device, precision, threads, memory, and how fast its matrix products are.

Everything here is asked of the machine, never assumed; what was chosen is said (`Choice.why`).
"""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from functools import lru_cache

from gptwo.errors import MissingError, UsageError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Choice:
    """A device or precision, and why it was chosen."""

    value: str
    why: str


def pick_device(name: str = "auto") -> Choice:
    """The device to run on: "cpu", "cuda" (or "cuda:1" …) or "mps".

    Raises:
        UsageError: an unknown name.
        MissingError: the device asked for is not there.
    """
    import torch

    kind = name.split(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"There is no device {name!r}.", where="--device", fix=did_you_mean(kind, DEVICES))
    if kind == "auto":
        if torch.cuda.is_available():
            return Choice("cuda", torch.cuda.get_device_name())
        if torch.backends.mps.is_available():
            return Choice("mps", "Apple GPU")
        return Choice("cpu", "no GPU was found")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not there:
        raise MissingError(f"The device {name!r} is not available here.", where="--device", fix="--device cpu")
    return Choice(name, "asked for")


def pick_precision(name: str, device: str) -> Choice:
    """The precision of matrix products in training and inference: "bf16" or "fp32".

    With "auto", a GPU gets bf16 where it has it; a CPU is probed: bf16 must be at least 1.3 times as fast.

    Raises:
        UsageError: an unknown name.
    """
    import torch

    if name not in PRECISIONS:
        raise UsageError(f"There is no precision {name!r}.", where="--precision", fix=did_you_mean(name, PRECISIONS))
    if name != "auto":
        return Choice(name, "asked for")
    if device.startswith("cuda"):
        has = torch.cuda.is_bf16_supported()
        return Choice("bf16" if has else "fp32", "the GPU " + ("has bf16" if has else "lacks bf16"))
    if device != "cpu":
        return Choice("fp32", f"bf16 is not used on {device}")
    fast, plain = matmul_rate("bf16", "cpu"), matmul_rate("fp32", "cpu")
    why = f"bf16 products run at {fast / 1e9:.0f} GFLOP/s, fp32 at {plain / 1e9:.0f}"
    return Choice("bf16" if fast > 1.3 * plain else "fp32", why)


@lru_cache
def matmul_rate(precision: str, device: str) -> float:
    """The machine's measured ceiling: floating-point operations per second of large matrix products.

    Takes about a fifth of a second on a CPU; measured once a process.
    """
    import torch

    size = 8192 if device.startswith("cuda") else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    own = torch.Generator(device).manual_seed(0)  # not torch's own, which a run's dropout draws from
    a = torch.randn(size, size, device=device, generator=own).to(dtype)
    b = torch.randn(size, size, device=device, generator=own).to(dtype)

    def once() -> float:
        start = time.perf_counter()
        torch.mm(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return 2 * size**3 / min(once() for _ in range(5))


def set_threads(count: int | None = None) -> int:
    """Use `count` CPU threads (None: those this process may run on, cgroup limits respected); returns the count."""
    import torch

    count = count or available_cpus()
    if count < 1:
        raise UsageError(f"The number of threads must be at least 1, not {count}.", where="--threads")
    torch.set_num_threads(count)
    return count


@lru_cache
def keep_memory() -> bool:
    """Ask the C library to keep freed memory for the next step instead of giving it back to the system.

    A training step allocates the same large blocks again and again; getting each from the system anew costs about
    a tenth of the step on a CPU. Only glibc can be asked; returns whether it was.
    """
    import ctypes

    try:
        library = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # malloc.h
        return bool(library.mallopt(trim_threshold, 2**31 - 1) and library.mallopt(mmap_max, 0))
    except (OSError, AttributeError):
        return False


def available_cpus() -> int:
    """CPUs this process may use: its affinity, bounded by the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the affinity says it
    return count


def peak_memory() -> int:
    """The most bytes this process has held: on a GPU once CUDA is in use, else resident memory."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available() and torch.cuda.is_initialized():
            return torch.cuda.max_memory_allocated()
    try:  # its own: what getrusage tells begins with what the parent held when it started this process
        with open("/proc/self/status", encoding="ascii") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def describe_machine() -> dict[str, object]:
    """What a result was measured on: processor, cores, memory, versions. Plain values for JSON."""
    import torch

    import gptwo

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            fields = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        processor = (
            f"{fields.get('model name', processor)} (family {fields.get('cpu family')}, model {fields.get('model')})"
        )
    except (OSError, ValueError):
        pass  # not Linux: platform's word is kept
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    machine: dict[str, object] = {
        "processor": processor,
        "cpus": available_cpus(),
        "memory_bytes": memory,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gptwo": gptwo.__version__,
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine
