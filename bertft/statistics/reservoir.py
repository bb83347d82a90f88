"""A bounded, order-independent sample of whole groups of rows, kept beside the moments for standard errors.

Every group (a sentence) gets a priority by hashing its number with a seed.  The sample is the groups of lowest priority
whose rows fit the limit: a group is dropped when those below it fill the limit, and stays dropped.  The sample
therefore depends on which rows were seen, not on their order or on how they were split and merged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bertft.kernels.types import Array

_END = np.uint64(0xFFFFFFFFFFFFFFFF)


def priorities(groups: Array, seed: int) -> Array:
    """One pseudo-random uint64 a group number, the same everywhere (the splitmix64 finaliser, Steele et al. 2014)."""
    z = groups.astype(np.int64).view(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Sample(NamedTuple):
    """Rows of x (r, d1) and y (r, d2) with the group number of each, (r,) int64."""

    groups: Array
    x: Array
    y: Array


class Reservoir:
    """At most `limit` rows in whole groups; `bound` is the lowest priority ever dropped."""

    def __init__(self, limit: int, seed: int, bound: np.uint64 = _END, parts: tuple[Sample, ...] = ()) -> None:
        self.limit, self.seed, self.bound = limit, seed, bound
        # Parts are kept as they came and joined when they hold twice the limit: joining at every batch would copy the
        # whole sample each time.
        self._parts = list(parts)

    def wanted(self, groups: Array) -> Array:
        """Which rows of a batch may enter, as positions."""
        return np.flatnonzero(priorities(groups, self.seed) < self.bound) if self.limit else np.empty(0, np.int64)

    def add(self, groups: Array, x: Array, y: Array) -> None:
        """Takes rows in (copies)."""
        self._parts.append(Sample(np.array(groups), np.array(x), np.array(y)))
        if sum(len(part.groups) for part in self._parts) > 2 * self.limit:
            self._settle()

    def sample(self) -> Sample | None:
        """The rows, or None where there are none."""
        self._settle()
        return self._parts[0] if self._parts else None

    def merge(self, other: Reservoir) -> Reservoir:
        """The sample of the rows of both; the lower bound of the two holds for both."""
        return Reservoir(self.limit, self.seed, min(self.bound, other.bound), (*self._parts, *other._parts))

    def _settle(self) -> None:
        """Joins the parts and drops the groups that do not fit."""
        if not self._parts:
            return
        groups = np.concatenate([part.groups for part in self._parts])
        rank = priorities(groups, self.seed)
        if len(rank) > self.limit:
            # The group that holds row `limit`, counted by priority, does not fit, nor does any above it.
            self.bound = min(self.bound, np.partition(rank, self.limit)[self.limit])
        kept = rank < self.bound
        if len(self._parts) > 1 or not kept.all():
            x, y = (np.concatenate([part[side] for part in self._parts])[kept] for side in (1, 2))
            self._parts = [Sample(groups[kept], x, y)] if kept.any() else []
