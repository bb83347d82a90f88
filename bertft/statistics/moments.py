"""The second moments of two spaces: one pass, batches of any size in any order, mergeable, and without cancellation.

Let u_i = map(x_i) - m and v_i = map(y_i) - w for fixed centers m and w, with the scalars
w_i = (1, m.u_i, w.v_i, |u_i|^2, |v_i|^2) of row i. The state is the sum over rows of z z^T for z = (w, u, v), kept in
blocks (`bertft.kernels.types.MomentSums`). Everything bilinear follows from it: the five pair sums of RSA for the
cosine, correlation, dot and squared Euclidean kernels, linear CKA, CCA and Procrustes.

A change of center is exact algebra on the state, since the new z is a linear map of the old one. So states with
different centers can be added, and a batch far from the center can be taken about its own mean.

Raw rows too large or too small for sums of fourth powers are divided by a power of two, 2^exponent, one for each space
(`bertft.statistics.scaling`). The measures do not depend on it, and a change of it is exact algebra too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bertft.arrays import CONSTANT_ROW, as_double, bad_row, host, is_double, like, of_one_type
from bertft.errors import ArrayError, RowError
from bertft.kernels import Operations
from bertft.kernels.types import Array, MomentSums, RowMap
from bertft.statistics import off_diagonal
from bertft.statistics.scaling import (
    DOUBLE,
    SINGLE,
    Range,
    extreme_exponent,
    inside,
    placed,
    scaled,
    too_close,
    varies,
    vary,
    with_ordinary_rows,
)

CENTER_ROWS = 256
"""Rows whose mean is the center: enough to be near the middle, few enough to cost nothing."""

LONG = 100.0
"""Rows this many times longer than half of the sampled ones do not move the center, which is to be near the others."""

FAR = 0.3
"""Rows are far from a center when the squared distance of their mean is above this share of their mean squared
distance. The spread of such rows would be a small difference of large sums."""

DIAGONAL = 0.5
"""A batch is multiplied again in float64 when the pairs of rows with themselves make up more than this share of a
squared product. These pairs are subtracted from every pair sum exactly, which would leave behind float32's rounding of
them. This happens with few rows, and with a row much longer than the others (the massive activations of some models).
"""

APART = 0.999
"""Above this share the pairs of different rows are summed apart, see `bertft.statistics.off_diagonal`."""

SUMMED_APART = 1024
"""Rows whose pairs are stored for that, 8 MiB for each space."""


class Frame(NamedTuple):
    """How the rows of one space are placed: divided by 2^exponent, mapped, and shifted by `center` (d,), float64."""

    center: Array
    exponent: int = 0


@dataclass
class Moments:
    """The moments of n rows under one row map. Arrays are float64; those on a GPU stay there until they are read.

    Centers and sums are of rows divided by 2^x_exponent and 2^y_exponent; both are 0 for rows of ordinary scale.
    """

    row_map: RowMap
    n: int
    x_center: Array
    y_center: Array
    sums: MomentSums
    x_exponent: int = 0
    y_exponent: int = 0
    off_diagonal: Array | None = None
    """Sums over the pairs of different rows, kept where the sums over all pairs have lost their digits."""

    @classmethod
    def of_batch(
        cls,
        ops: Operations,
        x: Array,
        y: Array,
        row_map: RowMap,
        frames: tuple[Frame, Frame] | None = None,
        first_row: int = 0,
    ) -> Moments:
        """Return the moments of one batch, in the given frames or about the means of its own rows.

        Raises `ArrayError` naming the row, counted from first_row, that has no value under the map.
        """
        x_frame, y_frame = frames or (None, None)
        return cls.of_batches(ops, x, (y,), row_map, x_frame, (y_frame,), first_row)[0]

    @classmethod
    def of_batches(
        cls,
        ops: Operations,
        x: Array,
        ys: Sequence[Array],
        row_map: RowMap,
        x_frame: Frame | None,
        y_frames: Sequence[Frame | None],
        first_row: int = 0,
    ) -> list[Moments]:
        """Return the moments of one batch of x with each of several y, computing what depends on x alone once.

        Where a frame is None, the mean of the batch's own rows is the center. A batch whose scale does not fit its
        frame is returned in a frame of its own. The states returned may share arrays, so `copy` one before adding to
        it. Raises `ArrayError` as `of_batch` does.
        """
        x, *ys = of_one_type(x, *ys)
        frames = [
            frame or Frame(center_of(ops, rows, row_map))
            for frame, rows in zip((x_frame, *y_frames), (x, *ys), strict=True)
        ]
        states = cls._in_frames(ops, x, ys, row_map, frames)
        if not is_double(x):
            rounded = [
                i
                for i, state in enumerate(states)
                if not state._fits(SINGLE, x, ys[i]) or _diagonal_share(state.sums) > DIAGONAL
            ]
            if rounded:
                some = [as_double(ys[i]) for i in rounded]
                about = [frames[0], *(frames[1 + i] for i in rounded)]
                again = cls._in_frames(ops, as_double(x), some, row_map, about)
                for i, state in zip(rounded, again, strict=True):
                    states[i] = state
        for i, state in enumerate(states):
            if not state._fits(DOUBLE, x, ys[i]):
                states[i] = cls._of_extreme_scale(ops, x, ys[i], row_map, first_row)
            if len(x) > 1 and _diagonal_share(states[i].sums) > APART:
                states[i] = states[i]._with_pairs_apart(ops, x, ys[i])
        return states

    @classmethod
    def _in_frames(
        cls, ops: Operations, x: Array, ys: Sequence[Array], row_map: RowMap, frames: Sequence[Frame]
    ) -> list[Moments]:
        """Return the moments of x with each y, the first frame being that of x."""
        x, *ys = of_one_type(*(scaled(rows, frame.exponent) for rows, frame in zip((x, *ys), frames, strict=True)))
        of_x, *of_ys = frames
        found = ops.shared_moments(x, ys, of_x.center, [frame.center for frame in of_ys], row_map)
        return [
            cls(row_map, len(x), of_x.center, frame.center, sums, of_x.exponent, frame.exponent)
            for frame, sums in zip(of_ys, found, strict=True)
        ]

    @classmethod
    def _of_extreme_scale(cls, ops: Operations, x: Array, y: Array, row_map: RowMap, first_row: int) -> Moments:
        """Return the moments of a batch with its scale taken out. Raises `ArrayError` naming what has no value."""
        placed_sides: list[Array] = []
        exponents: list[int] = []
        for side, batch in (("x", x), ("y", y)):
            if (found := bad_row(batch, row_map)) is not None:
                raise RowError(side, first_row + found[0], found[1])
            exponents.append(extreme_exponent((batch,)) if row_map == "raw" else 0)
            placed_sides.append(placed(as_double(batch), row_map, exponents[-1]))
        x_rows, y_rows = placed_sides
        # Columns that are constant leave nothing about the first row, and a rounding error about their mean.
        for centers in (
            [center_of(ops, rows, row_map) for rows in placed_sides],
            [
                host(ops.shifted_rows(rows[:1], np.zeros(rows.shape[1]), row_map, "dot").vectors)[0]
                for rows in placed_sides
            ],
        ):
            (sums,) = ops.shared_moments(x_rows, (y_rows,), centers[0], centers[1:], row_map)
            state = cls(row_map, len(x), centers[0], centers[1], sums, exponents[0], exponents[1])
            if state._fits(DOUBLE, x, y):
                return state
        if row_map == "raw":
            raise ArrayError(too_close(state._misfit(DOUBLE, x, y) or "x"))
        raise _row_error(ops, x_rows, y_rows, row_map, first_row)

    def _with_pairs_apart(self, ops: Operations, x: Array, y: Array) -> Moments:
        """Return the moments of this batch, rows x and y, with its pairs of different rows summed apart."""
        if len(x) > SUMMED_APART:
            total, *others = (
                Moments.of_batch(
                    ops, x[low : low + SUMMED_APART], y[low : low + SUMMED_APART], self.row_map, self.frames
                )
                for low in range(0, len(x), SUMMED_APART)
            )
            for other in others:
                total.add(other)
            return total
        u, v = (
            host(
                ops.shifted_rows(
                    placed(as_double(rows), self.row_map, frame.exponent), frame.center, self.row_map, "dot"
                ).vectors
            )
            for rows, frame in zip((x, y), self.frames, strict=True)
        )
        return replace(self, off_diagonal=off_diagonal.of_rows(u, v))

    def mean_squares(self) -> tuple[float, float]:
        """Return the mean squared distances of the rows of x and of y from their centers."""
        scalars = host(self.sums.scalars)
        return float(scalars[0, 3]) / self.n, float(scalars[0, 4]) / self.n

    def varies(self) -> tuple[bool, bool]:
        """Return whether the rows of x, and those of y, differ by more than rounding errors."""
        x_square, y_square = self.mean_squares()
        x_mean, y_mean = self._means()
        return varies(x_square, x_mean), varies(y_square, y_mean)

    def fits(self, limits: Range) -> bool:
        """Return whether the rows, as they are placed, are in a range, or all equal."""
        return self.row_map != "raw" or all(square == 0 or inside(square, limits) for square in self.mean_squares())

    def _fits(self, limits: Range, x: Array, y: Array) -> bool:
        """Return whether the sums of this batch keep the digits of its rows, x and y."""
        if not np.isfinite(host(self.sums.scalars)).all():
            return False
        return self.row_map != "raw" or self._misfit(limits, x, y) is None

    def _misfit(self, limits: Range, x: Array, y: Array) -> str | None:
        """Return the name of the side whose raw rows are beyond a range, or None."""
        sides = zip("xy", self.mean_squares(), self.varies(), (x, y), self.frames, strict=True)
        for side, square, differ, rows, frame in sides:
            offset = np.abs(frame.center).max()
            if not offset <= DOUBLE.most or (square > 0 and not inside(square, limits)):
                return side
            # Rows may be all equal, or so close or so small that their squares vanish.
            if not differ and (vary((rows,)) or 0 < offset < DOUBLE.least):
                return side
        return None

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

        The centers move to the mean when the rows turn out to be far from them, and the exponents to the larger ones.
        """
        exponents = self._common_exponents(other)
        mine, other = self.at(*exponents), other.at(*exponents)
        if mine is not self:
            self.x_center, self.y_center, self.sums = mine.x_center, mine.y_center, mine.sums
            self.x_exponent, self.y_exponent = exponents
            self.off_diagonal = mine.off_diagonal
        if not (np.array_equal(self.x_center, other.x_center) and np.array_equal(self.y_center, other.y_center)):
            other = other.about(self.x_center, self.y_center)
        if not _same_device(self.sums, other.sums):
            self.sums, other = self.on_host().sums, other.on_host()
        apart = self._pairs_apart_with(other)
        for total, part in zip(self.sums, other.sums, strict=True):
            total += part
        self.n += other.n
        self.off_diagonal = None if apart is None or _diagonal_share(self.sums) < DIAGONAL else apart
        if self.is_far():
            x_mean, y_mean = self._means()
            moved = self.about(self.x_center + x_mean, self.y_center + y_mean)
            self.x_center, self.y_center, self.sums = moved.x_center, moved.y_center, moved.sums
            self.off_diagonal = moved.off_diagonal

    def _pairs_apart_with(self, other: Moments) -> Array | None:
        """Return the sums over pairs of different rows of both states, if the sums over all pairs lose their digits."""
        kept = self.off_diagonal is not None or other.off_diagonal is not None
        if not kept and _share_of_both(self.sums, other.sums) <= APART:
            return None
        mine, theirs = self.on_host(), other.on_host()
        return off_diagonal.of_both(mine._pairs_apart(), mine.sums, theirs._pairs_apart(), theirs.sums)

    def _pairs_apart(self) -> Array:
        if self.off_diagonal is not None:
            return self.off_diagonal
        return np.zeros((2, 3)) if self.n == 1 else off_diagonal.of_sums(self.sums)

    def _means(self) -> tuple[Array, Array]:
        """Return the means of u and v, NumPy."""
        return host(self.sums.x_vectors)[0] / self.n, host(self.sums.y_vectors)[0] / self.n

    def copy(self) -> Moments:
        """Return an equal state that shares no array with this one."""
        sums = MomentSums(*(part.copy() if isinstance(part, np.ndarray) else part.clone() for part in self.sums))
        return replace(self, x_center=self.x_center.copy(), y_center=self.y_center.copy(), sums=sums)

    def on_host(self) -> Moments:
        """Return the same state with NumPy arrays."""
        return replace(self, sums=MomentSums(*map(host, self.sums)))

    @property
    def frames(self) -> tuple[Frame, Frame]:
        """How the rows of x and of y are placed."""
        return Frame(self.x_center, self.x_exponent), Frame(self.y_center, self.y_exponent)

    def at(self, x_exponent: int, y_exponent: int) -> Moments:
        """Return the moments of the same rows divided by other powers of two; this state where they are the same."""
        kx, ky = self.x_exponent - x_exponent, self.y_exponent - y_exponent
        if not (kx or ky):
            return self
        sums = self.on_host().sums
        powers = np.array([[0, 2 * kx, 2 * ky, 2 * kx, 2 * ky]], np.int32).T  # of the scalars 1, a, b, e and f
        shifts: tuple[Any, ...] = (powers + powers.T, powers + kx, powers + ky, 2 * kx, kx + ky, 2 * ky)
        moved = (np.ldexp(part, shift) for part, shift in zip(sums, shifts, strict=True))
        return Moments(
            self.row_map,
            self.n,
            np.ldexp(self.x_center, kx),
            np.ldexp(self.y_center, ky),
            MomentSums(*(like(part, self.sums.xx) for part in moved)),
            x_exponent,
            y_exponent,
            None
            if self.off_diagonal is None
            else np.ldexp(self.off_diagonal, np.array([4 * kx, 2 * kx + 2 * ky, 4 * ky], np.int32)),
        )

    def _common_exponents(self, other: Moments) -> tuple[int, int]:
        """Return the exponents for the rows of both states: the larger ones, since rows of zeros have any exponent."""
        if (self.x_exponent, self.y_exponent) == (other.x_exponent, other.y_exponent):
            return self.x_exponent, self.y_exponent
        sides = []
        for mine, theirs in zip(self._exponents_known(), other._exponents_known(), strict=True):
            known = [exponent for exponent in (mine, theirs) if exponent is not None]
            sides.append(max(known, default=0))
        return sides[0], sides[1]

    def _exponents_known(self) -> list[int | None]:
        """Return the exponent of each side, None for a side whose rows are all zeros."""
        return [
            frame.exponent if square > 0 or frame.center.any() else None
            for frame, square in zip(self.frames, self.mean_squares(), strict=True)
        ]

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
        here = MomentSums(*(like(part, self.sums.xx) for part in moved))
        apart = self.off_diagonal
        if apart is not None:
            apart = off_diagonal.moved(apart, sums, self.n, dx, dy)
        return replace(self, x_center=x_center.copy(), y_center=y_center.copy(), sums=here, off_diagonal=apart)

    def without(self, other: Moments) -> Moments:
        """Return the state without the rows of another, which are among its own."""
        other = other.at(self.x_exponent, self.y_exponent)
        if not (np.array_equal(self.x_center, other.x_center) and np.array_equal(self.y_center, other.y_center)):
            other = other.about(self.x_center, self.y_center)
        sums = MomentSums(*(whole - part for whole, part in zip(self.sums, other.sums, strict=True)))
        return replace(self, n=self.n - other.n, sums=sums, off_diagonal=None)


def center_of(ops: Operations, batch: Array, row_map: RowMap) -> Array:
    """Return the mean of (a sample of) the mapped rows, (d,) float64 NumPy, by which a state is shifted."""
    step = -(-len(batch) // CENTER_ROWS)
    sample = batch[::step]
    zero = np.zeros(batch.shape[1])
    vectors, offsets = ops.shifted_rows(sample, zero, row_map, "dot")
    if row_map != "raw" and not np.isfinite(host(offsets)).all():
        vectors, offsets = ops.shifted_rows(with_ordinary_rows(sample), zero, row_map, "dot")
    vectors, good = host(vectors), np.isfinite(host(offsets))
    if not good.any():
        return zero  # the moments report the bad row
    vectors = vectors if good.all() else vectors[good]
    with np.errstate(over="ignore", invalid="ignore"):
        if row_map == "raw":
            squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
            ordinary = squares <= LONG**2 * np.median(squares)
            vectors = vectors if ordinary.all() or not ordinary.any() else vectors[ordinary]
        return np.asarray(vectors.mean(axis=0, dtype=np.float64))


def _same_device(left: MomentSums, right: MomentSums) -> bool:
    return type(left.xx) is type(right.xx) and getattr(left.xx, "device", None) == getattr(right.xx, "device", None)


def _diagonal_share(sums: MomentSums) -> float:
    """Return the larger share, of x and y, of pairs of a row with itself in the sum of squared dot products."""
    scalars = host(sums.scalars)
    squares = (float(part.reshape(-1) @ part.reshape(-1)) for part in (sums.xx, sums.yy))
    return max(scalars[k, k] / square if square > 0 else 0.0 for k, square in zip((3, 4), squares, strict=True))


def _share_of_both(left: MomentSums, right: MomentSums) -> float:
    """Return what `_diagonal_share` is of the sums of both, or 0 where it is surely below `APART`."""
    shares, scalars = [0.0], host(left.scalars) + host(right.scalars)
    for k, one, other in ((3, left.xx, right.xx), (4, left.yy, right.yy)):
        if scalars[k, k] * len(one) < APART * scalars[0, k] ** 2:  # the square below is at least (sum e)^2 / d
            continue
        one, other = one.reshape(-1), other.reshape(-1)
        square = float(one @ one) + 2.0 * float(one @ other) + float(other @ other)
        shares.append(float(scalars[k, k]) / square if square > 0 else 0.0)
    return max(shares)


def _row_error(ops: Operations, x: Array, y: Array, row_map: RowMap, first_row: int) -> RowError:
    """Return the error that names the first row that a kernel found constant."""
    x_good, y_good = (
        np.isfinite(host(ops.shifted_rows(rows, np.zeros(rows.shape[1]), row_map, "dot").offsets)) for rows in (x, y)
    )
    side, good = ("y", y_good) if x_good.all() else ("x", x_good)
    return RowError(side, first_row + int(np.argmin(good)), CONSTANT_ROW)
