"""Threads and scratch memory for the Numba kernels.

Threads come from a plain pool, and each thread makes its own products: BLAS is held to one thread meanwhile. A team of
BLAS or OpenMP threads spins for up to a tenth of a second after its work, and takes the processors from whatever runs
next, here and in the model that made the rows.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

from bertft.kernels.aligned import aligned_empty
from bertft.kernels.blas_threads import one_blas_thread
from bertft.kernels.types import Array

PARTS = 16
"""Parts of a batch of rows: enough to balance eight threads, few enough that adding them costs nothing."""

INLINE = 5e6
"""Operations below which waking threads takes longer than the work."""

# Sums may be reordered, which is what vectorises them, but nan and inf keep their meaning.
compiled = njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="bertft")


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
    with one_blas_thread():
        if operations < INLINE:
            return [work(*task) for task in tasks]
        return list(_pool().map(lambda task: work(*task), tasks))


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
