"""Competitors of `rsa`, and float64 references to check all answers. No code of bertft is used here.

The first part computes RSA (cosine, Pearson, strict upper triangle) with other tools. Each tool uses its own float32
arithmetic. The second part computes the references in float64 with NumPy alone. It shifts the values first, so that
close values keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np


def spaces(n: int, d: int = 768, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two related float32 spaces that resemble BERT's hidden states.

    They have a few strong directions, one outlier dimension, and rows concentrated around a mean.
    """
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 32), dtype=np.float32)
    pair = []
    for noise in (4.0, 5.0):
        rows = shared @ rng.standard_normal((32, d), dtype=np.float32)
        rows += noise * rng.standard_normal((n, d), dtype=np.float32) + 4 * rng.standard_normal(d).astype(np.float32)
        rows[:, 308 % d] += 60.0
        pair.append(rows)
    return pair[0], pair[1]


def unit(x: np.ndarray) -> np.ndarray:
    """Return the rows, scaled to unit length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bare_products(x: np.ndarray, y: np.ndarray) -> None:
    """Compute the three float32 products alone, with the BLAS that bertft uses.

    This is the lower bound of every method based on moments.
    """
    _ = x.T @ x, y.T @ y, x.T @ y


def numpy_dense(x: np.ndarray, y: np.ndarray) -> float:
    upper = np.triu_indices(len(x), 1)
    f, g = ((u @ u.T)[upper] for u in (unit(x), unit(y)))
    return float(np.corrcoef(f, g)[0, 1])


def torch_dense(x: Any, y: Any) -> float:
    import torch

    x, y = torch.as_tensor(x), torch.as_tensor(y)
    upper = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool, device=x.device), 1)
    units = (torch.nn.functional.normalize(rows, dim=1) for rows in (x, y))
    return float(torch.corrcoef(torch.stack([(u @ u.T)[upper] for u in units]))[0, 1])


def rsatoolbox_dense(x: np.ndarray, y: np.ndarray) -> float:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    left, right = (calc_rdm(Dataset(unit(rows)), method="euclidean") for rows in (x, y))
    return float(compare(left, right, method="corr")[0, 0])


def sklearn_chunked(x: np.ndarray, y: np.ndarray, metric: str = "cosine") -> float:
    """Return RSA from two chunked generators read in parallel, with five sums over the whole matrices.

    The Gaussian kernel is computed from squared distances.
    """
    from sklearn.metrics import pairwise_distances_chunked

    def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
        if metric != "rbf":
            yield from pairwise_distances_chunked(rows, metric=metric, working_memory=64)
            return
        # With these options scikit-learn uses matrix products. Its "sqeuclidean" uses a loop and is four times slower.
        for squares in pairwise_distances_chunked(rows, metric="euclidean", squared=True, working_memory=64):
            yield np.exp(squares / -mean_square(rows), out=squares)

    # The diagonal is 0 (1 for the Gaussian kernel). Once it is subtracted from every cell, the sums over the whole
    # matrix are twice those over the triangle.
    n, diagonal = len(x), float(metric == "rbf")
    sums = np.zeros(5)
    for left, right in zip(chunks(x), chunks(y), strict=True):
        left -= diagonal
        right -= diagonal
        sums += left.sum(dtype=np.float64), right.sum(dtype=np.float64), *squares_of(left, right)
    return correlation(sums, n * (n - 1))


def dense_spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    upper = np.triu_indices(len(x), 1)
    f, g = (rankdata((u @ u.T)[upper]) for u in (unit(x), unit(y)))
    del upper
    f -= f.mean()
    g -= g.mean()
    return float(f @ g / math.sqrt(float(f @ f)) / math.sqrt(float(g @ g)))


def squares_of(f: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    return float(np.vdot(f, f)), float(np.vdot(g, g)), float(np.vdot(f, g))


def correlation(sums: np.ndarray, pairs: float) -> float:
    """Return Pearson's correlation from Σf, Σg, Σf², Σg², Σfg."""
    f, g, ff, gg, fg = sums / pairs
    return float((fg - f * g) / math.sqrt((ff - f * f) * (gg - g * g)))


def mean_square(rows: np.ndarray) -> float:
    """Return the mean squared distance over pairs of different rows."""
    return 2.0 * len(rows) / (len(rows) - 1) * float(rows.var(axis=0, dtype=np.float64).sum())


def dense_truth(x: np.ndarray, y: np.ndarray, kernel: str = "cosine", block: int = 2000) -> float:
    """Return RSA in float64 from all pairs, block by block, exact to the last digits at any mean cosine.

    kernel: "cosine", "euclidean" or "rbf". The gamma of "rbf" is one over the mean squared distance.
    """
    shifted = []
    for rows in (x, y):
        own = rows.astype(np.float64)
        if kernel == "cosine":
            own = unit(own)
        center = own.mean(axis=0)
        own -= center
        # A cosine minus |center|² is a_i + a_j + u_i·u_j. A squared distance is s_i + s_j - 2 u_i·u_j.
        shifted.append((own, own @ center if kernel == "cosine" else np.einsum("ij,ij->i", own, own)))
    gammas = [1 / mean_square(own) for own, _ in shifted]
    sums, n = np.zeros(5), len(x)
    for i in range(0, n, block):
        for j in range(i, n, block):
            sides = []
            for (u, a), gamma in zip(shifted, gammas, strict=True):
                side = u[i : i + block] @ u[j : j + block].T
                if kernel != "cosine":
                    side *= -2
                side += a[i : i + block, None]
                side += a[None, j : j + block]
                if kernel == "rbf":
                    np.exp(-gamma * side, out=side)
                elif kernel == "euclidean":
                    np.sqrt(np.maximum(side, 0, out=side), out=side)
                sides.append(side)
            if i == j:
                upper = np.triu_indices(len(sides[0]), 1)
                sides = [side[upper] for side in sides]
            f, g = (side.ravel() for side in sides)
            sums += f.sum(), g.sum(), *squares_of(f, g)
    return correlation(sums, n * (n - 1) / 2)


def moment_truth(x: np.ndarray, y: np.ndarray, block: int = 10_000) -> float:
    """Return RSA in float64 from d x d products, for inputs too large for `dense_truth`.

    Memory maps are read twice. Let x̂ be the unit rows, m their mean, u = x̂ - m and a = m·u. A cosine minus m·m is
    F_ij = a_i + a_j + u_i·u_j. G_ij has the same form in v and b. Because Σu = 0, the sums over all i and j are
    ΣF = 2nΣa, ΣF² = 2nΣa² + 2(Σa)² + |Σuuᵀ|² and ΣFG = 2nΣab + 2ΣaΣb + |Σuvᵀ|². The diagonal is subtracted from
    these sums. The rest counts every pair twice.
    """
    n = len(x)

    def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
        return (unit(np.asarray(rows[low : low + block], dtype=np.float64)) for low in range(0, n, block))

    m, w = (sum(units.sum(axis=0) for units in blocks(rows)) / n for rows in (x, y))
    uu, vv, uv = (np.zeros((len(left), len(right))) for left, right in ((m, m), (w, w), (m, w)))
    scalars, diagonal = np.zeros(5), np.zeros(5)
    for u, v in zip(blocks(x), blocks(y), strict=True):
        u -= m
        v -= w
        a, b = u @ m, v @ w
        uu += u.T @ u
        vv += v.T @ v
        uv += u.T @ v
        scalars += a.sum(), b.sum(), *squares_of(a, b)
        f, g = (2 * c + np.einsum("ij,ij->i", rows, rows) for c, rows in ((a, u), (b, v)))
        diagonal += f.sum(), g.sum(), *squares_of(f, g)
    a, b = scalars[:2]
    sums = 2 * n * scalars - diagonal
    sums[2:] += 2 * a * a + np.vdot(uu, uu), 2 * b * b + np.vdot(vv, vv), 2 * a * b + np.vdot(uv, uv)
    return correlation(sums, n * (n - 1))


def debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Return linear CKA in float64 from the unbiased HSIC of Song et al. (2012).

    With K = XXᵀ and L = YYᵀ, both with a zero diagonal, HSIC is
    (tr(KL) + 1ᵀK1 1ᵀL1 / ((n - 1)(n - 2)) - 2/(n - 2) 1ᵀKL1) / (n(n - 3)).
    tr(KL) is |XᵀY|² minus the contribution of the diagonals.
    """
    n = len(x)
    # CKA does not depend on the origin. Centring keeps the row sums small.
    x, y = (rows - rows.mean(axis=0) for rows in (np.asarray(side, dtype=np.float64) for side in (x, y)))

    def hsic(left: np.ndarray, right: np.ndarray) -> float:
        diagonals = [np.einsum("ij,ij->i", rows, rows) for rows in (left, right)]
        k, m = (rows @ rows.sum(axis=0) - own for rows, own in zip((left, right), diagonals, strict=True))  # K1, L1
        product = left.T @ right
        trace = float(np.vdot(product, product)) - float(diagonals[0] @ diagonals[1])
        ones = float(k.sum() * m.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(k @ m)
        return (trace + ones) / (n * (n - 3))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
