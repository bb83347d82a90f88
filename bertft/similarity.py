"""Similarity of two arrays of rows, one call each: `rsa`, `cka` and its kin, `compare` for several, `explain`.

x is (n, d1) and y is (n, d2), row i of both describing the same item.  NumPy arrays and memory maps, torch tensors
(CPU and CUDA), CuPy arrays and anything with DLPack serve, in float16, bfloat16, float32 or float64; the widths may
differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from bertft import kernels
from bertft.arrays import RowSource, check_pair
from bertft.errors import OptionError
from bertft.measures import Estimate, evaluate, resolve
from bertft.measures.rsa import BILINEAR
from bertft.pair_moments import PairMoments, Products, group_keys
from bertft.statistics import ranks, tiles
from bertft.statistics.pair_sums import cosine, pearson

SINGLE = {"float16", "bfloat16", "float32"}
"""Types of rows whose products may run in float32."""

METHODS = ("pearson", "cosine", "spearman")

BATCH_ROWS = 8192
"""Rows read at a time: a batch of two spaces 768 wide is 48 MiB in float32, and long enough for BLAS at full speed."""

CHEAP_FLOPS = 4e9
"""Work up to which products run in float64 whatever the rows: it costs milliseconds, and few rows average little."""

COMPARE_ROWS = 8192
"""Rows `compare` keeps for standard errors."""


@dataclass(frozen=True)
class Plan:
    """How `rsa` will compute: `print` it, or read its fields. flops and bytes are predictions, not measurements."""

    path: Literal["moments", "tiles", "ranks", "binned ranks"]
    backend: str
    n: int
    widths: tuple[int, int]
    kernel: str
    method: str
    products: str
    flops: float
    bytes: float
    why: str
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"rsa of {self.n:,} rows, {self.widths[0]} and {self.widths[1]} wide, "
            f"kernel {self.kernel!r}, method {self.method!r}",
            f"  path      {self.path}: {self.why}",
            f"  backend   {self.backend}, products in {self.products}",
            f"  predicted {self.flops / 1e9:,.1f} GFLOP, {self.bytes / 2**20:,.0f} MiB beyond the arrays",
        ]
        lines += [f"  not {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


@kernels.one_blas_thread()
def rsa(
    x: Any,
    y: Any,
    *,
    kernel: str = "cosine",
    method: str = "pearson",
    backend: str = "auto",
    gamma: float | None = None,
) -> float:
    """Representational similarity: the correlation of the strict upper triangles of two n x n kernel matrices.

    kernel: "cosine", "correlation" (of rows), "dot" and "rbf" (exp(-gamma |a - b|^2), gamma by default one over the
    space's mean
        squared distance) are similarities, "sqeuclidean" and "euclidean" distances.
    method: "pearson", "cosine" (nothing subtracted) or "spearman" (average ranks; up to 20 million pairs exact,
    beyond with
        an error below 1e-6 where values do not tie, see `bertft.statistics.ranks`).
    backend: "auto", or one of "numba", "triton", "reference"; see `bertft.explain`.

    No n x n matrix is stored, but for the pairs that exact ranks need (at most 20 million) and by the reference.
    Raises `ArrayError` for shapes, types, fewer than 3 rows, and rows without a value (not finite; zero under the
    cosine), named; `OptionError` for unknown names.  A constant triangle gives nan with an `UndefinedWarning`.

    >>> import numpy as np
    >>> from bertft import rsa
    >>> rng = np.random.default_rng(0)
    >>> base = rng.standard_normal((500, 64)); tuned = base + 0.5 * rng.standard_normal((500, 64))
    >>> round(rsa(base, tuned), 3)
    0.796

    Source: Kriegeskorte et al. 2008; as in Merchant et al. 2020, section 5.1.
    """
    x_rows, y_rows = _sources(x, y)
    plan = _plan(x_rows, y_rows, kernel, method, backend)
    if gamma is not None and kernel != "rbf":
        raise OptionError(f"gamma is {gamma!r}, but only kernel='rbf' has one; leave it out for {kernel!r}")
    if gamma is not None and not (isinstance(gamma, int | float) and 0 < gamma < float("inf")):
        raise OptionError(
            f"gamma is {gamma!r}; expected a positive number, or None for one over the mean squared distance"
        )
    if plan.path == "moments":
        maps = (BILINEAR[kernel][0],)
        products: Products = "float64" if plan.products == "float64" else "auto"
        moments = PairMoments(maps, products=products, reservoir=0, backend=backend)
        return _accumulate(moments, x_rows, y_rows).rsa(kernel, method)
    ops = kernels.select(x_rows.device, backend)
    if gamma is not None and not gamma > 0:
        raise OptionError(
            f"gamma is {gamma}; expected a positive number, or None for one over the mean squared distance"
        )
    double = plan.products == "float64"
    kernel = ranks.RANKED_AS.get(kernel, kernel) if method == "spearman" else kernel
    x_space, y_space = (tiles.prepare(rows, kernel, ops, gamma, double) for rows in (x_rows, y_rows))
    if plan.path == "ranks":
        return ranks.spearman(x_space, y_space, ops)
    if plan.path == "binned ranks":
        found = ranks.binned_spearman(x_space, y_space, ops)
        if not found.bound > ranks.BOUND or double:
            return found.value
        # Crowded bins are ties or nearly so, and float32 would split ties at random: the same again in float64.
        x_space, y_space = (tiles.prepare(rows, kernel, ops, gamma, True) for rows in (x_rows, y_rows))
        return ranks.binned_spearman(x_space, y_space, ops).value
    sums = tiles.pair_sums(x_space, y_space, ops)
    return pearson(sums) if method == "pearson" else cosine(sums)


def explain(x: Any, y: Any, *, kernel: str = "cosine", method: str = "pearson", backend: str = "auto") -> Plan:
    """What `rsa` would do with these arrays, and why, before anything runs; reads shapes and types only.

    >>> import numpy as np
    >>> from bertft import explain
    >>> plan = explain(np.zeros((5000, 768), np.float32), np.zeros((5000, 768), np.float32))
    >>> plan.path, plan.backend
    ('moments', 'numba')
    """
    return _plan(*_sources(x, y), kernel, method, backend)


def cka(x: Any, y: Any, *, debiased: bool = True, backend: str = "auto") -> float:
    """Linear centred kernel alignment of x (n, d1) and y (n, d2); debiased by default, as n < d inflates it.

    Raises `ArrayError` as `rsa` does.

    >>> import numpy as np
    >>> from bertft import cka
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((50, 200)), rng.standard_normal((50, 200))
    >>> round(cka(x, y, debiased=False), 2), abs(cka(x, y)) < 0.1
    (0.82, True)

    Source: Kornblith et al. 2019; debiased by the HSIC estimate of Song et al. 2012.
    """
    return _one("cka" if debiased else "cka-biased", x, y, backend)


def cca(x: Any, y: Any, *, backend: str = "auto") -> float:
    """The mean canonical correlation of x (n, d1) and y (n, d2). Warns where n is too small for it to mean anything.

    >>> import numpy as np
    >>> from bertft import cca
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(cca(x, x @ np.random.default_rng(1).standard_normal((8, 8))), 6)
    1.0

    Source: Hotelling 1936.
    """
    return _one("cca", x, y, backend)


def svcca(x: Any, y: Any, *, backend: str = "auto") -> float:
    """The mean canonical correlation of the principal components that hold 99 % of each space's variance.

    >>> import numpy as np
    >>> from bertft import svcca
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(svcca(x, 3 * x + 1), 6)
    1.0

    Source: Raghu et al. 2017.
    """
    return _one("svcca", x, y, backend)


def pwcca(x: Any, y: Any, *, backend: str = "auto") -> float:
    """Canonical correlations weighted by the share of x each accounts for; not symmetric.

    >>> import numpy as np
    >>> from bertft import pwcca
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(pwcca(x, 3 * x + 1), 6)
    1.0

    Source: Morcos et al. 2018.
    """
    return _one("pwcca", x, y, backend)


def procrustes(x: Any, y: Any, *, backend: str = "auto") -> float:
    """Procrustes similarity, 1 where a rotation, scaling and shift turn x into y; 2 (1 - it) is the usual distance.

    >>> import numpy as np
    >>> from bertft import procrustes
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(procrustes(x, 3 * x[:, ::-1] + 1), 6)
    1.0

    Source: Schönemann 1966; Ding et al. 2021.
    """
    return _one("procrustes", x, y, backend)


def compare(
    x: Any,
    y: Any,
    measures: Iterable[str] = ("rsa", "cka"),
    groups: Any = None,
    *,
    seed: int = 0,
    backend: str = "auto",
) -> dict[str, Estimate]:
    """Several measures with their standard errors, in one pass over the rows.

    groups (n,): the sentence of each row, whole numbers; rows of one sentence are not independent, and the error
    counts that. The errors come from at most 8,192 rows, 16 of a long group.  They tell the spread among samples, not
    the bias that Procrustes and the CCA family have where rows are few.  Known measures: `bertft.measures.MEASURES`.

    >>> import numpy as np
    >>> from bertft import compare
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((600, 16)); y = x + rng.standard_normal((600, 16))
    >>> found = compare(x, y, measures=["rsa", "cka"], groups=np.arange(600) // 3)
    >>> {name: (round(value, 2), round(stderr, 2)) for name, (value, stderr) in found.items()}
    {'rsa': (0.5, 0.01), 'cka': (0.51, 0.01)}

    Source: row influences of U-statistics, see `bertft.measures.rsa`; clustered as in Liang and Zeger 1986.
    """
    chosen = resolve(measures)
    x_rows, y_rows = _sources(x, y)
    if groups is not None:
        groups = group_keys(groups, len(x_rows))
    maps = dict.fromkeys(row_map for measure in chosen for row_map in measure.maps)
    products: Products = "float64" if any(m.products == "float64" for m in chosen) else "auto"
    moments = PairMoments(maps, products=products, reservoir=COMPARE_ROWS, seed=seed, backend=backend)
    _accumulate(moments, x_rows, y_rows, groups)
    return {measure.name: evaluate(measure.name, moments) for measure in chosen}


def _one(name: str, x: Any, y: Any, backend: str) -> float:
    (measure,) = resolve((name,))
    moments = PairMoments(measure.maps, products=measure.products, reservoir=0, backend=backend)
    return measure.value(_accumulate(moments, *_sources(x, y)))


def _sources(x: Any, y: Any) -> tuple[RowSource, RowSource]:
    x_rows, y_rows = RowSource(x, "x"), RowSource(y, "y")
    check_pair(x_rows, y_rows)
    return x_rows, y_rows


@kernels.one_blas_thread()
def _accumulate(moments: PairMoments, x: RowSource, y: RowSource, groups: Any = None) -> PairMoments:
    """Every row of two sources, batch by batch, about a center taken from all over them."""
    moments.center_on(x, y)
    for low in range(0, len(x), BATCH_ROWS):
        high = min(low + BATCH_ROWS, len(x))
        moments.update(x.batch(low, high), y.batch(low, high), None if groups is None else groups[low:high])
        x.release()
        y.release()
    return moments


def _plan(x: RowSource, y: RowSource, kernel: str, method: str, backend: str) -> Plan:
    if not isinstance(kernel, str) or kernel not in tiles.FORMS:
        raise OptionError(f"unknown kernel {kernel!r}; expected one of {', '.join(tiles.FORMS)}")
    if method not in METHODS:
        raise OptionError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    name = kernels.choose(x.device, backend)
    n, d1, d2 = len(x), x.width, y.width
    moment_flops = float(n) * (d1 * d1 + d2 * d2 + 2 * d1 * d2)
    tile_flops = float(n) * n * (d1 + d2)
    pairs = n * (n - 1) // 2
    path: Literal["moments", "tiles", "ranks", "binned ranks"]
    if name == "reference":
        path, flops = ("ranks" if method == "spearman" else "tiles"), tile_flops
        why = "the reference makes whole float64 matrices of all pairs, and no use of moments"
    elif method == "spearman":
        path, flops = ("ranks", tile_flops) if pairs <= ranks.EXACT_PAIRS else ("binned ranks", 2 * tile_flops)
        why = f"ranks need the pairs themselves, and {pairs:,} of them " + (
            "fit in memory, so the ranks are exact"
            if path == "ranks"
            else "do not: two passes over the tiles, with fine bins between, error below 1e-6"
        )
    elif kernel not in BILINEAR:
        path, flops = "tiles", tile_flops
        why = f"{kernel} is not bilinear in its rows, so every pair is visited, and reduced where it is made"
    elif moment_flops <= 2 * tile_flops:
        path, flops = "moments", moment_flops
        why = f"the kernel is bilinear in its rows, so {d1} x {d2} moments hold the exact answer in one pass"
    else:
        path, flops = "tiles", tile_flops
        why = f"{n:,} rows are few against {d1} + {d2} columns, so the pairs themselves cost less than moments"
    double = not {x.dtype, y.dtype} <= SINGLE or path == "ranks" or name == "reference" or flops <= CHEAP_FLOPS
    itemsize = 8 if double else 4
    size = float(itemsize * min(n, BATCH_ROWS if path == "moments" else n) * (d1 + d2))  # the shifted rows
    if name == "reference":
        size += 40.0 * pairs
    elif path == "moments":
        size += 16.0 * (d1 * d1 + d2 * d2 + d1 * d2)
    else:
        size += 2.0 * itemsize * min(n, 2048) ** 2 + (48.0 * pairs if path == "ranks" else 0.0)
        size += 48.0 * ranks.BINS if path == "binned ranks" else 0.0
    reasons = kernels.refusals(x.device, "moments")
    refused = {other: reason for other, reason in reasons.items() if other != name and reason is not None}
    if backend == "auto" and name != "reference" and x.device == "cpu":
        refused["reference"] = "it would serve, slowly, with whole n x n matrices; ask for it by name to check a number"
    type_ = "float64" if double else "float32"
    return Plan(path, name, n, (d1, d2), kernel, method, type_, flops, size, why, refused)
