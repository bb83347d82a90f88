"""A bounded, order-independent sample of whole groups of rows, kept beside the moments for standard errors.

Every group (a sentence) gets a priority by hashing its number with a seed.  The sample is the groups of lowest
priority whose rows fit the limit: a group is dropped when those below it fill the limit, and stays dropped.  The
sample therefore depends on which rows were seen, not on their order or on how they were split and merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bertft.kernels.types import Array

_END = np.uint64(0xFFFFFFFFFFFFFFFF)


def priorities(groups: Array, seed: int) -> Array:
    """One pseudo-random uint64 a group number, the same everywhere (the splitmix64 finaliser, Steele et al. 2014)."""
    z = groups.astype(np.int64).view(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass
class Reservoir:
    """At most `limit` rows of x and y with their group numbers; `bound` is the lowest priority ever dropped."""

    limit: int
    seed: int
    bound: np.uint64 = _END
    groups: Array = field(default_factory=lambda: np.empty(0, np.int64))
    x: Array | None = None
    y: Array | None = None

    def wanted(self, groups: Array) -> Array:
        """Which rows of a batch may enter, as positions."""
        return np.flatnonzero(priorities(groups, self.seed) < self.bound) if self.limit else np.empty(0, np.int64)

    def add(self, groups: Array, x: Array, y: Array) -> None:
        """Takes rows in (copies), then drops whole groups until the limit holds."""
        if not len(groups):
            return
        self.groups = np.concatenate([self.groups, groups])
        self.x = np.array(x) if self.x is None else np.concatenate([self.x, x])
        self.y = np.array(y) if self.y is None else np.concatenate([self.y, y])
        self._shrink()

    def merge(self, other: Reservoir) -> None:
        """Adds another sample's rows, in place; the lower bound of the two holds for both."""
        self.bound = min(self.bound, other.bound)
        if other.x is not None and other.y is not None:
            self.add(other.groups, other.x, other.y)
        self._shrink()

    def copy(self) -> Reservoir:
        """A sample that shares nothing that is ever written to (arrays are replaced, never changed)."""
        return Reservoir(self.limit, self.seed, self.bound, self.groups, self.x, self.y)

    def _shrink(self) -> None:
        if self.x is None or self.y is None:
            return
        rank = priorities(self.groups, self.seed)
        order = np.sort(rank)
        if len(order) > self.limit:
            # the group that holds row `limit` does not fit, nor does any above it
            self.bound = min(self.bound, order[self.limit])
        if len(order) and order[-1] >= self.bound:
            kept = rank < self.bound
            self.groups, self.x, self.y = self.groups[kept], self.x[kept], self.y[kept]
