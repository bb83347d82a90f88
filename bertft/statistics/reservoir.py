"""A bounded, order-independent sample of whole groups of rows, kept beside the moments for standard errors.

Every group (a sentence) gets a priority by hashing its number with a seed.  The sample is the groups of lowest priority
whose rows fit the limit: a group is dropped when those below it fill the limit, and stays dropped.  Of a long group
`ROWS_PER_GROUP` rows are kept, again those of lowest priority, beside its size: a hundred sentences say more about the
spread among sentences than ten whole ones.  Which groups are kept depends on which rows were seen, not on their order
or on how they were split and merged.
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


ROWS_PER_GROUP = 8
"""Rows kept of one group: enough to estimate its sum of influences without letting long groups crowd out others."""


class Sample(NamedTuple):
    """Rows of x (r, d1) and y (r, d2), the group number of each, (r,) int64, and how many rows each stands for.

    `weights` (r,) are the size of a row's group over the rows of it that were kept.
    """

    groups: Array
    x: Array
    y: Array
    weights: Array


class Reservoir:
    """At most `limit` rows; `bound` is the lowest priority ever dropped."""

    def __init__(self, limit: int, seed: int, bound: np.uint64 = _END, parts: tuple[Sample, ...] = ()) -> None:
        self.limit, self.seed, self.bound = limit, seed, bound
        # Parts are kept as they came and joined when they hold twice the limit: joining at every batch would copy the
        # whole sample each time.
        self._parts = list(parts)

    def offer(self, groups: Array) -> tuple[Array, Array]:
        """Which rows of a batch enter, as positions, and how many rows of their group each stands for."""
        positions = np.flatnonzero(priorities(groups, self.seed) < self.bound) if self.limit else np.empty(0, np.int64)
        if not len(positions):
            return positions, np.empty(0)
        kept, weights = self._thin(groups[positions], np.ones(len(positions)))
        return positions[kept], weights

    def add(self, groups: Array, x: Array, y: Array, weights: Array) -> None:
        """Takes rows in (copies)."""
        self._parts.append(Sample(np.array(groups), np.array(x), np.array(y), weights))
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
        """Joins the parts, thins long groups, and drops the groups that do not fit."""
        if not self._parts:
            return
        groups = np.concatenate([part.groups for part in self._parts])
        kept, weights = self._thin(groups, np.concatenate([part.weights for part in self._parts]))
        if len(self._parts) > 1 or not kept.all():
            x, y = (np.concatenate([part[side] for part in self._parts])[kept] for side in (1, 2))
            self._parts = [Sample(groups[kept], x, y, weights)] if kept.any() else []

    def _thin(self, groups: Array, weights: Array) -> tuple[Array, Array]:
        """Which rows stay when long groups are thinned and groups that do not fit dropped, and the weights of those."""
        number = np.unique(groups, return_inverse=True)[1]
        kept = _places(groups, number, self.seed) < ROWS_PER_GROUP
        rank = priorities(groups, self.seed)
        if np.count_nonzero(kept) > self.limit:
            # The group that holds row `limit`, counted by priority, does not fit, nor does any above it.
            self.bound = min(self.bound, np.partition(rank[kept], self.limit)[self.limit])
        kept &= rank < self.bound
        # What a group lost is told by its weights: they add up to its size before and after.
        sizes = np.bincount(number, weights=weights)
        share = sizes / np.maximum(np.bincount(number, weights=kept), 1)
        return kept, share[number[kept]]


def _places(groups: Array, number: Array, seed: int) -> Array:
    """The place of each row among those of its group, (r,): an order that is random and the same at every run."""
    nth = np.empty(len(groups), dtype=np.int64)
    by_group = np.argsort(number, kind="stable")
    starts = np.cumsum(np.bincount(number)) - np.bincount(number)
    nth[by_group] = np.arange(len(groups)) - starts[number[by_group]]
    order = np.lexsort((priorities(groups * 1_000_003 + nth, seed + 1), number))
    place = np.empty(len(groups), dtype=np.int64)
    place[order] = np.arange(len(groups)) - starts[number[order]]
    return place
