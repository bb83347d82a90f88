"""The second moments of two spaces: one pass, batches of any size in any order, mergeable, and without cancellation.

Let u_i = map(x_i) - m and v_i = map(y_i) - w for fixed centers m and w, with the scalars
w_i = (1, m.u_i, w.v_i, |u_i|^2, |v_i|^2) of row i. The state is the sum over rows of z z^T for z = (w, u, v), kept in
blocks (`bertft.kernels.types.MomentSums`). Everything bilinear follows from it: the five pair sums of RSA for the
cosine, correlation, dot and squared Euclidean kernels, linear CKA, CCA and Procrustes.

A change of center is exact algebra on the state, since the new z is a linear map of the old one. So states with
different centers can be added, and a batch far from the center can be taken about its own mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertft.arrays import as_double, bad_row, host, is_double, like
from bertft.errors import ArrayError, RowError
from bertft.kernels import Operations
from bertft.kernels.types import Array, MomentSums, RowMap

CENTER_ROWS = 256
"""Rows whose mean is the center: enough to be near the middle, few enough to cost nothing."""

FAR = 0.3
"""Rows are far from a center when the squared distance of their mean is above this share of their mean squared
distance. The spread of such rows would be a small difference of large sums."""

DIAGONAL = 0.5
"""A batch is multiplied again in float64 when the pairs of rows with themselves make up more than this share of a
squared product. These pairs are subtracted from every pair sum exactly, which would leave behind float32's rounding of
them. This happens with few rows, and with a row much longer than the others (the massive activations of some models).
"""


@dataclass
class Moments:
    """The moments of n rows under one row map. Arrays are float64; those on a GPU stay there until they are read."""

    row_map: RowMap
    n: int
    x_center: Array
    y_center: Array
    sums: MomentSums

    @classmethod
    def of_batch(
        cls,
        ops: Operations,
        x: Array,
        y: Array,
        row_map: RowMap,
        centers: tuple[Array, Array] | None,
        first_row: int = 0,
    ) -> Moments:
        """Return the moments of one batch, about the given centers or the means of its own rows.

        Raises `ArrayError` naming the row, counted from first_row, that has no value under the map.
        """
        x_center, y_center = centers or (None, None)
        return cls.of_batches(ops, x, (y,), row_map, x_center, (y_center,), first_row)[0]

    @classmethod
    def of_batches(
        cls,
        ops: Operations,
        x: Array,
        ys: Sequence[Array],
        row_map: RowMap,
        x_center: Array | None,
        y_centers: Sequence[Array | None],
        first_row: int = 0,
    ) -> list[Moments]:
        """Return the moments of one batch of x with each of several y, computing what depends on x alone once.

        Where a center is None, the mean of the batch's own rows is taken. The states returned may share arrays, so
        `copy` one before adding to it. Raises `ArrayError` as `of_batch` does.
        """
        x_center = center_of(ops, x, row_map) if x_center is None else x_center
        centers = [
            center_of(ops, y, row_map) if center is None else center for y, center in zip(ys, y_centers, strict=True)
        ]
        found = ops.shared_moments(x, ys, x_center, centers, row_map)
        for y, sums in zip(ys, found, strict=True):
            if not np.isfinite(host(sums.scalars)).all():
                raise _bad_row_error(x, y, row_map, first_row)
        rounded = [] if is_double(x) else [i for i, sums in enumerate(found) if _diagonal_share(sums) > DIAGONAL]
        if rounded:
            some, about = [as_double(ys[i]) for i in rounded], [centers[i] for i in rounded]
            again = ops.shared_moments(as_double(x), some, x_center, about, row_map)
            for i, sums in zip(rounded, again, strict=True):
                found[i] = sums
        return [cls(row_map, len(x), x_center, center, sums) for center, sums in zip(centers, found, strict=True)]

    def is_far(self) -> bool:
        """Return whether these rows are far from the centers, measured by their own spread."""
        scalars, means = host(self.sums.scalars), self._means()
        share = min(0.9, FAR + 1.5 / self.n)  # the mean of few rows is off the center by chance alone
        squares = (float(mean @ mean) for mean in means)
        return self.n > 1 and any(
            square > share * scalars[0, k] / self.n for square, k in zip(squares, (3, 4), strict=True)
        )

    def add(self, other: Moments) -> None:
        """Add the rows of another state, in place; the other is not changed and no array of it is kept.

        The centers move to the mean when the rows turn out to be far from them.
        """
        if not (np.array_equal(self.x_center, other.x_center) and np.array_equal(self.y_center, other.y_center)):
            other = other.about(self.x_center, self.y_center)
        if not _same_device(self.sums, other.sums):
            self.sums, other = self.on_host().sums, other.on_host()
        for total, part in zip(self.sums, other.sums, strict=True):
            total += part
        self.n += other.n
        if self.is_far():
            x_mean, y_mean = self._means()
            moved = self.about(self.x_center + x_mean, self.y_center + y_mean)
            self.x_center, self.y_center, self.sums = moved.x_center, moved.y_center, moved.sums

    def _means(self) -> tuple[Array, Array]:
        """Return the means of u and v, NumPy."""
        return host(self.sums.x_vectors)[0] / self.n, host(self.sums.y_vectors)[0] / self.n

    def copy(self) -> Moments:
        """Return an equal state that shares no array with this one."""
        sums = MomentSums(*(part.copy() if isinstance(part, np.ndarray) else part.clone() for part in self.sums))
        return Moments(self.row_map, self.n, self.x_center.copy(), self.y_center.copy(), sums)

    def on_host(self) -> Moments:
        """Return the same state with NumPy arrays."""
        return Moments(self.row_map, self.n, self.x_center, self.y_center, MomentSums(*map(host, self.sums)))

    def about(self, x_center: Array, y_center: Array) -> Moments:
        """Return the moments of the same rows about other centers, exactly: z' = L z, so the state becomes L S L^T."""
        dx, dy = self.x_center - x_center, self.y_center - y_center
        sums, d1, d2 = self.on_host().sums, len(dx), len(dy)
        # w' = keep w + by_u u + by_v v, from expanding m'.(u + dx) and |u + dx|^2 with m' = m - dx
        keep, by_u, by_v = np.eye(5), np.zeros((5, d1)), np.zeros((5, d2))
        keep[1, 0], by_u[1] = self.x_center @ dx - dx @ dx, -dx
        keep[2, 0], by_v[2] = self.y_center @ dy - dy @ dy, -dy
        keep[3, 0], by_u[3] = dx @ dx, 2 * dx
        keep[4, 0], by_v[4] = dy @ dy, 2 * dy
        w_u = keep @ sums.x_vectors + by_u @ sums.xx + by_v @ sums.xy.T
        w_v = keep @ sums.y_vectors + by_u @ sums.xy + by_v @ sums.yy
        w_w = keep @ sums.scalars + by_u @ sums.x_vectors.T + by_v @ sums.y_vectors.T
        scalars = w_w @ keep.T + w_u @ by_u.T + w_v @ by_v.T
        s, t = sums.x_vectors[0], sums.y_vectors[0]
        moved = MomentSums(
            scalars,
            w_u + np.outer(scalars[:, 0], dx),
            w_v + np.outer(scalars[:, 0], dy),
            sums.xx + np.outer(dx, s) + np.outer(s, dx) + self.n * np.outer(dx, dx),
            sums.xy + np.outer(dx, t) + np.outer(s, dy) + self.n * np.outer(dx, dy),
            sums.yy + np.outer(dy, t) + np.outer(t, dy) + self.n * np.outer(dy, dy),
        )
        placed = MomentSums(*(like(part, self.sums.xx) for part in moved))
        return Moments(self.row_map, self.n, x_center.copy(), y_center.copy(), placed)

    def check(self) -> None:
        """Raise `ArrayError` unless the arrays fit each other and are those of n rows."""
        d1, d2 = len(self.x_center), len(self.y_center)
        shapes = [(5, 5), (5, d1), (5, d2), (d1, d1), (d1, d2), (d2, d2)]
        for name, part, shape in zip(self.sums._fields, self.sums, shapes, strict=True):
            if part.shape != shape or part.dtype != np.float64 or not np.isfinite(part).all():
                raise ArrayError(
                    f"{self.row_map}.{name} should be finite float64 of shape {shape}; this state was changed"
                )
        if self.sums.scalars[0, 0] != self.n:
            raise ArrayError(f"the sums are of {self.sums.scalars[0, 0]:g} rows, not {self.n}; this state was changed")

    def without(self, other: Moments) -> Moments:
        """Return the state without the rows of another, which it holds about the same centers."""
        sums = MomentSums(*(whole - part for whole, part in zip(self.sums, other.sums, strict=True)))
        return Moments(self.row_map, self.n - other.n, self.x_center, self.y_center, sums)


def center_of(ops: Operations, batch: Array, row_map: RowMap) -> Array:
    """Return the mean of (a sample of) the mapped rows, (d,) float64 NumPy, by which a state is shifted."""
    step = -(-len(batch) // CENTER_ROWS)
    sample = batch[::step]
    zero = np.zeros(batch.shape[1])
    vectors, offsets = ops.shifted_rows(sample, zero, row_map, "dot")
    vectors, good = host(vectors), np.isfinite(host(offsets))
    if not good.any():
        return zero  # the moments report the bad row
    return np.asarray((vectors if good.all() else vectors[good]).mean(axis=0, dtype=np.float64))


def _same_device(left: MomentSums, right: MomentSums) -> bool:
    return type(left.xx) is type(right.xx) and getattr(left.xx, "device", None) == getattr(right.xx, "device", None)


def _diagonal_share(sums: MomentSums) -> float:
    """Return the larger share, of x and y, of pairs of a row with itself in the sum of squared dot products."""
    scalars = host(sums.scalars)
    squares = (float(part.reshape(-1) @ part.reshape(-1)) for part in (sums.xx, sums.yy))
    return max(scalars[k, k] / square if square > 0 else 0.0 for k, square in zip((3, 4), squares, strict=True))


def _bad_row_error(x: Array, y: Array, row_map: RowMap, first_row: int) -> ArrayError:
    for side, batch in (("x", x), ("y", y)):
        if (found := bad_row(batch, row_map)) is not None:
            return RowError(side, first_row + found[0], found[1])
    return ArrayError("the sums over rows leave the range of float64; multiply the arrays by a constant")
