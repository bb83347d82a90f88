"""`PairMoments`: the public accumulator, which turns batches of rows of two spaces into every moment measure."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bertft import kernels
from bertft.arrays import RowSource, as_double, check_pair, of_one_type
from bertft.errors import ArrayError, OptionError
from bertft.kernels.types import Array, RowMap
from bertft.measures import MEASURES, Measure
from bertft.measures.rsa import COMPARISONS
from bertft.similarity.plan import BATCH_ROWS
from bertft.similarity.states import ROW_MAPS, Content, read_state, write_state
from bertft.statistics.forms import BILINEAR
from bertft.statistics.moments import CENTER_ROWS, Frame, Moments, center_of
from bertft.statistics.pair_sums import sums_of_moments
from bertft.statistics.reservoir import Reservoir, Sample

Products = Literal["auto", "float64"]

SAMPLE_ROWS = 4096
"""Rows kept for standard errors. With 200 sentences or more, short or long, the standard error is then known to about
10 %. In two spaces 768 wide the rows take 24 MiB, up to 36 MiB before parts are joined, and 0.3 s on one core."""

SAMPLE_GROUPS = 400
"""With this many groups (sentences) of similar length, the standard error is known to about 5 %."""

_NO_LIMIT = 2**62

_changes = threading.RLock()
"""Held while an accumulator is changed, or what it holds is picked out. That is short: the products are made outside.
One lock serves all accumulators, so that a fork can wait for it: a child never sees a change that is half made."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_changes.acquire, after_in_parent=_changes.release, after_in_child=_changes.release)


class PairMoments:
    """Accumulate the second moments of two representations of the same rows, from which the measures are computed.

    The answer is exact, takes one pass and O(d^2) memory, and two accumulators can be merged. Any split of the rows
    into updates and any tree of merges gives the one-pass answer up to rounding. An empty accumulator changes nothing
    when it is merged. The arrays given to `update` are neither changed nor kept. Several threads may update one
    accumulator, and measure and merge it meanwhile.

    maps: the row maps to accumulate, each in a state of its own. "unit" is for RSA with the cosine kernel,
        "centred_unit" for RSA with the correlation kernel, and "raw" for RSA with the dot and squared Euclidean
        kernels, CKA, CCA, SVCCA, PWCCA and Procrustes.
    products: the type of the matrix products. "auto" multiplies in the type of the rows (float32 for half precisions)
        and adds batches in float64; "float64" also multiplies in float64, which the inverses in CCA need.
    reservoir: the most rows to keep for standard errors; 0 keeps none. All rows are kept while they fit. Beyond that
        the longest groups are thinned first, and then whole groups are dropped.
    seed: decides which groups are kept.
    backend: "auto", "cpu", "gpu" or "reference", see `bertft.kernels`.
    rows: keep all rows in main memory, n (d1 + d2) numbers, which `mutual_knn` needs. The order of rows then decides
        among equal neighbours, and `state` is refused.

    Raises `OptionError` for an unknown row map, type of products or backend, and for a negative reservoir.

    >>> import numpy as np
    >>> from bertft import PairMoments
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 32)); y = x + rng.standard_normal((1000, 32))
    >>> left, right = PairMoments(), PairMoments()
    >>> for rows in np.array_split(np.arange(1000), 7):
    ...     _ = (left if rows[0] < 500 else right).update(x[rows], y[rows])
    >>> round(left.merge(right).rsa(), 3)
    0.494

    Source: RSA as in Merchant et al. 2020, section 5.1, with the Pearson correlation of the two Gram matrices written
    out in moments; merging shifted moments as in Chan, Golub and LeVeque 1983.
    """

    def __init__(
        self,
        maps: Iterable[RowMap] = ("unit",),
        *,
        products: Products = "auto",
        reservoir: int = SAMPLE_ROWS,
        seed: int = 0,
        backend: str = "auto",
        rows: bool = False,
    ) -> None:
        self.maps: tuple[RowMap, ...] = (maps,) if isinstance(maps, str) else tuple(maps)  # type: ignore[assignment]
        if not self.maps:
            raise OptionError(f"no row map was named; expected some of {', '.join(ROW_MAPS)}")
        for name in self.maps:
            if name not in ROW_MAPS:
                raise OptionError(f"unknown row map {name!r}; expected one of {', '.join(ROW_MAPS)}")
        self.maps = tuple(dict.fromkeys(self.maps))
        if products not in ("auto", "float64"):
            raise OptionError(f"unknown products {products!r}; expected 'auto' or 'float64'")
        if not isinstance(reservoir, int) or reservoir < 0:
            raise OptionError(f"reservoir is {reservoir!r}; expected a number of rows, 0 for none")
        if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise OptionError(f"seed is {seed!r}; expected a whole number of at most 63 bits")
        self.products, self.backend = products, kernels.backend_named(backend)
        self._states: dict[RowMap, Moments] = {}
        self._lent: set[RowMap] = set()  # states whose arrays are read elsewhere, and copied before they change
        self._frames: dict[RowMap, tuple[Frame, Frame]] = {}
        self._reservoir = Reservoir(reservoir, seed)
        self._rows = Reservoir(_NO_LIMIT if rows else 0, seed)
        self._n = self._checksum = 0

    @classmethod
    def serving(cls, measures: Iterable[Measure], **options: Any) -> PairMoments:
        """Return an empty accumulator of what the measures need and no more; `options` are those of the class."""
        wanted = tuple(measures)
        products: Products = "float64" if any(m.products == "float64" for m in wanted) else "auto"
        maps = dict.fromkeys(row_map for measure in wanted for row_map in measure.maps)
        return cls(maps, products=products, rows=any(m.of is None for m in wanted), **options)

    @property
    def n(self) -> int:
        """The number of rows seen."""
        return self._n

    @property
    def sample(self) -> Sample | None:
        """The rows kept for standard errors, or None; see `bertft.statistics.reservoir`."""
        with _changes:
            return self._reservoir.sample()

    @property
    def sampled_groups(self) -> int:
        """The number of groups (sentences) among the rows kept for standard errors."""
        sample = self.sample
        return 0 if sample is None else len(np.unique(sample.groups))

    def moments(self, row_map: RowMap) -> Moments:
        """Return the state under one row map, with NumPy arrays. Raises `OptionError` if it was not accumulated."""
        return self.snapshot(row_map)[0]

    def snapshot(self, row_map: RowMap) -> tuple[Moments, Sample | None]:
        """Return the state under one row map and the sample of the same rows; `moments` says what is raised."""
        with _changes:
            found, n, sample = self._lend(row_map).get(row_map), self._n, self._reservoir.sample()
        if row_map not in self.maps:
            raise OptionError(
                f"this needs the row map {row_map!r}; create PairMoments(maps=({row_map!r}, …)) to accumulate it"
            )
        if n < 3 or found is None:
            raise ArrayError(f"{n} rows were seen; at least 3 are needed to compare pairs of rows")
        return found.on_host(), sample

    def rows(self) -> Sample:
        """Return all rows. Raises `OptionError` if they were not kept, and `ArrayError` for fewer than 3."""
        with _changes:
            kept, n = self._rows.sample(), self._n
        if not self._rows.limit:
            raise OptionError("this needs all rows; create PairMoments(rows=True) to keep them")
        if n < 3 or kept is None:
            raise ArrayError(f"{n} rows were seen; at least 3 are needed to compare pairs of rows")
        return kept

    def update(self, x: Any, y: Any, groups: Any = None, *, first_row: int | None = None) -> PairMoments:
        """Add rows and return self.

        x is (rows, d1) and y (rows, d2), on one device. groups (rows,) holds whole numbers, the sentence of each row;
        without it every row is a group of its own. Errors count rows from first_row, by default from the rows seen.

        Raises `ArrayError` for widths other than before, for rows that do not match, and for a row without a value
        (not finite, or zero under a unit map), which it names. After an error nothing was added.
        """
        update_together((self,), x, (y,), groups, first_row=first_row)
        return self

    @kernels.one_blas_thread()
    def accumulate(self, x: RowSource, y: RowSource, groups: Array | None = None) -> PairMoments:
        """Add all rows of two checked sources, batch by batch, about centers taken from all over them; return self.

        groups (n,) is int64, as `group_keys` returns it. Raises `ArrayError` naming a row without a value.
        """
        ops = kernels.select(x.device, self.backend)
        samples = [rows.spread(CENTER_ROWS, ops.arrays) for rows in (x, y)]
        self._frames = {
            m: (Frame(center_of(ops, samples[0], m)), Frame(center_of(ops, samples[1], m))) for m in self.maps
        }
        for low in range(0, len(x), BATCH_ROWS):
            high = min(low + BATCH_ROWS, len(x))
            x_batch, y_batch = (rows.batch(low, high, arrays=ops.arrays) for rows in (x, y))
            keys = None if groups is None else groups[low:high]
            _add_batch((self,), ops, x_batch, (y_batch,), keys, self._n)
            x.release()
            y.release()
        return self

    def merge(self, other: PairMoments) -> PairMoments:
        """Return a new accumulator of the rows of both.

        Raises `OptionError` for accumulators of different options and `ArrayError` for other widths.
        """
        if self._options() != other._options():
            raise OptionError(f"cannot merge states of different options, {self._options()} and {other._options()}")
        with _changes:
            (mine, theirs), n = (self._lend(*self.maps), other._lend(*self.maps)), (self._n, other._n)
            reservoir, rows = self._reservoir.merge(other._reservoir), self._rows.merge(other._rows)
        merged = PairMoments(self.maps, products=self.products, reservoir=0, backend=self.backend)
        merged._frames = self._frames or other._frames
        merged._n, merged._reservoir, merged._rows = sum(n), reservoir, rows
        merged._checksum = self._checksum if n[0] else other._checksum
        for row_map in self.maps:
            parts = [part[row_map] for part in (mine, theirs) if row_map in part]
            if len(parts) == 2:
                _check_widths(parts[0], len(parts[1].x_center), len(parts[1].y_center))
            for part in parts:
                if row_map in merged._states:
                    merged._states[row_map].add(part)
                else:
                    merged._states[row_map] = part.copy()
        return merged

    def state(self) -> dict[str, Array]:
        """Return everything as a flat dict of NumPy arrays, for `safetensors.numpy.save_file` or `numpy.savez`.

        Raises `OptionError` where all rows are kept, which no state holds.
        """
        if self._rows.limit:
            raise OptionError("all rows are kept, and no state holds them; create PairMoments without rows=True")
        with _changes:
            kept = self._reservoir.copy()
            content = Content(self._n, self._checksum, self.maps, self.products, self._lend(*self.maps), kept)
        return write_state(content)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, backend: str = "auto") -> PairMoments:
        """Return the accumulator that `state()` described.

        Raises `ArrayError` if these are not its arrays: of another format, damaged, or changed, which a checksum finds.
        """
        found = read_state(state)
        self = cls(found.maps, products=found.products, reservoir=0, backend=backend)  # type: ignore[arg-type]
        self._n, self._checksum = found.n, found.first
        self._states, self._reservoir = dict(found.moments), found.reservoir
        return self

    # ------------------------------------------------------------------------------------------------------ measures

    def rsa(self, kernel: str = "cosine", method: str = "pearson") -> float:
        """Return RSA, see `bertft.rsa`: kernels cosine, correlation, dot, sqeuclidean; methods pearson, cosine."""
        if kernel not in BILINEAR:
            raise OptionError(f"moments give kernels {', '.join(BILINEAR)}, not {kernel!r}; for others use bertft.rsa")
        if method not in COMPARISONS:
            raise OptionError(
                f"moments give methods {', '.join(COMPARISONS)}, not {method!r}; for others use bertft.rsa"
            )
        row_map, form = BILINEAR[kernel]
        moments = self.moments(row_map)
        with kernels.one_blas_thread():
            return COMPARISONS[method](sums_of_moments(moments, form))

    def cka(self, *, debiased: bool = True) -> float:
        """Return linear CKA, see `bertft.cka`."""
        return MEASURES["cka" if debiased else "cka-biased"].value(self)

    def cca(self) -> float:
        """Return the mean canonical correlation, see `bertft.cca`."""
        return MEASURES["cca"].value(self)

    def svcca(self) -> float:
        """Return the mean canonical correlation of the leading principal components, see `bertft.svcca`."""
        return MEASURES["svcca"].value(self)

    def pwcca(self) -> float:
        """Return the projection-weighted canonical correlation, see `bertft.pwcca`."""
        return MEASURES["pwcca"].value(self)

    def procrustes(self) -> float:
        """Return Procrustes similarity, see `bertft.procrustes`."""
        return MEASURES["procrustes"].value(self)

    def mutual_knn(self) -> float:
        """Return the share of the 10 nearest neighbours that both spaces have in common, see `bertft.mutual_knn`."""
        return MEASURES["mutual-knn"].value(self)

    # ------------------------------------------------------------------------------------------------------- details

    def _options(self) -> dict[str, Any]:
        """Return what two accumulators must share to be merged."""
        kept = self._reservoir
        given = {"maps": sorted(self.maps), "products": self.products, "reservoir": kept.limit, "seed": kept.seed}
        return given | {"rows": bool(self._rows.limit)}

    def _lend(self, *maps: RowMap) -> dict[RowMap, Moments]:
        """Return states for reading, while `_changes` is held: later changes go to copies."""
        self._lent.update(maps)
        return {row_map: self._states[row_map] for row_map in maps if row_map in self._states}

    def _frames_of(self, row_map: RowMap, x: Array, y: Array) -> tuple[tuple[Frame, Frame] | None, bool]:
        """Return the frames for rows of x and y under a row map, if there are any, and whether others came before."""
        with _changes:
            state = self._states.get(row_map)
            if state is None:
                return self._frames.get(row_map), False
            _check_widths(state, x.shape[1], y.shape[1])
            return state.frames, True

    def _add(self, batches: Mapping[RowMap, Moments], x: Array, y: Array, keys: Array | None, *, shared: bool) -> None:
        """Add the moments of a batch of rows, which others read if `shared`, and sample its rows."""
        n = len(x)
        if not self._n:
            self._checksum = zlib.crc32(_rows(x, np.arange(1)).tobytes())
        for row_map, batch in batches.items():
            state = self._states.get(row_map)
            if state is None:
                state = batch.copy() if shared else batch
            else:
                if row_map in self._lent:
                    state = state.copy()
                state.add(batch)
            self._states[row_map] = state
            self._lent.discard(row_map)
        if keys is None:
            # Every row is its own group, here and in states this one is merged with: a checksum tells those apart.
            keys = np.arange(self._n, self._n + n) + (self._checksum << 31)
        chosen = self._reservoir.offer(keys)
        if len(chosen):
            self._reservoir.add(keys[chosen], _rows(x, chosen), _rows(y, chosen))
        if self._rows.limit:
            self._rows.add(keys, _rows(x, np.arange(n)), _rows(y, np.arange(n)))
        self._n += n


def _check_widths(state: Moments, d1: int, d2: int) -> None:
    if (len(state.x_center), len(state.y_center)) != (d1, d2):
        raise ArrayError(
            f"x and y have widths {d1} and {d2}, the rows before had {len(state.x_center)} and "
            f"{len(state.y_center)}; one accumulator takes one pair of spaces"
        )


@kernels.one_blas_thread()
def update_together(
    states: Sequence[PairMoments], x: Any, ys: Sequence[Any], groups: Any = None, *, first_row: int | None = None
) -> None:
    """Add the same rows of x, each time with another y, to several accumulators.

    The result is that of `states[i].update(x, ys[i], groups)` for each i, up to rounding. What depends on x alone is
    computed once: its checks, its row map and its product with itself. The accumulators must have the same backend,
    and their row maps and types of products may differ.

    Raises what `PairMoments.update` raises; after an error nothing was added to any accumulator.
    """
    if len({state.backend for state in states}) > 1:
        raise OptionError("the accumulators have different backends; create them with the same backend")
    x_rows = RowSource(x, "x")
    y_rows = [RowSource(y, "y") for y in ys]
    for rows in y_rows:
        check_pair(x_rows, rows, least=0)
    n = len(x_rows)
    if not n or not states:
        return
    ops = kernels.select(x_rows.device, states[0].backend)
    batches = [rows.batch(0, n, arrays=ops.arrays) for rows in (x_rows, *y_rows)]
    keys = None if groups is None else group_keys(groups, n)
    _add_batch(states, ops, batches[0], batches[1:], keys, states[0].n if first_row is None else first_row)


def _add_batch(
    states: Sequence[PairMoments],
    ops: kernels.Operations,
    x: Array,
    ys: Sequence[Array],
    keys: Array | None,
    first_row: int,
) -> None:
    """Add a checked batch of x with each y to its accumulator: all of them, or none if a row has no value."""
    added: list[dict[RowMap, Moments]] = [{} for _ in states]
    typed = {"auto": of_one_type(x, *ys)}
    if any(state.products == "float64" for state in states):
        typed["float64"] = tuple(map(as_double, (x, *ys)))
    for row_map, products in dict.fromkeys((row_map, state.products) for state in states for row_map in state.maps):
        sharing = [i for i, state in enumerate(states) if state.products == products and row_map in state.maps]
        x_typed, *ys_typed = typed[products]
        some, some_ys = [states[i] for i in sharing], [ys_typed[i] for i in sharing]
        for i, batch in zip(sharing, _moments(some, ops, x_typed, some_ys, row_map, first_row), strict=True):
            added[i][row_map] = batch
    with _changes:
        for i, state in enumerate(states):  # again: another thread may have added the first rows meanwhile
            for row_map in added[i]:
                state._frames_of(row_map, x, ys[i])
        for i, state in enumerate(states):
            x_typed, *ys_typed = typed["float64"] if state.products == "float64" else (x, *ys)
            state._add(added[i], x_typed, ys_typed[i], keys, shared=len(states) > 1)


def _moments(
    states: Sequence[PairMoments],
    ops: kernels.Operations,
    x: Array,
    ys: Sequence[Array],
    row_map: RowMap,
    first_row: int,
) -> list[Moments]:
    """Return the moments of a batch of x with each y, in frames near its rows and one frame of x for all."""
    held = [state._frames_of(row_map, x, y) for state, y in zip(states, ys, strict=True)]
    x_frame = next((frames[0] for frames, _ in held if frames is not None), None)
    y_frames = [None if frames is None else frames[1] for frames, _ in held]
    batches = Moments.of_batches(ops, x, ys, row_map, x_frame, y_frames, first_row)
    if any(rows_before for _, rows_before in held):
        far = [i for i, batch in enumerate(batches) if batch.is_far()]
        if far:
            again = Moments.of_batches(ops, x, [ys[i] for i in far], row_map, None, [None] * len(far), first_row)
            for i, batch in zip(far, again, strict=True):
                batches[i] = batch
    return batches


def sample_rows(rows: int, groups: int) -> int:
    """Return how many rows to keep for standard errors: those of `SAMPLE_GROUPS` groups, at most `SAMPLE_ROWS`.

    >>> sample_rows(5000, 1000), sample_rows(5000, 200), sample_rows(900, 30)
    (2000, 4096, 4096)
    """
    return min(SAMPLE_ROWS, -(-SAMPLE_GROUPS * rows // max(groups, 1)))


def group_keys(groups: Any, n: int) -> Array:
    """Return the groups of n rows as int64. Raises `ArrayError` unless they are one whole number for each row."""
    keys = np.asarray(groups.cpu() if hasattr(groups, "cpu") else groups)
    if keys.shape != (n,) or keys.dtype.kind not in "iu":
        raise ArrayError(
            f"groups has shape {keys.shape} and type {keys.dtype}; expected one whole number a row, ({n},)"
        )
    return keys.astype(np.int64)


def _rows(batch: Array, chosen: Array) -> Array:
    if isinstance(batch, np.ndarray):
        return batch[chosen]
    picked = batch[chosen.tolist()]
    return (picked.float() if picked.dtype.itemsize == 2 else picked).cpu().numpy()
