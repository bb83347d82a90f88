"""Similarity of two arrays of rows in one call: `rsa`, `cka`, `cca` and others, and `compare` for several at once.

x is (n, d1) and y is (n, d2), and row i of both describes the same item; the widths may differ. Arrays may be NumPy
arrays and memory maps, torch tensors on CPU or CUDA, CuPy arrays, or anything else with DLPack, in float16, bfloat16,
float32 or float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bertft import kernels
from bertft.errors import OptionError
from bertft.measures import Estimate, evaluate, resolve
from bertft.measures.mutual_knn import NEIGHBOURS, mean_share
from bertft.options import integer
from bertft.similarity.pair_moments import PairMoments, Products, group_keys
from bertft.similarity.plan import make_plan, row_sources
from bertft.statistics import ranks, tiles
from bertft.statistics.forms import BILINEAR
from bertft.statistics.pair_sums import cosine, pearson

COMPARE_ROWS = 8192
"""Rows that `compare` keeps for standard errors."""


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
    """Return the representational similarity (RSA) of two arrays of the same rows.

    RSA is the correlation of the strict upper triangles of two n x n kernel matrices, those of x (n, d1) and y (n, d2).
    No n x n matrix is stored, except by the reference, and except for exact ranks, which need all pairs.

    kernel: compares two rows of one array. "cosine", "correlation" (of the entries of two rows), "dot" and "rbf" are
        similarities; "sqeuclidean" and "euclidean" are distances.
    method: correlates the two triangles. "pearson"; "cosine", which subtracts no mean; or "spearman" with average
        ranks. Ranks of up to 20 million pairs (6,325 rows) are exact. Beyond, the error is below 1e-6 where values do
        not tie, see `bertft.statistics.ranks`.
    backend: where to compute: "auto" (where the arrays are), "cpu", "gpu" or "reference"; see `bertft.explain`.
    gamma: of the kernel "rbf", exp(-gamma |a - b|^2); by default 1 / the mean squared distance of the space's rows.

    Raises `ArrayError` for shapes and types, for fewer than 3 rows, and for a row without a value, which it names: not
    finite, zero under the cosine, or constant under the correlation. The scale of the rows does not matter, from the
    smallest to the largest numbers of their type; an `ArrayError` says so where float64 does not reach. Raises
    `OptionError` for unknown names and a bad gamma, and `BackendError` for a backend that cannot serve. Where all pairs
    of one side have the same value, the answer is nan with an `UndefinedWarning`.

    >>> import numpy as np
    >>> from bertft import rsa
    >>> rng = np.random.default_rng(0)
    >>> base = rng.standard_normal((500, 64)); tuned = base + 0.5 * rng.standard_normal((500, 64))
    >>> round(rsa(base, tuned), 3)
    0.796

    Source: Kriegeskorte et al. 2008; as in Merchant et al. 2020, section 5.1.
    """
    x_rows, y_rows = row_sources(x, y)
    plan = make_plan(x_rows, y_rows, kernel, method, backend)
    if gamma is not None and kernel != "rbf":
        raise OptionError(f"gamma is {gamma!r}, but only kernel='rbf' has one; leave it out for {kernel!r}")
    if gamma is not None and not (isinstance(gamma, int | float) and 0 < gamma < float("inf")):
        raise OptionError(f"gamma is {gamma!r}; expected a positive number, or None for 1 / the mean squared distance")
    if plan.path == "moments":
        maps = (BILINEAR[kernel][0],)
        products: Products = "float64" if plan.products == "float64" else "auto"
        moments = PairMoments(maps, products=products, reservoir=0, backend=backend)
        return moments.accumulate(x_rows, y_rows).rsa(kernel, method)
    ops = kernels.select(x_rows.device, backend)
    double = plan.products == "float64"
    kernel = ranks.RANKED_AS.get(kernel, kernel) if method == "spearman" else kernel
    x_space, y_space = tiles.prepare(x_rows, y_rows, kernel, ops, gamma, double)
    if plan.path == "ranks":
        return ranks.spearman(x_space, y_space, ops)
    if plan.path == "binned ranks":
        found = ranks.binned_spearman(x_space, y_space, ops)
        if not found.bound > ranks.BOUND or double:
            return found.value
        # Crowded bins mean ties or nearly ties, which float32 would split at random: repeat in float64.
        x_space, y_space = tiles.prepare(x_rows, y_rows, kernel, ops, gamma, True)
        return ranks.binned_spearman(x_space, y_space, ops).value
    sums = tiles.pair_sums(x_space, y_space, ops)
    return pearson(sums) if method == "pearson" else cosine(sums)


def cka(x: Any, y: Any, *, debiased: bool = True, backend: str = "auto") -> float:
    """Return the linear centred kernel alignment of x (n, d1) and y (n, d2).

    It is debiased by default, since the biased estimate grows towards 1 where rows are few against columns. Raises
    `ArrayError` as `rsa` does.

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
    """Return the mean canonical correlation of x (n, d1) and y (n, d2).

    Warns with a `PrecisionWarning` where n is at most the sum of the widths: the answer is then close to 1 for any
    spaces. Raises `ArrayError` as `rsa` does.

    >>> import numpy as np
    >>> from bertft import cca
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(cca(x, x @ np.random.default_rng(1).standard_normal((8, 8))), 6)
    1.0

    Source: Hotelling 1936.
    """
    return _one("cca", x, y, backend)


def svcca(x: Any, y: Any, *, backend: str = "auto") -> float:
    """Return the mean canonical correlation of the principal components that hold 99 % of each space's variance.

    Raises `ArrayError` as `rsa` does.

    >>> import numpy as np
    >>> from bertft import svcca
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(svcca(x, 3 * x + 1), 6)
    1.0

    Source: Raghu et al. 2017.
    """
    return _one("svcca", x, y, backend)


def pwcca(x: Any, y: Any, *, backend: str = "auto") -> float:
    """Return the mean canonical correlation, weighted by how much of x each canonical variate accounts for.

    It is not symmetric in x and y. Raises `ArrayError` as `rsa` does.

    >>> import numpy as np
    >>> from bertft import pwcca
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(pwcca(x, 3 * x + 1), 6)
    1.0

    Source: Morcos et al. 2018.
    """
    return _one("pwcca", x, y, backend)


def procrustes(x: Any, y: Any, *, backend: str = "auto") -> float:
    """Return the Procrustes similarity: 1 where a rotation, scaling and shift turn x into y.

    For a similarity s, 2 (1 - s) is the squared Procrustes distance of the normalised spaces. Raises `ArrayError` as
    `rsa` does.

    >>> import numpy as np
    >>> from bertft import procrustes
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(procrustes(x, 3 * x[:, ::-1] + 1), 6)
    1.0

    Source: Schönemann 1966; Ding et al. 2021.
    """
    return _one("procrustes", x, y, backend)


@kernels.one_blas_thread()
def mutual_knn(x: Any, y: Any, k: int = NEIGHBOURS, *, backend: str = "auto") -> float:
    """Return the share of the k nearest neighbours that x (n, d1) and y (n, d2) have in common, averaged over rows.

    Neighbours have the largest cosines; a row is not its own. On the CPU they are exact: those of cosines in float64,
    and of equal rows, the ones that come first. On a GPU, neighbours whose cosines differ by rounding may change
    places. Memory is O(n (d1 + d2 + k)), never n x n. Unrelated spaces share k / (n - 1) by chance, and the value falls
    as rows are added, so compare values of the same n. It does not depend on the scale of a row.

    Raises `ArrayError` as `rsa` does, also for a row that is all zeros, and `OptionError` unless 0 < k < n. Where
    all pairs of one side have the same cosine, the answer is nan with an `UndefinedWarning`.

    >>> import numpy as np
    >>> from bertft import mutual_knn
    >>> rng = np.random.default_rng(0)
    >>> base = rng.standard_normal((500, 64)); tuned = base + 0.5 * rng.standard_normal((500, 64))
    >>> round(mutual_knn(base, tuned), 2), round(mutual_knn(base, rng.standard_normal((500, 8))), 2)
    (0.41, 0.02)

    Source: Huh et al. 2024, The Platonic Representation Hypothesis, appendix A.
    """
    x_rows, y_rows = row_sources(x, y)
    k = integer("k", k, least=1)
    if k >= len(x_rows):
        raise OptionError(
            f"k is {k}, and each of {len(x_rows):,} rows has {len(x_rows) - 1:,} others; give a smaller k"
        )
    ops = kernels.select(x_rows.device, backend)
    return mean_share(x_rows, y_rows, k, ops)


def compare(
    x: Any,
    y: Any,
    measures: Iterable[str] = ("rsa", "cka"),
    groups: Any = None,
    *,
    seed: int = 0,
    backend: str = "auto",
) -> dict[str, Estimate]:
    """Return several measures with their standard errors, in one pass over the rows.

    measures: names in `bertft.measures.MEASURES`.
    groups: (n,) whole numbers, the sentence of each row. Rows of one sentence are not independent, which the standard
        errors take into account. Without groups every row is independent.
    seed: decides which rows the standard errors come from where there are more than 8,192: long groups are thinned
        first, then groups are left out.
    backend: see `rsa`.

    The standard errors measure the spread among samples, not the bias that Procrustes and the CCA family have where
    rows are few. Raises `ArrayError` as `rsa` does, and for groups that are not one whole number for each row;
    `OptionError` for an unknown measure.

    >>> import numpy as np
    >>> from bertft import compare
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((600, 16)); y = x + rng.standard_normal((600, 16))
    >>> found = compare(x, y, measures=["rsa", "cka"], groups=np.arange(600) // 3)
    >>> {name: (round(value, 2), round(stderr, 2)) for name, (value, stderr) in found.items()}
    {'rsa': (0.5, 0.01), 'cka': (0.51, 0.01)}

    Source: the delete-one-group jackknife, Efron and Stein 1981, see `bertft.statistics.standard_error`.
    """
    chosen = resolve(measures)
    x_rows, y_rows = row_sources(x, y)
    if groups is not None:
        groups = group_keys(groups, len(x_rows))
    moments = PairMoments.serving(chosen, reservoir=COMPARE_ROWS, seed=seed, backend=backend)
    moments.accumulate(x_rows, y_rows, groups)
    return {measure.name: evaluate(measure.name, moments) for measure in chosen}


def _one(name: str, x: Any, y: Any, backend: str) -> float:
    (measure,) = resolve((name,))
    moments = PairMoments(measure.maps, products=measure.products, reservoir=0, backend=backend)
    return measure.value(moments.accumulate(*row_sources(x, y)))
