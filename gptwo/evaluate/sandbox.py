"""Running a written program against its tests, in a process of its own with limits; and pass@k.

The process has no network, may write small files in an empty folder of its own only, starts no other process, and
ends at limits of time and memory. The kernel cuts the network off where it lets an unprivileged process do that, and
an audit hook of Python refuses it everywhere. This is a fence against accidents of a model's code, not a wall against
an attacker: code from a model that somebody else may steer belongs into a container without secrets.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gptwo.errors import UsageError

ENDED_BY_TIME = (-signal.SIGXCPU, -signal.SIGKILL) if os.name == "posix" else ()


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds (of the clock and of the processor), MiB of memory, MiB of a file."""

    seconds: float = 5.0
    memory: int = 1024
    file: int = 1


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its end, and if not why: "time", or the last line of its error."""

    passed: bool
    why: str = ""


def run_program(program: str, limits: Limits = Limits()) -> Outcome:
    """Run Python source; it passes where it comes to its end without an error.

    Args:
        program: with its tests, e.g. assert statements, at the end.

    Raises:
        UsageError: a system without the limits this needs (Windows).
    """
    if os.name != "posix":
        raise UsageError("Programs are run on Linux and macOS only.", where="task.execute", fix="leave it off")
    token = secrets.token_hex(16)
    settings = [token, str(limits.seconds), str(limits.memory << 20), str(limits.file << 20)]
    with tempfile.TemporaryDirectory(prefix="gptwo-run-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", GUARD, *settings],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(program.encode("utf-8", "replace"), timeout=limits.seconds + 2)
        except subprocess.TimeoutExpired:
            return Outcome(False, "time")
        finally:
            _end(process)
    text = said.decode("utf-8", "replace").strip()
    if text == token:
        return Outcome(True)
    return Outcome(False, "time" if process.returncode in ENDED_BY_TIME else text or "it ended before its end")


def run_programs(programs: Sequence[str], limits: Limits = Limits(), *, workers: int | None = None) -> list[Outcome]:
    """`run_program` of several, side by side."""
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance, 0 to 1, that one of k of the samples passes: the unbiased estimator 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, https://arxiv.org/abs/2107.03374

    Raises:
        UsageError: k is larger than the number of samples.
    """
    if not 1 <= k <= samples:
        raise UsageError(f"pass@{k} needs {k} samples; there are {samples}.", where="task.tries")
    if samples - passed < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - passed + 1, samples + 1)))


def _end(process: subprocess.Popen) -> None:
    """End a process and whatever it may have started, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.kill()
    process.communicate()


# What the process runs. It gets the program on standard input, and says the token when the program has come to its end.
GUARD = """
import os, resource, sys

token, seconds, memory, size = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
program = sys.stdin.buffer.read().decode("utf-8")
answer = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(nothing, stream)
folder = os.path.realpath(os.getcwd()) + os.sep


def lower(kind, value):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


try:
    import ctypes

    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # a user and a network of its own
except Exception:
    pass
lower(resource.RLIMIT_CPU, max(1, int(seconds + 0.999)))
if sys.platform != "darwin":
    lower(resource.RLIMIT_AS, memory)
lower(resource.RLIMIT_FSIZE, size)
lower(resource.RLIMIT_NOFILE, 32)
lower(resource.RLIMIT_CORE, 0)

REFUSED = (
    "socket.", "subprocess.", "ctypes.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill",
    "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "pty.", "signal.pthread_kill", "sys.addaudithook",
)
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def inside(path):
    return isinstance(path, (str, bytes)) and os.path.realpath(os.fsdecode(path)).startswith(folder)


def guard(event, details):
    refused = event.startswith(REFUSED)
    if event == "open":
        path, mode, flags = details
        writes = bool((flags or 0) & WRITING) or any(sign in (mode or "") for sign in "wax+")
        refused = writes and not inside(path)
    elif event.startswith(CHANGES):
        refused = not all(inside(path) for path in details if isinstance(path, (str, bytes)))
    if refused:
        raise PermissionError(f"refused: {event}")


sys.addaudithook(guard)
try:
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
    said = token
except BaseException as error:
    said = f"{type(error).__name__}: {error}"[:500]
os.write(answer, said.encode("utf-8", "replace"))
os._exit(0)
"""
