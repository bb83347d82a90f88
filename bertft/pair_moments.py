"""`PairMoments`: the public accumulator. Rows of two spaces go in, batch by batch; every moment measure comes out."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from bertft import kernels
from bertft.arrays import RowSource, as_double, check_pair, host
from bertft.errors import ArrayError, OptionError
from bertft.kernels.types import Array, MomentSums, RowMap
from bertft.measures import MEASURES, Measure
from bertft.measures.rsa import BILINEAR, COMPARISONS
from bertft.statistics.moments import CENTER_ROWS, Moments, center_of
from bertft.statistics.pair_sums import sums_of_moments
from bertft.statistics.reservoir import Reservoir, Sample

Products = Literal["auto", "float64"]

ROW_MAPS: tuple[RowMap, ...] = ("unit", "centred_unit", "raw")

SAMPLE_ROWS = 4096
"""Rows kept for standard errors: of 200 sentences or more, whatever their length, they tell the error to about 10 %.
In two spaces 768 wide these are 24 MiB, half as much again before they are joined, and half a second of one core."""

SAMPLE_GROUPS = 400
"""Groups (sentences) that tell the error to about 5 %, where a few of them do not outweigh all others."""

_FORMAT = "bertft.PairMoments/2"


class PairMoments:
    """Second moments of two representations of the same rows: exact, one pass, O(d^2) memory, mergeable.

    maps: the row maps to accumulate, each its own state: "unit" serves RSA with the cosine kernel, "centred_unit" RSA
    with
        the correlation kernel, "raw" RSA with the dot and squared Euclidean kernels, CKA, CCA, SVCCA, PWCCA and
        Procrustes.
    products: "auto" multiplies in the type of the rows (float32 for half precisions) and adds in float64; "float64"
    multiplies
        in float64 too, which CCA's inverses want.
    reservoir: most rows kept for standard errors (0: none). Beyond it long groups are thinned, then groups dropped.
    seed: decides which groups are kept.  backend: see `bertft.kernels`.

    Laws: any split of the rows into updates and any tree of merges gives the one-pass answer up to rounding; an empty
    state is the identity of `merge`; what is given to `update` is neither changed nor kept.

    >>> import numpy as np
    >>> from bertft import PairMoments
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 32)); y = x + rng.standard_normal((1000, 32))
    >>> left, right = PairMoments(), PairMoments()
    >>> for rows in np.array_split(np.arange(1000), 7):
    ...     _ = (left if rows[0] < 500 else right).update(x[rows], y[rows])
    >>> round(left.merge(right).rsa(), 3)
    0.494

    Source: the moment form of RSA (Merchant et al. 2020, section 5.1, with the cosine kernel) follows from writing
    out the Pearson correlation of two Gram matrices; merging shifted moments is Chan, Golub and LeVeque 1983.
    """

    def __init__(
        self,
        maps: Iterable[RowMap] = ("unit",),
        *,
        products: Products = "auto",
        reservoir: int = SAMPLE_ROWS,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        self.maps: tuple[RowMap, ...] = (maps,) if isinstance(maps, str) else tuple(maps)  # type: ignore[assignment]
        if not self.maps:
            raise OptionError(f"no row map was named; expected some of {', '.join(ROW_MAPS)}")
        for name in self.maps:
            if name not in ROW_MAPS:
                raise OptionError(f"unknown row map {name!r}; expected one of {', '.join(ROW_MAPS)}")
        if products not in ("auto", "float64"):
            raise OptionError(f"unknown products {products!r}; expected 'auto' or 'float64'")
        if not isinstance(reservoir, int) or reservoir < 0:
            raise OptionError(f"reservoir is {reservoir!r}; expected a number of rows, 0 for none")
        if backend not in ("auto", *kernels.BACKENDS):
            raise OptionError(f"unknown backend {backend!r}; expected one of auto, {', '.join(kernels.BACKENDS)}")
        self.products, self.backend = products, backend
        self._states: dict[RowMap, Moments] = {}
        self._centers: dict[RowMap, tuple[Array, Array]] = {}
        self._reservoir = Reservoir(reservoir, seed)
        self._n = self._checksum = 0

    @classmethod
    def serving(cls, measures: Iterable[Measure], **options: Any) -> PairMoments:
        """An empty state of what the measures need and no more; `options` are those of the class."""
        wanted = tuple(measures)
        products: Products = "float64" if any(m.products == "float64" for m in wanted) else "auto"
        maps = dict.fromkeys(row_map for measure in wanted for row_map in measure.maps)
        return cls(maps, products=products, **options)

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._n

    @property
    def sample(self) -> Sample | None:
        """The rows kept for standard errors, or None: all while they fit, see `bertft.statistics.reservoir`."""
        return self._reservoir.sample()

    @property
    def sampled_groups(self) -> int:
        """How many groups (sentences) the rows kept for standard errors are of."""
        sample = self.sample
        return 0 if sample is None else len(np.unique(sample.groups))

    def moments(self, row_map: RowMap) -> Moments:
        """The state under one row map, with NumPy arrays. Raises `OptionError` if it was not accumulated."""
        if row_map not in self.maps:
            raise OptionError(
                f"this needs the row map {row_map!r}; create PairMoments(maps=({row_map!r}, …)) to accumulate it"
            )
        if self._n < 3:
            raise ArrayError(f"{self._n} rows were seen; at least 3 are needed to compare pairs of rows")
        return self._states[row_map].on_host()

    @kernels.one_blas_thread()
    def update(self, x: Any, y: Any, groups: Any = None, *, first_row: int | None = None) -> PairMoments:
        """Adds rows: x (rows, d1), y (rows, d2) on one device, groups (rows,) whole numbers, the sentence of each row.

        Without groups every row is its own. Returns self. Raises `ArrayError` for other widths than before, for rows
        that do not match, and for a row without a value (not finite; zero under a unit map), named; then nothing was
        added.
        """
        x_rows, y_rows = RowSource(x, "x"), RowSource(y, "y")
        check_pair(x_rows, y_rows, least=0)
        n = len(x_rows)
        if not n:
            return self
        ops = kernels.select(x_rows.device, self.backend)
        x_batch, y_batch = (self._typed(rows.batch(0, n, arrays=ops.arrays)) for rows in (x_rows, y_rows))
        if not self._n:
            self._checksum = zlib.crc32(_rows(x_batch, np.arange(1)).tobytes())
        keys = self._group_keys(groups, n)
        new = {m: self._batch(ops, x_batch, y_batch, m, self._n if first_row is None else first_row) for m in self.maps}
        for row_map, batch in new.items():
            if row_map in self._states:
                self._states[row_map].add(batch)
            else:
                self._states[row_map] = batch
        chosen = self._reservoir.offer(keys)
        if len(chosen):
            self._reservoir.add(keys[chosen], _rows(x_batch, chosen), _rows(y_batch, chosen))
        self._n += n
        return self

    def merge(self, other: PairMoments) -> PairMoments:
        """A new state of the rows of both. Raises `OptionError` or `ArrayError` if the two cannot be added."""
        if self._options() != other._options():
            raise OptionError(f"cannot merge states of different options, {self._options()} and {other._options()}")
        merged = PairMoments(self.maps, products=self.products, reservoir=0, backend=self.backend)
        merged._centers = self._centers or other._centers
        merged._n = self._n + other._n
        for row_map in self.maps:
            parts = [part._states[row_map] for part in (self, other) if row_map in part._states]
            if len(parts) == 2:
                self._check_widths(parts[0], len(parts[1].x_center), len(parts[1].y_center))
            for part in parts:
                if row_map in merged._states:
                    merged._states[row_map].add(part)
                else:
                    merged._states[row_map] = part.copy()
        merged._reservoir = self._reservoir.merge(other._reservoir)
        return merged

    def state(self) -> dict[str, Array]:
        """Everything as a flat dict of NumPy arrays, for `safetensors.numpy.save_file` or `numpy.savez`."""
        options = {"format": _FORMAT, "n": self._n, **self._options()}
        flat = {"options": np.frombuffer(json.dumps(options).encode(), dtype=np.uint8).copy()}
        for row_map, moments in self._states.items():
            host = moments.on_host().copy()
            flat |= {f"{row_map}.x_center": host.x_center, f"{row_map}.y_center": host.y_center}
            flat |= {f"{row_map}.{name}": part for name, part in host.sums._asdict().items()}
        sample = self._reservoir.sample()
        flat["sample.bound"] = np.array([self._reservoir.bound])
        if sample is not None:
            flat |= {f"sample.{name}": rows.copy() for name, rows in sample._asdict().items()}
        return flat

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, backend: str = "auto") -> PairMoments:
        """The accumulator that `state()` described. Raises `ArrayError` if these are not its arrays."""
        try:
            flat = {name: np.array(host(array)) for name, array in state.items()}
            options = json.loads(flat["options"].tobytes())
            if options.pop("format") != _FORMAT:
                raise ArrayError(f"this state is not of format {_FORMAT!r}; pass what state() of this version returned")
            n = options.pop("n")
            self = cls(**options, backend=backend)
            self._n = n
            for row_map in self.maps if n else ():
                sums = MomentSums(*(flat[f"{row_map}.{name}"] for name in MomentSums._fields))
                centers = flat[f"{row_map}.x_center"], flat[f"{row_map}.y_center"]
                self._states[row_map] = Moments(row_map, n, *centers, sums)
                self._states[row_map].check()
            parts = (Sample(*(flat[f"sample.{name}"] for name in Sample._fields)),) if "sample.x" in flat else ()
            if len({len(rows) for part in parts for rows in part}) > 1:
                raise ArrayError("the arrays of the sample have different lengths; this state was changed")
            self._reservoir = Reservoir(self._reservoir.limit, self._reservoir.seed, flat["sample.bound"][0], parts)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ArrayError(f"these arrays are no PairMoments state ({error!r}); pass what state() returned") from None
        return self

    # ------------------------------------------------------------------------------------------------------ measures

    def rsa(self, kernel: str = "cosine", method: str = "pearson") -> float:
        """RSA, see `bertft.rsa`; kernels cosine, correlation, dot and sqeuclidean, methods pearson and cosine."""
        if kernel not in BILINEAR:
            raise OptionError(f"moments give kernels {', '.join(BILINEAR)}, not {kernel!r}; for others use bertft.rsa")
        if method not in COMPARISONS:
            raise OptionError(
                f"moments give methods {', '.join(COMPARISONS)}, not {method!r}; for others use bertft.rsa"
            )
        row_map, form = BILINEAR[kernel]
        return COMPARISONS[method](sums_of_moments(self.moments(row_map), form))

    def cka(self, *, debiased: bool = True) -> float:
        """Linear CKA, see `bertft.cka`."""
        return MEASURES["cka" if debiased else "cka-biased"].value(self)

    def cca(self) -> float:
        """Mean canonical correlation, see `bertft.cca`."""
        return MEASURES["cca"].value(self)

    def svcca(self) -> float:
        """Mean canonical correlation of the leading principal components, see `bertft.svcca`."""
        return MEASURES["svcca"].value(self)

    def pwcca(self) -> float:
        """Projection-weighted canonical correlation, see `bertft.pwcca`."""
        return MEASURES["pwcca"].value(self)

    def procrustes(self) -> float:
        """Procrustes similarity, see `bertft.procrustes`."""
        return MEASURES["procrustes"].value(self)

    # ------------------------------------------------------------------------------------------------------- details

    def center_on(self, x: RowSource, y: RowSource) -> None:
        """Takes the centers from a sample of all rows to come, where a caller holds them."""
        ops = kernels.select(x.device, self.backend)
        samples = [rows.spread(CENTER_ROWS, ops.arrays) for rows in (x, y)]
        self._centers = {m: (center_of(ops, samples[0], m), center_of(ops, samples[1], m)) for m in self.maps}

    def _batch(self, ops: kernels.Operations, x: Array, y: Array, row_map: RowMap, first_row: int) -> Moments:
        state = self._states.get(row_map)
        if state is None:
            return Moments.of_batch(ops, x, y, row_map, self._centers.get(row_map), first_row)
        self._check_widths(state, x.shape[1], y.shape[1])
        batch = Moments.of_batch(ops, x, y, row_map, (state.x_center, state.y_center), first_row)
        return Moments.of_batch(ops, x, y, row_map, None, first_row) if batch.is_far() else batch

    def _options(self) -> dict[str, Any]:
        """What two states must share to be added."""
        kept = self._reservoir
        return {"maps": sorted(self.maps), "products": self.products, "reservoir": kept.limit, "seed": kept.seed}

    def _typed(self, batch: Array) -> Array:
        return batch if self.products == "auto" else as_double(batch)

    def _check_widths(self, state: Moments, d1: int, d2: int) -> None:
        if (len(state.x_center), len(state.y_center)) != (d1, d2):
            raise ArrayError(
                f"x and y have widths {d1} and {d2}, the rows before had {len(state.x_center)} and "
                f"{len(state.y_center)}; one accumulator takes one pair of spaces"
            )

    def _group_keys(self, groups: Any, n: int) -> Array:
        if groups is None:
            # Every row is its own group, here and in states this one is merged with: a checksum tells those apart.
            return np.arange(self._n, self._n + n) + (self._checksum << 31)
        return group_keys(groups, n)


def sample_rows(rows: int, groups: int) -> int:
    """How many rows to keep of so many, in so many groups: those of about `SAMPLE_GROUPS` groups, if not too many.

    >>> sample_rows(5000, 1000), sample_rows(5000, 200), sample_rows(900, 30)
    (2000, 4096, 4096)
    """
    return min(SAMPLE_ROWS, -(-SAMPLE_GROUPS * rows // max(groups, 1)))


def group_keys(groups: Any, n: int) -> Array:
    """The groups of n rows as int64. Raises `ArrayError` unless they are one whole number a row."""
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
