"""How far everyone is from float64 dense RSA, from spread-out rows to cosines of 0.99999999."""

from __future__ import annotations

import numpy as np
import pytest
import rivals
import torch

from bertft import rsa

MEAN_COSINES = (0.0, 0.9, 0.9996, 0.999996, 0.99999999)
LIMIT = 1e-7


def crowded(n, mean_cosine, dtype, d=768):
    """Two related spaces whose rows have about this mean cosine, rounded to a type: truth is of the stored values."""
    rng = np.random.default_rng(n)
    mean = rng.standard_normal(d)
    mean /= np.linalg.norm(mean)
    # |mean|^2 / (|mean|^2 + spread^2) is the mean cosine
    spread = np.sqrt((1 - mean_cosine) / max(mean_cosine, 1e-12)) if mean_cosine else 1.0
    noise = rng.standard_normal((2, n, d)) * spread / np.sqrt(d)
    center = mean * (mean_cosine > 0)
    pair = center + noise[0], center + noise[0] + 0.5 * noise[1]
    return [torch.from_numpy(30.0 * rows).to(getattr(torch, dtype)) for rows in pair]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [3, 300, 5000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.benchmark(group="accuracy")
def bench_accuracy(benchmark, n, dtype):
    """Largest error over the mean cosines; rivals at n = 5,000 in float32 only."""
    errors = {}
    for mean_cosine in MEAN_COSINES:
        x, y = crowded(n, mean_cosine, dtype)
        reference = rivals.truth(x.double().numpy(), y.double().numpy())
        found = {"bertft": rsa(x, y)}
        if n == 5000 and dtype == "float32":
            found["numpy"] = rivals.numpy_dense(x.numpy(), y.numpy())
            found["torch"] = rivals.torch_dense(x.numpy(), y.numpy())
            found["rsatoolbox"] = rivals.rsatoolbox_dense(x.numpy(), y.numpy())
            found["sklearn-chunked"] = rivals.sklearn_chunked(x.numpy(), y.numpy())
        errors[str(mean_cosine)] = {name: abs(value - reference) for name, value in found.items()}
        assert errors[str(mean_cosine)]["bertft"] <= LIMIT
    benchmark.extra_info["errors"] = errors
    benchmark.pedantic(rsa, args=(x, y), rounds=1)
