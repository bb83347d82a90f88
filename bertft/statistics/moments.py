"""The second moments of two spaces, shifted so that nothing cancels: one pass, any batches, any order, mergeable.

With u_i = map(x_i) - m and v_i = map(y_i) - w for fixed centers m and w, and the scalars
w_i = (1, m.u_i, w.v_i, |u_i|^2, |v_i|^2), the state is the sum over rows of z z^T for z = (w, u, v), kept in blocks
(`bertft.kernels.types.MomentSums`).  Everything bilinear follows from it: the five pair sums of RSA for the cosine,
correlation, dot and squared Euclidean kernels, linear CKA, CCA and Procrustes.

Changing a center is exact algebra on the state, since the new z is a linear map of the old one; so states with
different centers can be added, and a batch that lies far from the center can be taken about its own mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertft.arrays import as_double, bad_row, host, is_double, like
from bertft.errors import ArrayError, RowError
from bertft.kernels import Operations
from bertft.kernels.types import Array, MomentSums, RowMap

CENTER_ROWS = 256
"""Rows whose mean is the center: enough to lie near the middle, few enough to cost nothing."""

FAR = 0.3
"""Rows are far from a center when their mean's distance squared is more than this share of their mean square distance:
what the sums say of the rows' spread would then be the small difference of large numbers."""

DIAGONAL = 0.5
"""A batch is multiplied again in float64 when the pairs of rows with themselves make more than this share of a squared
product. They are taken out of every pair sum exactly, which would leave float32's rounding of them standing: so it is
with few rows, and with a row much longer than the rest (the massive activations of some models)."""

_FEW = (
    16  # of fewer rows it is not asked whether they lie far: their mean is their own, and moving costs more than they
)


@dataclass
class Moments:
    """The moments of n rows under one row map. All arrays are float64; on the GPU they stay there until read."""

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
        """The moments of one batch, about the given centers or the mean of its own rows.

        Raises `ArrayError` naming the row, counted from first_row, that has no value under the map.
        """
        if centers is None:
            centers = center_of(ops, x, row_map), center_of(ops, y, row_map)
        sums = ops.moments(x, y, *centers, row_map)
        if not np.isfinite(host(sums.scalars)).all():
            raise _bad_row_error(x, y, row_map, first_row)
        if not is_double(x) and _diagonal_share(sums) > DIAGONAL:
            sums = ops.moments(as_double(x), as_double(y), *centers, row_map)
        return cls(row_map, len(x), *centers, sums)

    def is_far(self) -> bool:
        """Whether these rows lie far from the centers, measured by their own spread."""
        scalars, means = host(self.sums.scalars), self._means()
        share = min(0.9, FAR + 1.5 / self.n)  # the mean of few rows lies off the center by chance alone
        squares = (float(mean @ mean) for mean in means)
        return self.n > 1 and any(
            square > share * scalars[0, k] / self.n for square, k in zip(squares, (3, 4), strict=True)
        )

    def add(self, other: Moments) -> None:
        """Adds the rows of another state, in place; the other is unchanged and nothing of it is kept.

        The centers move to the mean when the rows turn out to lie far from them.
        """
        if not (np.array_equal(self.x_center, other.x_center) and np.array_equal(self.y_center, other.y_center)):
            other = other.about(self.x_center, self.y_center)
        if not _same_place(self.sums, other.sums):
            self.sums, other = self.on_host().sums, other.on_host()
        for total, part in zip(self.sums, other.sums, strict=True):
            total += part
        self.n += other.n
        if self.is_far():
            x_mean, y_mean = self._means()
            moved = self.about(self.x_center + x_mean, self.y_center + y_mean)
            self.x_center, self.y_center, self.sums = moved.x_center, moved.y_center, moved.sums

    def _means(self) -> tuple[Array, Array]:
        """The means of u and v, NumPy."""
        return host(self.sums.x_vectors)[0] / self.n, host(self.sums.y_vectors)[0] / self.n

    def copy(self) -> Moments:
        """A state that shares no array with this one."""
        sums = MomentSums(*(part.copy() if isinstance(part, np.ndarray) else part.clone() for part in self.sums))
        return Moments(self.row_map, self.n, self.x_center.copy(), self.y_center.copy(), sums)

    def on_host(self) -> Moments:
        """The same state with NumPy arrays."""
        return Moments(self.row_map, self.n, self.x_center, self.y_center, MomentSums(*map(host, self.sums)))

    def about(self, x_center: Array, y_center: Array) -> Moments:
        """The same rows about other centers, exactly: z' = L z, so the state becomes L S L^T."""
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
        """Raises `ArrayError` unless the arrays fit each other and are those of n rows."""
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
        """The state with the rows of another, which it holds about the same centers, taken out again."""
        sums = MomentSums(*(whole - part for whole, part in zip(self.sums, other.sums, strict=True)))
        return Moments(self.row_map, self.n - other.n, self.x_center, self.y_center, sums)


def center_of(ops: Operations, batch: Array, row_map: RowMap) -> Array:
    """The mean of (a sample of) the mapped rows, (d,) float64 NumPy: the fixed reference a state is shifted by."""
    step = -(-len(batch) // CENTER_ROWS)
    sample = batch[::step]
    zero = np.zeros(batch.shape[1])
    vectors, offsets = ops.shifted_rows(sample, zero, row_map, "dot")
    vectors, good = host(vectors), np.isfinite(host(offsets))
    if not good.any():
        return zero  # a bad row is reported by the moments
    return np.asarray((vectors if good.all() else vectors[good]).mean(axis=0, dtype=np.float64))


def _same_place(left: MomentSums, right: MomentSums) -> bool:
    return type(left.xx) is type(right.xx) and getattr(left.xx, "device", None) == getattr(right.xx, "device", None)


def _diagonal_share(sums: MomentSums) -> float:
    """The larger share, of x and y, that rows with themselves have in the sum of squared dot products of all rows."""
    scalars = host(sums.scalars)
    squares = (float(part.reshape(-1) @ part.reshape(-1)) for part in (sums.xx, sums.yy))
    return max(scalars[k, k] / square if square > 0 else 0.0 for k, square in zip((3, 4), squares, strict=True))


def _bad_row_error(x: Array, y: Array, row_map: RowMap, first_row: int) -> ArrayError:
    for side, batch in (("x", x), ("y", y)):
        if (found := bad_row(batch, row_map)) is not None:
            return RowError(side, first_row + found[0], found[1])
    return ArrayError("the sums over rows leave the range of float64; multiply the arrays by a constant")
