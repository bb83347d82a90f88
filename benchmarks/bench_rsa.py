"""rsa against its rivals: time as a ratio in the same run, with the answers checked; memory in a process of its own."""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rivals
from memory import peak_memory

from bertft import rsa

D = 768


def close_to(truth, tolerances):
    def check(name, answer):
        if name not in tolerances:
            return None
        assert answer == pytest.approx(truth, abs=tolerances[name]), name
        return abs(answer - truth)

    return check


EXACT = {"bertft": 1e-7, "numpy": 1e-4, "torch": 1e-3, "rsatoolbox": 1e-4, "scipy": 1e-9, "sklearn-chunked": 1e-4}
"""What each is allowed to be off: the rivals' own float32 error, which the tables show."""


@pytest.mark.benchmark(group="cosine, Pearson, n = 5,000")
def bench_rsa_5000(race):
    x, y = rivals.spaces(5000)
    others = {
        "bare products": partial(rivals.bare_products, x, y),
        "numpy": partial(rivals.numpy_dense, x, y),
        "torch": partial(rivals.torch_dense, x, y),
        "rsatoolbox": partial(rivals.rsatoolbox_dense, x, y),
        "sklearn-chunked": partial(rivals.sklearn_chunked, x, y),
    }
    goals = {"bare products": ("at most", 1.3), "fastest dense": ("at least", 5)}
    race(lambda: rsa(x, y), others, close_to(rivals.truth(x, y), EXACT), rounds=9, goals=goals)


@pytest.mark.long
@pytest.mark.benchmark(group="cosine, Pearson, n = 20,000")
def bench_rsa_20000(race):
    x, y = rivals.spaces(20_000)
    others = {
        "bare products": partial(rivals.bare_products, x, y),
        "torch": partial(rivals.torch_dense, x, y),
        "rsatoolbox": partial(rivals.rsatoolbox_dense, x, y),
        "sklearn-chunked": partial(rivals.sklearn_chunked, x, y),
    }
    goals = {"bare products": ("at most", 1.3), "fastest dense": ("at least", 20)}
    # A float32 correlation of 200 million values loses torch two digits more.
    tolerances = EXACT | {"torch": 0.05}
    race(lambda: rsa(x, y), others, close_to(rivals.truth(x, y), tolerances), rounds=2, goals=goals)


@pytest.mark.long
@pytest.mark.parametrize("kernel", ["euclidean", "rbf"])
@pytest.mark.benchmark(group="Euclidean and RBF, Pearson, n = 20,000")
def bench_kernels_20000(race, kernel):
    x, y = rivals.spaces(20_000)
    others = {"sklearn-chunked": partial(rivals.sklearn_chunked, x, y, metric=kernel)}
    reference = rivals.sklearn_chunked(x.astype(np.float64), y.astype(np.float64), metric=kernel)
    goals = {"sklearn-chunked": ("at least", 2)}
    check = close_to(reference, {"bertft": 1e-7, "sklearn-chunked": 1e-4})
    race(lambda: rsa(x, y, kernel=kernel), others, check, rounds=1, goals=goals)


@pytest.mark.benchmark(group="cosine, Spearman, n = 5,000")
def bench_spearman_5000(race):
    x, y = rivals.spaces(5000)
    others = {"dense scipy ranks": partial(rivals.dense_spearman, x, y)}
    reference = rivals.dense_spearman(x.astype(np.float64), y.astype(np.float64))
    check = close_to(reference, {"bertft": 1e-6, "dense scipy ranks": 1e-5})
    race(lambda: rsa(x, y, method="spearman"), others, check, rounds=3)


@pytest.mark.long
@pytest.mark.benchmark(group="cosine, Spearman, n = 20,000")
def bench_spearman_20000(race):
    x, y = rivals.spaces(20_000)
    start = time.perf_counter()
    dense = rivals.dense_spearman(x, y)  # float64 would take 20 GB; at n = 5,000 the two differ by less than 1e-6
    timed = {"dense scipy ranks": time.perf_counter() - start}
    goals = {"dense scipy ranks": ("at least", 5), "memory, MiB": ("at most", 1024)}
    check = close_to(dense, {"bertft": 2e-6})
    memory = peak_memory(f"{SETUP}\nx, y = rivals.spaces(20_000)", "answer = rsa(x, y, method='spearman')")
    assert memory["answer"] == pytest.approx(dense, abs=2e-6)
    race(lambda: rsa(x, y, method="spearman"), {}, check, rounds=1, timed=timed, goals=goals, memory=memory["over"])


@pytest.mark.long
@pytest.mark.benchmark(group="cosine, Pearson, n = 1,000,000 from memory maps")
def bench_memory_maps(race):
    """A million rows of each space on disk; the products alone are timed over the same batches of the same files."""
    n = 1_000_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("BERTFT_SCRATCH")) as folder:
        paths = [Path(folder) / name for name in ("x.npy", "y.npy")]
        write_spaces(paths, n)
        x, y = (np.load(path, mmap_mode="r") for path in paths)

        def products():
            for low in range(0, n, 8192):
                rivals.bare_products(x[low : low + 8192], y[low : low + 8192])

        x_path, y_path = map(str, paths)
        memory = peak_memory(
            f"{SETUP}\nrsa(*rivals.spaces(9000))",
            f"answer = rsa(np.load({x_path!r}, mmap_mode='r'), np.load({y_path!r}, mmap_mode='r'))",
        )
        goals = {"bare products": ("at most", 1.3), "memory, MiB": ("at most", 400)}
        check = close_to(memory["answer"], {"bertft": 1e-12})
        race(lambda: rsa(x, y), {"bare products": products}, check, rounds=2, goals=goals, memory=memory["over"])


SETUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import rivals
from bertft import rsa
"""


def write_spaces(paths, n):
    """Rows as those of `rivals.spaces`, written to .npy files block by block."""
    maps = [np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, D)) for path in paths]
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal((32, D), dtype=np.float32) for _ in paths]
    means = [4 * rng.standard_normal(D).astype(np.float32) for _ in paths]
    for low in range(0, n, 50_000):
        shared = rng.standard_normal((50_000, 32), dtype=np.float32)
        for rows, direction, mean in zip(maps, directions, means, strict=True):
            rows[low : low + 50_000] = (
                shared @ direction + 4 * rng.standard_normal((50_000, D), dtype=np.float32) + mean
            )
    for rows in maps:
        rows.flush()
