"""The same number by everyone else: RSA (cosine, Pearson, strict upper triangle) as other tools give it today."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np


def spaces(n: int, d: int = 768, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two related spaces as BERT's look: strong directions, an outlying one, rows crowded around a mean; float32."""
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
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bare_products(x: np.ndarray, y: np.ndarray) -> None:
    """The three float32 products alone, by the BLAS that bertft uses: what no moment method can go below."""
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


def scipy_dense(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.spatial.distance import pdist
    from scipy.stats import pearsonr

    return float(pearsonr(pdist(x, "cosine"), pdist(y, "cosine")).statistic)


def sklearn_chunked(x: np.ndarray, y: np.ndarray, metric: str = "cosine") -> float:
    """Two chunked generators in step, five sums over both halves; a Gaussian kernel is made of squared distances."""
    from sklearn.metrics import pairwise_distances_chunked

    def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
        if metric != "rbf":
            yield from pairwise_distances_chunked(rows, metric=metric, working_memory=64)
            return
        mean_square = 2.0 * len(rows) / (len(rows) - 1) * float(rows.var(axis=0, dtype=np.float64).sum())
        # Asked for like this the squares come by products; under their own name by a loop, four times as slow.
        for squares in pairwise_distances_chunked(rows, metric="euclidean", squared=True, working_memory=64):
            yield np.exp(squares / -mean_square, out=squares)

    # The diagonal is 0 (1 for the Gaussian): once that is taken from every cell, full sums are twice the triangle's.
    n, diagonal = len(x), float(metric == "rbf")
    f = g = ff = gg = fg = 0.0
    for left, right in zip(chunks(x), chunks(y), strict=True):
        left -= diagonal
        right -= diagonal
        f += float(left.sum(dtype=np.float64))
        g += float(right.sum(dtype=np.float64))
        ff += float(np.vdot(left, left))
        gg += float(np.vdot(right, right))
        fg += float(np.vdot(left, right))
    pairs = n * (n - 1)
    return (fg / pairs - f / pairs * g / pairs) / math.sqrt(
        (ff / pairs - (f / pairs) ** 2) * (gg / pairs - (g / pairs) ** 2)
    )


def dense_spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    upper = np.triu_indices(len(x), 1)
    f, g = (rankdata((u @ u.T)[upper]) for u in (unit(x), unit(y)))
    del upper
    f -= f.mean()
    g -= g.mean()
    return float(f @ g / math.sqrt(float(f @ f)) / math.sqrt(float(g @ g)))


def truth(x: np.ndarray, y: np.ndarray, block: int = 2000) -> float:
    """RSA in float64, block by block, shifted before it is multiplied: right to the last digits at any mean cosine."""
    shifted = []
    for rows in (x, y):
        u = unit(rows.astype(np.float64))
        center = u.mean(axis=0)
        u -= center
        shifted.append((u, u @ center))
    sums, n = np.zeros(5), len(x)
    for i in range(0, n, block):
        for j in range(i, n, block):
            sides = [
                a[i : i + block, None] + a[None, j : j + block] + u[i : i + block] @ u[j : j + block].T
                for u, a in shifted
            ]
            if i == j:
                upper = np.triu_indices(len(sides[0]), 1)
                sides = [side[upper] for side in sides]
            f, g = (side.ravel() for side in sides)
            sums += f.sum(), g.sum(), f @ f, g @ g, f @ g
    f, g, ff, gg, fg = sums / (n * (n - 1) / 2)
    return float((fg - f * g) / math.sqrt((ff - f * f) * (gg - g * g)))
