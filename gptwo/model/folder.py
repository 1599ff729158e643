"""Writing a folder so that it appears whole or not at all, also when another one stands in its place."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gptwo.errors import GptwoError, UsageError

RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # fcntl.h
ASIDE = "-old"


@contextmanager
def whole_folder(target: Path, mark: str, replaces: Callable[[str], bool]) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place at once when the block ends without an error.

    A kill at any moment leaves the old folder or the new one. What stood in the old folder and is neither
    written anew nor claimed by `replaces` moves over.

    Args:
        target: where the folder will be.
        mark: a file that only folders written this way have; no other folder is replaced unless it is empty.
        replaces: whether a name of the old folder goes when it is not written anew.

    Raises:
        UsageError: something else stands at `target`.
        GptwoError: the disk is full or the place cannot be written.
    """
    target = target.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise UsageError("A file stands where the folder is to be.", where=target, fix="choose another folder")
    if target.is_dir() and not (target / mark).is_file() and any(target.iterdir()):
        raise UsageError(
            "The folder is not empty and was not written by gptwo, so it is left alone.",
            where=target,
            why=f"it has no {mark}",
            fix="choose a new or empty folder",
        )
    try:
        with beside(target, "saving") as temporary:
            yield temporary
            for file in temporary.rglob("*"):
                flush(file)
            swap(temporary, target)
            for old in temporary.iterdir() if temporary.exists() else ():
                if not replaces(old.name) and not (target / old.name).exists():
                    old.rename(target / old.name)
            flush(target.parent)
    except OSError as error:
        raise GptwoError(
            "The folder could not be written; what stood there before is unchanged.",
            where=target,
            why=error.strerror or str(error),
            fix="free some space, or choose a place that can be written",
        ) from error


@contextmanager
def beside(target: Path, doing: str) -> Iterator[Path]:
    """A new folder beside `target`, on the same disk, that is gone afterwards.

    What processes that are gone have left there is cleared away first.

    Args:
        target: absolute; folders above it are made.
        doing: a word for the folder's name.
    """
    prefix = f".{target.name}.{doing}-{socket.gethostname()}-"
    temporary = target.with_name(f"{prefix}{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target, prefix)
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def swap(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; the old folder, if any, is at `new` afterwards."""
    if not target.exists():
        new.rename(target)
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except (AttributeError, TypeError):  # not Linux
        pass
    aside = new.with_name(new.name + ASIDE)  # a file system that cannot exchange: two steps
    target.rename(aside)
    new.rename(target)
    aside.rename(new)


def remove_leftovers(target: Path, prefix: str) -> None:
    """Clear away what processes of this machine that are gone have left half-written."""
    for leftover in target.parent.glob(glob.escape(prefix) + "*"):
        process = leftover.name.removeprefix(prefix).removesuffix(ASIDE)
        if process != str(os.getpid()) and process.isdigit() and is_running(int(process)):
            continue
        if leftover.name.endswith(ASIDE) and not target.exists():
            leftover.rename(target)  # killed between the two steps of `swap`
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def flush(path: Path) -> None:
    """Make sure that a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
