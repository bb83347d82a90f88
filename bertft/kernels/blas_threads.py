"""Hold NumPy's BLAS to one thread while our own threads each make products with it.

A thread of OpenBLAS that has done its part of a product spins for a tenth of a second before it sleeps, and takes a
processor from whatever runs next. A model's forward pass between two products was measured to take a quarter longer.

The number of threads is a setting of the library, not of the caller. It is restored when the last of several
concurrent callers has ended, in whichever thread that is. An OpenBLAS built on OpenMP has a number for each thread,
which is restored when that thread's outermost caller has ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np  # noqa: F401 -- the library must be loaded before it is looked for

_ATTEMPTS = 8

_lock = threading.Lock()
_inside = 0
_before: list[tuple[Any, int]] = []
"""The libraries that are held to one thread, and their numbers of threads before."""


class _Local(threading.local):
    """What one thread holds: how many callers it is inside of, and the libraries that count its threads alone."""

    depth = 0
    before: tuple[tuple[Any, int], ...] = ()


_here = _Local()


@cache
def _libraries() -> tuple[list[Any], list[Any]]:
    """Return the libraries with one number of threads for the process, and those with one for each thread."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(internal_api=["openblas", "blis"]).lib_controllers
    own = [library for library in found if getattr(library, "threading_layer", "") == "openmp"]
    return [library for library in found if library not in own], own


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Use one thread in OpenBLAS and BLIS. MKL and Accelerate, whose threads do not spin, are left alone."""
    global _inside, _before
    shared, own = _libraries()
    if not _here.depth:
        _here.before = tuple(_hold(own))
        with _lock:
            if not _inside:
                _before = _hold(shared)
            _inside += 1
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
        if not _here.depth:
            with _lock:
                _inside -= 1
                if not _inside:
                    _restore(_before)
            _restore(_here.before)


def _hold(libraries: list[Any]) -> list[tuple[Any, int]]:
    """Set libraries to one thread and return their numbers of threads before."""
    before = [(library, library.num_threads) for library in libraries]
    for library in libraries:
        _set_threads(library, 1)
    return before


def _restore(before: list[tuple[Any, int]] | tuple[tuple[Any, int], ...]) -> None:
    for library, count in before:
        _set_threads(library, count)


def _set_threads(library: Any, count: int) -> None:
    """Set the number of threads of a library.

    From 3.7 on, threadpoolctl lets one thread of Python set it and ignores all others, until that thread gives up
    control or ends. Our callers are counted instead, so control is taken from whoever has it and given up at once.
    """
    give_up = getattr(library, "clear_controlling_thread", None)
    if give_up is None:
        library.set_num_threads(count)
        return
    for _ in range(_ATTEMPTS):  # another user of threadpoolctl may take control in between
        give_up(force=True)
        library.set_num_threads(count)
        give_up()
        if library.num_threads == count:
            return


def _after_fork_in_child() -> None:
    """Forget the callers in threads that the child does not have."""
    global _inside
    try:
        if _inside and not _here.depth:
            _restore(_before)
        _inside = 1 if _here.depth else 0
    finally:
        _lock.release()


if hasattr(os, "register_at_fork"):
    # The lock is taken first, so that no other thread is halfway through a change.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
