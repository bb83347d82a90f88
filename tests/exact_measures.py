"""Kernels and measures of two spaces by their textbook formulas, in extended precision as far as NumPy has it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
KERNELS = ("cosine", "correlation", "dot", "sqeuclidean", "euclidean", "rbf")
METHODS = ("pearson", "cosine", "spearman")


def related(n, d1, d2, seed=0):
    """Two related spaces, (n, d1) and (n, d2) float64, of about unit scale."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 4))
    return [shared @ rng.standard_normal((4, d)) + rng.standard_normal((n, d)) for d in (d1, d2)]


def exact(array):
    """Return the values of an array in extended precision, divided by a power of two so that they are ordinary."""
    values = torch.as_tensor(array).double().numpy()
    return np.ldexp(values, -np.frexp(np.abs(values).max())[1]).astype(np.longdouble)


def kernel_values(x, kernel):
    """Return a kernel's values of all pairs, in extended precision."""
    upper = np.triu_indices(len(x), 1)
    if kernel in ("cosine", "correlation"):
        x = x - x.mean(axis=1, keepdims=True) if kernel == "correlation" else x
        x = x / np.abs(x).max(axis=1, keepdims=True)
        x = x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    if kernel in ("cosine", "correlation", "dot"):
        return (x @ x.T)[upper]
    squares = np.square(x[:, None] - x[None]).sum(axis=2)[upper]
    return {"sqeuclidean": squares, "euclidean": np.sqrt(squares), "rbf": np.exp(-squares / squares.mean())}[kernel]


def dense_rsa(x, y, kernel, method="pearson"):
    f, g = kernel_values(exact(x), kernel), kernel_values(exact(y), kernel)
    f, g = f / np.abs(f).max(), g / np.abs(g).max()
    if method == "spearman":
        return spearmanr(f, g).statistic
    if method == "pearson":
        f, g = f - f.mean(), g - g.mean()
    return float(f @ g / np.sqrt(f @ f) / np.sqrt(g @ g))


def unbiased_hsic(k, m):
    n = len(k)
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
    return total / (n * (n - 3))


def truth_of(name, x, y):
    """Return a measure by its textbook formula, in extended precision as far as NumPy has it."""
    rsa_kernels = {
        "rsa": "cosine",
        "rsa-correlation": "correlation",
        "rsa-dot": "dot",
        "rsa-sqeuclidean": "sqeuclidean",
    }
    if name in rsa_kernels:
        return dense_rsa(x, y, rsa_kernels[name])
    if name.startswith("mean-cosine"):
        return float(kernel_values(exact(x if name.endswith("base") else y), "cosine").mean())
    if name == "mutual-knn":
        near_x, near_y = (neighbours(exact(side), 10) for side in (x, y))
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near_x, near_y, strict=True)]))
    x, y = exact(x), exact(y)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    if name == "cka":
        k, m = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        return float(unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k)) / np.sqrt(unbiased_hsic(m, m)))
    if name == "cka-biased":
        return float(((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum()) / np.sqrt(((y.T @ y) ** 2).sum()))
    if name == "procrustes":
        nuclear = np.linalg.svd((x.T @ y).astype(float), compute_uv=False).sum()
        return float(nuclear / np.sqrt((x * x).sum()) / np.sqrt((y * y).sum()))
    x, y = x.astype(float), y.astype(float)
    if name == "svcca":
        x, y = (leading(side) for side in (x, y))
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    left, correlations, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = np.abs((qx @ left).T @ x).sum(axis=1) if name == "pwcca" else np.ones(len(correlations))
    return float(weights @ correlations / weights.sum())


def neighbours(x, k):
    """Return the k rows of the largest cosine to each row, those of lower numbers first among equal rows."""
    n = len(x)
    cosines = np.full((n, n), -np.inf, dtype=np.longdouble)
    upper = np.triu_indices(n, 1)
    cosines[upper] = cosines.T[upper] = kernel_values(x, "cosine")
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def leading(x):
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u[:, : int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.99)) + 1]
