"""Time `rsa` against its competitors.

Times are compared within one run, and all answers are checked. Memory is measured in a separate process.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import competitors
import costs
import numpy as np
import pytest
from memory import OwnProcess

from bertft import rsa

D = 768

TOLERANCES = {
    "bertft": 1e-7,
    "numpy": 1e-4,
    "torch": 0.05,
    "rsatoolbox": 1e-4,
    "sklearn-chunked": 1e-3,
    "dense scipy ranks": 1e-5,
}
"""The largest error allowed. Competitors run in float32 as they are, and the tables show their errors."""

SETUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import competitors
from bertft import rsa
"""


def error_from(truth):
    """Return a `check` for `race`: the absolute error of an answer, or None if there is no answer."""
    return lambda name, answer: None if answer is None else abs(answer - truth)


def compiled(**options):
    """Return a warm-up for slow contestants.

    It triggers compilation and starts the threads without running a full round.
    """
    x, y = competitors.spaces(7000)  # large enough for the second algorithm of Spearman
    return lambda: rsa(x, y, **options)


@pytest.mark.benchmark(group="cosine, Pearson, n = 5,000")
def bench_rsa_5000(race):
    n = 5000
    x, y = competitors.spaces(n)
    race(
        lambda: rsa(x, y),
        {
            "bare products": partial(competitors.bare_products, x, y),
            "numpy": partial(competitors.numpy_dense, x, y),
            "torch": partial(competitors.torch_dense, x, y),
            "rsatoolbox": partial(competitors.rsatoolbox_dense, x, y),
            "sklearn-chunked": partial(competitors.sklearn_chunked, x, y),
        },
        error_from(competitors.dense_truth(x, y)),
        tolerances=TOLERANCES,
        rounds=9,
        rounds_of=dict.fromkeys(("numpy", "torch", "rsatoolbox"), 3),
        costs=costs_of_cosine(n),
        goals={"bare products": ("at most", 1.3), "fastest dense": ("at least", 5)},
    )


@pytest.mark.long
@pytest.mark.benchmark(group="cosine, Pearson, n = 20,000")
def bench_rsa_20000(race):
    n = 20_000
    x, y = competitors.spaces(n)
    race(
        lambda: rsa(x, y),
        {
            "bare products": partial(competitors.bare_products, x, y),
            "torch": partial(competitors.torch_dense, x, y),
            "rsatoolbox": partial(competitors.rsatoolbox_dense, x, y),
            "sklearn-chunked": partial(competitors.sklearn_chunked, x, y),
        },
        error_from(competitors.dense_truth(x, y)),
        tolerances=TOLERANCES,
        rounds=3,
        rounds_of=dict.fromkeys(("torch", "rsatoolbox"), 1),  # they take minutes and are never the fastest
        warm_up=compiled(),
        costs=costs_of_cosine(n),
        goals={"bare products": ("at most", 1.3), "fastest dense": ("at least", 20)},
    )


def costs_of_cosine(n):
    """Return the costs of every contestant for cosine RSA."""
    dense = dict.fromkeys(("numpy", "torch", "rsatoolbox", "sklearn-chunked"), costs.dense(n, D))
    return dict.fromkeys(("bertft", "bare products"), costs.moments(n, D)) | dense


@pytest.mark.long
@pytest.mark.parametrize("kernel", ["euclidean", "rbf"])
@pytest.mark.benchmark(group="Euclidean and RBF, Pearson, n = 20,000")
def bench_kernels_20000(race, kernel):
    n = 20_000
    x, y = competitors.spaces(n)
    race(
        lambda: rsa(x, y, kernel=kernel),
        {"sklearn-chunked": partial(competitors.sklearn_chunked, x, y, metric=kernel)},
        error_from(competitors.dense_truth(x, y, kernel)),
        tolerances=TOLERANCES,
        rounds=3,
        warm_up=compiled(kernel=kernel),
        costs={"bertft": costs.tiles(n, D), "sklearn-chunked": costs.dense(n, D)},
        goals={"sklearn-chunked": ("at least", 2)},
    )


@pytest.mark.benchmark(group="cosine, Spearman, n = 5,000")
def bench_spearman_5000(race):
    n = 5000
    x, y = competitors.spaces(n)
    race(
        lambda: rsa(x, y, method="spearman"),
        {"dense scipy ranks": partial(competitors.dense_spearman, x, y)},
        error_from(competitors.dense_spearman(x.astype(np.float64), y.astype(np.float64))),
        tolerances=TOLERANCES | {"bertft": 1e-6},
        rounds=3,
        costs={"bertft": costs.tiles(n, D)},  # exact ranks need one pass and sorting
        goals={"dense scipy ranks": None},
    )


@pytest.mark.long
@pytest.mark.benchmark(group="cosine, Spearman, n = 20,000")
def bench_spearman_20000(race):
    """Time Spearman RSA and measure its memory.

    bertft runs in a separate process, so that its memory can be measured. The competitor runs one round only, because
    a round takes minutes. Its answer is the reference, because ranks in float64 would take 20 GB. At n = 5,000,
    float32 changes its answer by less than 1e-6.
    """
    n = 20_000
    x, y = competitors.spaces(n)
    ours = OwnProcess(
        f"{SETUP}\nrsa(*competitors.spaces(7000), method='spearman')\nx, y = competitors.spaces({n})",
        "found = rsa(x, y, method='spearman')",
        "answer = found",
    )
    race(
        ours,
        {"dense scipy ranks": partial(competitors.dense_spearman, x, y)},
        lambda name, answer, truth: abs(answer - truth),
        tolerances={"bertft": 2e-6},
        reference="dense scipy ranks",
        rounds=3,
        rounds_of={"dense scipy ranks": 1},
        warm_up=lambda: competitors.dense_spearman(x[:1000], y[:1000]),
        costs={"bertft": costs.tiles(n, D, passes=2)},
        goals={"dense scipy ranks": ("at least", 5), "memory, MiB": ("at most", 1024)},
        memory=ours.memory,
    )


@pytest.mark.long
@pytest.mark.benchmark(group="cosine, Pearson, n = 1,000,000 from memory maps")
def bench_memory_maps(race):
    """Time RSA of two spaces with a million rows each, read from disk.

    The lower bound is the matrix products alone, over the same batches of the same files. Each side runs in a new
    process in every round, so that it always opens the files for the first time.
    """
    n = 1_000_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("BERTFT_SCRATCH")) as folder:
        paths = [str(Path(folder) / name) for name in ("x.npy", "y.npy")]
        write_spaces(paths, n)
        opened = f"{SETUP}\nx, y = (np.load(path, mmap_mode='r') for path in {paths!r})\n"
        warm = "(*competitors.spaces(9000))"
        ours = OwnProcess(f"{opened}rsa{warm}", "found = rsa(x, y)", "answer = found")
        products = """
for low in range(0, len(x), 8192):
    competitors.bare_products(x[low : low + 8192], y[low : low + 8192])
"""
        race(
            ours,
            {"bare products": OwnProcess(f"{opened}competitors.bare_products{warm}", products)},
            error_from(competitors.moment_truth(*(np.load(path, mmap_mode="r") for path in paths))),
            tolerances=TOLERANCES,
            rounds=3,
            warm_up=lambda: None,
            costs={"bertft": costs.moments(n, D), "bare products": costs.moments(n, D)},
            goals={"bare products": ("at most", 1.3), "memory, MiB": ("at most", 400)},
            memory=ours.memory,
        )


def write_spaces(paths, n):
    """Write rows like those of `competitors.spaces` to .npy files, one block at a time."""
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
