"""A run folder belongs to one process at a time."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptwo.errors import UsageError

NAME = "lock"


@contextmanager
def hold(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of a run folder, made where it is absent.

    The lock is the system's (flock on the file `lock`): it goes with the process, however that ends, so a file that
    a killed run left behind hinders nobody. Where the file cannot be made, or the file system knows no locks, nothing
    is held.

    Raises:
        UsageError: another process holds it; names that process.
    """
    path = Path(folder).expanduser() / NAME
    handle = _lock(path)
    if handle is None:
        yield
        return
    try:
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int | None:
    """The handle of the locked file; None where there are no locks."""
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
    except (ImportError, OSError):
        return None
    for _ in range(10):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None  # what cannot be written is told by who writes
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return handle
        except BlockingIOError:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            raise _held(path, holder) from None
        except OSError:
            os.close(handle)
            return None
        os.close(handle)  # its holder removed the file between the two calls: lock the next one
    return None


def _held(path: Path, holder: str) -> UsageError:
    return UsageError(
        "Another process is at work in this run folder.",
        where=path.parent,
        why=f"{holder} holds {path.name}",
        fix="wait for it, stop it with Ctrl-C or kill -INT (it saves a checkpoint), or choose another --out",
    )
