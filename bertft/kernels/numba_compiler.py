"""How Numba compiles our functions: at their first call, with the machine code kept on disk where that can be done."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from numba import njit
from numba.core.compiler_lock import global_compiler_lock

from bertft.errors import PerformanceWarning

if hasattr(os, "register_at_fork"):
    # A child could not compile if another thread of the parent was compiling when it was forked.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def compiled(function: Callable[..., Any]) -> Any:
    """Return a function as Numba compiles it at its first call. Machine code is kept on disk where that can be done."""
    # Sums may be reordered, which is what vectorises them, but nan and inf keep their meaning.
    dispatcher = njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})(function)
    try:
        dispatcher.enable_caching()
        store = dispatcher._cache
        store.load_overload, store.save_overload = _told(_optional(store.load_overload)), _optional(store.save_overload)
    except (RuntimeError, OSError, AttributeError):
        _warn_once()
    return dispatcher


def _optional(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step of Numba's cache that does nothing where it fails: a full disk, a damaged file."""

    @wraps(step)
    def attempt(*arguments: Any) -> Any:
        try:
            return step(*arguments)
        except Exception:  # a damaged file of pickled code can raise anything
            return None

    return attempt


def _told(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return the step that loads kept machine code; where there is none, the user is told why it takes a while."""

    @wraps(load)
    def attempt(*arguments: Any) -> Any:
        found = load(*arguments)
        if found is None:
            _say_once()
        return found

    return attempt


@cache
def _say_once() -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print("compiling kernels, once", file=sys.stderr)


@cache
def _warn_once() -> None:
    warnings.warn(
        "no folder can be written to, so compiled code is not kept, and every process compiles it again, which takes "
        "seconds; set NUMBA_CACHE_DIR to a folder that can be written to",
        PerformanceWarning,
        stacklevel=4,
    )
