"""How long work reports its progress: the types of the callbacks, and a callback bound to one phase."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]


def named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Progress of one thing."""
    return None if progress is None else lambda done, total: progress(done, total, what)
