"""Similarity of two arrays of rows, one call each: `rsa`, `cka` and its kin, `compare` for several, `explain`.

x is (n, d1) and y is (n, d2), row i of both describing the same item.  NumPy arrays and memory maps, torch tensors
(CPU and CUDA), CuPy arrays and anything with DLPack serve, in float16, bfloat16, float32 or float64; the widths may
differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bertft import kernels
from bertft.arrays import RowSource
from bertft.errors import OptionError
from bertft.measures import Estimate, evaluate, resolve
from bertft.similarity.pair_moments import PairMoments, Products, group_keys
from bertft.similarity.plan import BATCH_ROWS, _plan, _sources
from bertft.statistics import ranks, tiles
from bertft.statistics.forms import BILINEAR
from bertft.statistics.pair_sums import cosine, pearson

COMPARE_ROWS = 8192
"""Rows `compare` keeps for standard errors."""


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
