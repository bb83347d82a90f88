"""Measure the error of RSA against a float64 reference, for mean cosines from 0 to 0.99999999."""

from __future__ import annotations

import competitors
import numpy as np
import pytest
import torch

from bertft import rsa

MEAN_COSINES = (0.0, 0.9, 0.9996, 0.999996, 0.99999999)
LIMIT = 1e-7
DENSE_ROWS = 5000
"""The largest n with a dense reference. Larger inputs use moments, which agree with it to 1e-11."""


def crowded(n, mean_cosine, dtype, d=768):
    """Return two related spaces whose rows have approximately this mean cosine, rounded to `dtype`.

    The reference is computed from the rounded values.
    """
    rng = np.random.default_rng(n)
    mean = rng.standard_normal(d)
    mean /= np.linalg.norm(mean)
    # The mean cosine is |mean|^2 / (|mean|^2 + spread^2).
    spread = np.sqrt((1 - mean_cosine) / max(mean_cosine, 1e-12)) if mean_cosine else 1.0
    noise = rng.standard_normal((2, n, d)) * spread / np.sqrt(d)
    center = mean * (mean_cosine > 0)
    pair = center + noise[0], center + noise[0] + 0.5 * noise[1]
    return [torch.from_numpy(30.0 * rows).to(getattr(torch, dtype)) for rows in pair]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [3, 300, 5000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.benchmark(group="accuracy")
def bench_accuracy(benchmark, checked, n, dtype):
    """Measure the largest error over the mean cosines.

    Competitors run at n = 5,000 in float32 only. Their errors have no tolerance.
    """
    errors = {}
    for mean_cosine in MEAN_COSINES:
        x, y = crowded(n, mean_cosine, dtype)
        stored = x.double().numpy(), y.double().numpy()
        truth = competitors.moment_truth(*stored)
        if n <= DENSE_ROWS:
            from_moments, truth = truth, competitors.dense_truth(*stored)
            assert from_moments == pytest.approx(truth, abs=1e-11)
        found = {"bertft": rsa(x, y)}
        if n == 5000 and dtype == "float32":
            found["numpy"] = competitors.numpy_dense(x.numpy(), y.numpy())
            found["torch"] = competitors.torch_dense(x.numpy(), y.numpy())
            found["rsatoolbox"] = competitors.rsatoolbox_dense(x.numpy(), y.numpy())
            found["sklearn-chunked"] = competitors.sklearn_chunked(x.numpy(), y.numpy())
        errors[str(mean_cosine)] = {name: abs(value - truth) for name, value in found.items()}
    # This benchmark measures errors. pytest-benchmark also requires a time, which no table shows.
    benchmark.pedantic(rsa, args=(x, y), rounds=1)
    checked({"bertft": max(of["bertft"] for of in errors.values())}, {"bertft": LIMIT})
    benchmark.extra_info.update(accuracy=errors, n=n, dtype=dtype, dense=n <= DENSE_ROWS)
