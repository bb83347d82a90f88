"""How a run reports what it does: callbacks for progress and for lines of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, phase)`."""

PhaseProgress = Callable[[int, int], None]
"""Called as `progress(done, total)`: the progress of one phase."""

Say = Callable[[str], None]
"""Called with one line of text for the user."""


def named(progress: Progress | None, phase: str) -> PhaseProgress | None:
    """Return a callback that reports the progress of one phase, or None if there is nothing to report to."""
    return None if progress is None else lambda done, total: progress(done, total, phase)


@dataclass(frozen=True)
class Feedback:
    """The two callbacks of a run; either may be None."""

    progress: Progress | None = None
    say: Say | None = None

    def tell(self, line: str) -> None:
        """Pass a line of text to the user."""
        if self.say is not None:
            self.say(line)

    def phase(self, name: str) -> PhaseProgress | None:
        """Return a callback that reports the progress of one phase."""
        return named(self.progress, name)

    def prefixed(self, prefix: str) -> Progress | None:
        """Return a callback that reports progress with a prefix before the name of each phase."""
        progress = self.progress
        return None if progress is None else lambda done, total, phase: progress(done, total, prefix + phase)
