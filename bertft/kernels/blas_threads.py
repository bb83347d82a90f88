"""Hold NumPy's BLAS to one thread while our own threads each make products with it.

A thread of OpenBLAS that has done its part of a product spins for a tenth of a second before it sleeps, and takes a
processor from whatever runs next. A model's forward pass between two products was measured to take a quarter longer.

The number of threads is a setting of the library, not of the caller. It is restored when the last of several
concurrent callers has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np  # noqa: F401 -- the library must be loaded before it is looked for

_lock = threading.Lock()
_inside = 0
_limit: Any = None


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api=["openblas", "blis"])


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Use one thread in OpenBLAS and BLIS. MKL and Accelerate, whose threads do not spin, are left alone."""
    global _inside, _limit
    with _lock:
        if not _inside:
            _limit = _libraries().limit(limits=1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _limit.restore_original_limits()
