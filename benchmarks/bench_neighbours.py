"""Time `mutual_knn` against brute force by scikit-learn, over both spaces in the same run, and check the neighbours."""

from __future__ import annotations

import competitors
import costs
import numpy as np
import pytest

from bertft import kernels, mutual_knn
from bertft.arrays import RowSource
from bertft.measures.mutual_knn import nearest

D, K = 768, 10


def sklearn_neighbours(rows):
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine", n_jobs=-1).fit(rows)
    return found.kneighbors(return_distance=False)


def shared(x, y):
    """Return the mean share of neighbours in common, from the neighbours of both spaces."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(x, y, strict=True)]))


def float64_neighbours(rows, block=1000):
    unit, found = competitors.unit(rows.astype(np.float64)), []
    for low in range(0, len(rows), block):
        cosines = unit[low : low + block] @ unit.T
        cosines[np.arange(len(cosines)), np.arange(low, low + len(cosines))] = -np.inf
        found.append(np.argpartition(-cosines, K, axis=1)[:, :K])
    return np.concatenate(found)


@pytest.mark.long
@pytest.mark.benchmark(group="mutual nearest neighbours, k = 10, n = 20,000")
def bench_neighbours_20000(race):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    n = 20_000
    x, y = competitors.spaces(n)
    truth = [np.sort(float64_neighbours(rows), axis=1) for rows in (x, y)]
    ops = kernels.select("cpu")
    for rows, expected in zip((x, y), truth, strict=True):
        assert np.array_equal(np.sort(nearest(RowSource(rows, "x"), K, ops), axis=1), expected)
    expected = shared(*truth)
    race(
        lambda: mutual_knn(x, y, K),
        {"sklearn brute": lambda: shared(sklearn_neighbours(x), sklearn_neighbours(y))},
        lambda name, answer: abs(answer - expected),
        tolerances={"bertft": 1e-12, "sklearn brute": 1e-4},  # float32 may swap neighbours that nearly tie
        rounds=3,
        costs={"bertft": costs.tiles(n, D), "sklearn brute": costs.dense(n, D)},
        goals={"sklearn brute": ("at least", 5)},
    )
