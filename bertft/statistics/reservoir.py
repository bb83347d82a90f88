"""A bounded, order-independent sample of whole groups of rows, kept beside the moments for standard errors.

While all rows fit the limit, all are kept.  Beyond it the longest groups are thinned first: no group keeps more rows
than lets all of them fit together, and the sample says how many rows each row that was kept stands for.  No group is
thinned below `LEAST_ROWS` rows; where even that does not fit, whole groups are dropped.

Which rows are kept depends only on which rows were seen, not on their order or on how they were split and merged.  A
group (a sentence) has a priority, the hash of its number with a seed: groups of high priority are dropped.  A row has
one too, the hash of its values: of a thinned group the rows of lowest priority are kept.  Further rows can only lower
the number of rows a group may keep and the bound on priorities, so that what was dropped early would be dropped late.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from bertft.kernels.types import Array

_END = np.uint64(0xFFFFFFFFFFFFFFFF)

LEAST_ROWS = 8
"""Rows to which groups may be thinned before groups are dropped. With fewer the rows left out are too many for the
spread among groups to be seen; with more too few groups are left where it rests on a few of them."""


def priorities(groups: Array, seed: int) -> Array:
    """One pseudo-random uint64 a group number, the same everywhere."""
    return _scattered(
        groups.astype(np.int64).view(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 & int(_END))
    )


def row_priorities(x: Array, y: Array, seed: int) -> Array:
    """One pseudo-random uint64 a row, (rows,), from its values alone, taken as float32 whatever their type."""
    x_sums, y_sums = (
        np.array([zlib.crc32(row) for row in np.ascontiguousarray(rows, dtype=np.float32)], dtype=np.uint64)
        for rows in (x, y)
    )
    return _scattered(_scattered(x_sums << np.uint64(32) | y_sums) + np.uint64(seed))


def _scattered(z: Array) -> Array:
    """Each uint64 mapped to another, one to one, near ones far apart (the splitmix64 finaliser, Steele et al. 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Sample(NamedTuple):
    """Rows of x (r, d1) and y (r, d2), the group number of each, (r,) int64, and how many rows each stands for.

    `weights` (r,) are the size of a row's group over the rows of it that were kept.
    """

    groups: Array
    x: Array
    y: Array
    weights: Array


class Reservoir:
    """At most `limit` rows; `bound` is the lowest priority of a group ever dropped."""

    def __init__(self, limit: int, seed: int, bound: np.uint64 = _END, parts: tuple[Sample, ...] = ()) -> None:
        self.limit, self.seed, self.bound = limit, seed, bound
        # Parts are kept as they came and joined when they are half as many again as the limit: joining at every batch
        # would copy the whole sample each time.
        self._parts = list(parts)

    def offer(self, groups: Array) -> Array:
        """Which rows of a batch enter, as positions."""
        return np.flatnonzero(priorities(groups, self.seed) < self.bound) if self.limit else np.empty(0, np.int64)

    def add(self, groups: Array, x: Array, y: Array) -> None:
        """Takes rows in (copies)."""
        self._parts.append(Sample(np.array(groups), np.array(x), np.array(y), np.ones(len(groups))))
        if 2 * sum(len(part.groups) for part in self._parts) > 3 * self.limit:
            self._settle()

    def sample(self) -> Sample | None:
        """The rows, or None where there are none."""
        self._settle()
        return self._parts[0] if self._parts else None

    def merge(self, other: Reservoir) -> Reservoir:
        """The sample of the rows of both; the lower bound of the two holds for both."""
        return Reservoir(self.limit, self.seed, min(self.bound, other.bound), (*self._parts, *other._parts))

    def _settle(self) -> None:
        """Joins the parts, thins long groups as far as the limit forces, and drops the groups that do not fit."""
        if not self._parts:
            return
        parts = self._parts
        names, number = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)
        # The weights of a group's rows add up to its size, before it was thinned and after.
        sizes = np.rint(np.bincount(number, weights=np.concatenate([part.weights for part in parts])))
        rank = priorities(names, self.seed)
        most = self._most_rows(sizes)
        by_rank = np.argsort(rank)
        over = np.flatnonzero(np.cumsum(np.minimum(sizes, most)[by_rank]) > self.limit)
        if len(over):
            self.bound = min(self.bound, rank[by_rank[over[0]]])
        kept = (rank < self.bound)[number]
        cuts = np.cumsum([len(part.groups) for part in parts])[:-1]
        thinned = kept & (np.bincount(number) > most)[number]
        if thinned.any():
            order = [
                row_priorities(part.x[rows], part.y[rows], self.seed)
                for part, rows in zip(parts, np.split(thinned, cuts), strict=True)
            ]
            kept[thinned] = _places(number[thinned], np.concatenate(order)) < most
        if len(parts) == 1 and kept.all():
            return
        chosen = np.split(kept, cuts)
        groups, x, y = (
            np.concatenate([part[side][rows] for part, rows in zip(parts, chosen, strict=True)]) for side in range(3)
        )
        share = sizes / np.maximum(np.bincount(number, weights=kept), 1)
        self._parts = [Sample(groups, x, y, share[number[kept]])] if kept.any() else []

    def _most_rows(self, sizes: Array) -> int:
        """The most rows a group may keep: the largest number with which groups of these sizes fit, if large enough."""
        least = most = LEAST_ROWS
        if self.bound == _END:  # once a group was dropped, those left stay as thin as they then were
            most = max(self.limit, LEAST_ROWS)
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if np.minimum(sizes, middle).sum() <= self.limit else (least, middle - 1)
        return least


def _places(number: Array, order: Array) -> Array:
    """The place of each row among those of its group by `order`, (rows,)."""
    sorted_rows = np.lexsort((order, number))
    counts = np.bincount(number)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(number), dtype=np.int64)
    place[sorted_rows] = np.arange(len(number)) - starts[number[sorted_rows]]
    return place
