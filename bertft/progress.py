"""How long work reports its progress: the types of the callbacks, and a callback bound to one phase."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, phase)`."""

PhaseProgress = Callable[[int, int], None]
"""Called as `progress(done, total)`: the progress of one phase."""

Say = Callable[[str], None]
"""Called with one line for the user."""


def named(progress: Progress | None, phase: str) -> PhaseProgress | None:
    """Return a callback that reports the progress of one phase; None where there is none to report to."""
    return None if progress is None else lambda done, total: progress(done, total, phase)
