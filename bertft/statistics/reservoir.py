"""A bounded, order-independent sample of whole groups of rows, kept beside the moments for standard errors.

All rows are kept while they fit the limit. Beyond it, the longest groups are thinned first: every group may keep the
same number of rows, the largest with which all groups fit. The weight of a row is the number of rows it represents. No
group is thinned below `LEAST_ROWS` rows. If the groups do not fit even then, whole groups are dropped.

The rows that are kept depend only on the rows that were seen, not on their order or on how they were split and merged.
Each group (a sentence) has a priority, a hash of its number and a seed, and groups of high priority are dropped. Each
row has one too, a hash of its values, and a thinned group keeps its rows of lowest priority. Further rows can only
lower the number of rows per group and the bound on priorities, so a row dropped early would also be dropped later.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from bertft.kernels.types import Array

_END = np.uint64(0xFFFFFFFFFFFFFFFF)

LEAST_ROWS = 8
"""Groups are thinned to this many rows before any is dropped. With fewer rows a group, too much noise is added to its
total; with more, too few groups remain."""


def priorities(groups: Array, seed: int) -> Array:
    """Return a pseudo-random uint64 for each group number, the same on every machine."""
    return _scattered(
        groups.astype(np.int64).view(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 & int(_END))
    )


def row_priorities(x: Array, y: Array, seed: int) -> Array:
    """Return a pseudo-random uint64 for each row, (rows,), from its values alone, converted to float32.

    Rows whose values are beyond the range of float32 are divided by a power of two first.
    """
    x_sums, y_sums = (np.array([zlib.crc32(row) for row in _as_single(rows)], dtype=np.uint64) for rows in (x, y))
    return _scattered(_scattered(x_sums << np.uint64(32) | y_sums) + np.uint64(seed & int(_END)))


def _as_single(rows: Array) -> Array:
    """Return rows in float32, each beyond its range divided by a power of two of its own."""
    exponents = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]
    beyond = np.abs(exponents) > 120
    if rows.dtype == np.float64 and beyond.any():
        rows = np.ldexp(rows, np.where(beyond, -exponents, 0)[:, None])
    return np.ascontiguousarray(rows, dtype=np.float32)


def _scattered(z: Array) -> Array:
    """Map each uint64 to another, one to one, with the finaliser of splitmix64 (Steele et al. 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Sample(NamedTuple):
    """Rows of x (r, d1) and y (r, d2), with the group number (r,) int64 and the weight (r,) of each row.

    The weight is the size of the row's group divided by the number of its rows in the sample.
    """

    groups: Array
    x: Array
    y: Array
    weights: Array


class Reservoir:
    """A sample of at most `limit` rows; `bound` is the lowest priority of a group that was dropped."""

    def __init__(self, limit: int, seed: int, bound: np.uint64 = _END, parts: tuple[Sample, ...] = ()) -> None:
        self.limit, self.seed, self.bound = limit, seed, bound
        # Parts are joined when they hold half as many rows again as the limit. Joining after every batch would copy the
        # whole sample each time.
        self._parts = list(parts)

    def offer(self, groups: Array) -> Array:
        """Return the indices of the rows of a batch that are to be added."""
        return np.flatnonzero(priorities(groups, self.seed) < self.bound) if self.limit else np.empty(0, np.int64)

    def add(self, groups: Array, x: Array, y: Array) -> None:
        """Add copies of rows."""
        self._parts.append(Sample(np.array(groups), np.array(x), np.array(y), np.ones(len(groups))))
        if 2 * sum(len(part.groups) for part in self._parts) > 3 * self.limit:
            self._settle()

    def sample(self) -> Sample | None:
        """Return the sample, or None if it has no rows."""
        self._settle()
        return self._parts[0] if self._parts else None

    def copy(self) -> Reservoir:
        """Return an equal sample; arrays are shared, and none is ever changed."""
        return Reservoir(self.limit, self.seed, self.bound, tuple(self._parts))

    def merge(self, other: Reservoir) -> Reservoir:
        """Return the sample of the rows of both."""
        return Reservoir(self.limit, self.seed, min(self.bound, other.bound), (*self._parts, *other._parts))

    def _settle(self) -> None:
        """Join the parts, thin long groups no more than the limit requires, and drop the groups that do not fit."""
        if not self._parts:
            return
        parts = self._parts
        names, number = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)
        # The weights of the rows of a group add up to its size, also after it was thinned.
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
        """Return how many rows a group may keep: the largest number with which groups of these sizes fit."""
        least = most = LEAST_ROWS
        if self.bound == _END:  # after a group was dropped, the others keep `LEAST_ROWS` rows
            most = max(self.limit, LEAST_ROWS)
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if np.minimum(sizes, middle).sum() <= self.limit else (least, middle - 1)
        return least


def _places(number: Array, order: Array) -> Array:
    """Return the rank of each row within its group by `order`, (rows,), from 0."""
    sorted_rows = np.lexsort((order, number))
    counts = np.bincount(number)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(number), dtype=np.int64)
    place[sorted_rows] = np.arange(len(number)) - starts[number[sorted_rows]]
    return place
