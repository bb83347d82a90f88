"""Threads and scratch memory for the kernels on the CPU.

The calling thread works, and threads of a plain pool help it; each makes its own products, and BLAS is held to one
thread meanwhile. A team of BLAS or OpenMP threads spins for up to a tenth of a second after its work, and takes the
processors from whatever runs next, here and in the model that made the rows.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from bertft.kernels.aligned import aligned_empty
from bertft.kernels.blas_threads import one_blas_thread
from bertft.kernels.types import Array

PARTS = 16
"""Parts of a batch of rows: enough to balance eight threads, few enough that adding them costs nothing."""

INLINE = 5e6
"""Operations below which waking threads takes longer than the work."""


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="bertft")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads of a pool do not survive a fork


@cache
def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spans(n: int) -> list[tuple[int, int, int]]:
    """Return the parts of range(n) as (number, first, end), cut the same way whatever the number of threads."""
    edges = [n * part // PARTS for part in range(PARTS + 1)]
    return [(part, low, high) for part, (low, high) in enumerate(pairwise(edges)) if high > low]


def in_threads(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], *, operations: float) -> list[Any]:
    """Return work(*task) for each task, in order of the tasks; `operations` is roughly how much work that is."""
    helpers = min(_threads(), len(tasks)) - 1
    with one_blas_thread():
        if operations < INLINE or helpers < 1:
            return [work(*task) for task in tasks]
        return _Tasks(work, tasks).done(helpers)


class _Tasks:
    """The tasks of one call: the calling thread takes one after another, and so do those who help it.

    The call waits for no one who has not begun. So calls from many threads share the pool and do not queue for it, and
    a call ends where the pool takes no more work: at the end of the interpreter, or without memory for a thread.
    """

    def __init__(self, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> None:
        self._work, self._tasks = work, tasks
        self._results: list[Any] = [None] * len(tasks)
        self._next, self._lock = 0, threading.Lock()

    def done(self, helpers: int) -> list[Any]:
        """Do all tasks and return their results."""
        futures: list[Future[None]] = []
        try:
            for _ in range(helpers):
                futures.append(_pool().submit(self._help))
        except RuntimeError:
            pass
        try:
            self._take()
        finally:
            self._stop()
            begun = [future for future in futures if not future.cancel()]
            errors = [future.exception() for future in begun]
        for error in filter(None, errors):
            raise error
        return self._results

    def _help(self) -> None:
        with one_blas_thread():
            self._take()

    def _take(self) -> None:
        try:
            while True:
                with self._lock:
                    number, self._next = self._next, self._next + 1
                if number >= len(self._tasks):
                    return
                self._results[number] = self._work(*self._tasks[number])
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        with self._lock:
            self._next = len(self._tasks)


_kept = threading.local()


def scratch(name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialised, aligned array from memory that is kept between calls, as large as was ever needed.

    The system zeroes fresh memory of this size page by page, which takes as long as the work that is done in it.
    """
    size = math.prod(shape)
    buffer = getattr(_kept, f"{name}_{dtype}", None)
    if buffer is None or buffer.size < size:
        buffer = aligned_empty((size,), dtype)
        setattr(_kept, f"{name}_{dtype}", buffer)
    return buffer[:size].reshape(shape)
