"""Faults for tests: the k-th file operation below a folder fails with `OSError`, or the process ends there.

File operations are the opening of a file for writing, and the renaming, making, removing and syncing of files and
folders, as Python's audit hooks tell them.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
DIED = 77
"""The exit status of a process that ended at a fault."""


@dataclass
class Fault:
    """A fault at the operation with the number `at`, from 1; `seen` counts the operations so far."""

    folder: str
    at: int
    act: Callable[[], None]
    seen: int = 0

    def count(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.act()


_now: list[Fault] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _now or event not in EVENTS:
        return
    path, *others = arguments
    if event == "open" and not (isinstance(others[1], int) and others[1] & (os.O_WRONLY | os.O_RDWR)):
        return
    # Folders are emptied by names that are relative to them.
    if isinstance(path, str | os.PathLike) and os.fspath(path).startswith((_now[0].folder, *_relative(path))):
        _now[0].count()


def _relative(path: Any) -> tuple[str, ...]:
    return () if os.path.isabs(path) else ("",)


def fails() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def dies() -> None:
    os._exit(DIED)


@contextmanager
def fault(folder: Path, at: int, act: Callable[[], None]) -> Iterator[Fault]:
    """Let the operation with the number `at` below a folder fail or end the process."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    real = os.fsync

    def fsync(descriptor: Any) -> None:
        if _now:
            _now[0].count()
        real(descriptor)

    os.fsync = fsync
    _now.append(Fault(os.path.realpath(folder), at, act))
    try:
        yield _now[0]
    finally:
        _now.clear()
        os.fsync = real


def in_child(run: Callable[[], object], folder: Path, at: int) -> int:
    """Run a function in a copy of this process that dies at a fault; return its exit status."""
    with warnings.catch_warnings():
        # The child uses no lock that another thread may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with fault(folder, at, dies):
            run()
        status = 0
    finally:
        os._exit(status)
