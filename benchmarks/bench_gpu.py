"""Time bertft on a GPU.

`rsa` is compared with dense RSA on the GPU. The CUDA kernels of the probe evaluation are compared with a copy to the
CPU followed by the C++ kernels. `evaluate_distances` selects the faster of these two for each batch size, so it should
be slower than neither. All benchmarks of this file are skipped if no GPU is available.
"""

from __future__ import annotations

import competitors
import costs
import numpy as np
import pytest
import torch
from recording import NO_GPU

from bertft import kernels, rsa
from bertft.probes import evaluate_distances

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)


def synchronized(work):
    """Return `work` followed by a synchronisation, because kernel launches are asynchronous."""

    def run():
        answer = work()
        torch.cuda.synchronize()
        return answer

    return run


def to_gpu(*arrays):
    """Return the arrays as tensors on the GPU."""
    return tuple(torch.from_numpy(array).cuda() for array in arrays)


@pytest.mark.parametrize("n", [5000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.benchmark(group="cosine, Pearson, on a GPU")
def bench_rsa_on_gpu(race, n):
    arrays = competitors.spaces(n)
    x, y = to_gpu(*arrays)
    d = x.shape[1]
    truth = competitors.dense_truth(*arrays)

    def products():
        _ = x.T @ x, y.T @ y, x.T @ y

    race(
        synchronized(lambda: rsa(x, y)),
        {
            "bare products": synchronized(products),
            "torch": synchronized(lambda: competitors.torch_dense(x, y)),
        },
        lambda name, answer: None if answer is None else abs(float(answer) - truth),
        tolerances={"bertft": 1e-6, "torch": 0.05},
        rounds=9,
        costs={"bertft": costs.moments(n, d), "bare products": costs.moments(n, d), "torch": costs.dense(n, d)},
        goals={"bare products": ("at most", 1.3), "fastest dense": ("at least", 5)},
    )


@pytest.mark.parametrize("words", [16, 40, 128])
@pytest.mark.parametrize("batch", [32, 256, 2048])
@pytest.mark.benchmark(group="evaluation of distances that lie on a GPU")
def bench_evaluation_on_gpu(race, batch, words):
    rng = np.random.default_rng(0)
    gold = rng.integers(1, 12, (batch, words, words)).astype(np.float32)
    gold += gold.transpose(0, 2, 1)
    predicted = gold + rng.standard_normal(gold.shape).astype(np.float32)
    lengths = rng.integers(2, words + 1, batch)
    keep = rng.random((batch, words)) > 0.12
    inputs = to_gpu(predicted, gold)

    def check(name, answer, truth):
        """Return the largest error of the correlations. The numbers of edges must match exactly."""
        assert (answer.correct_edges, answer.gold_edges) == (truth.correct_edges, truth.gold_edges), name
        return max(abs(answer.spearman_by_length[n] - of) for n, of in truth.spearman_by_length.items())

    cuda, copied = "the CUDA kernels", "copied to the CPU"
    race(
        lambda: evaluate_distances(*inputs, lengths, keep),
        {
            cuda: lambda: evaluate_distances(*inputs, lengths, keep, backend="gpu"),
            copied: lambda: evaluate_distances(*(side.cpu() for side in inputs), lengths, keep),
        },
        check,
        tolerances={"bertft": 1e-12, cuda: 1e-12},
        reference=copied,
        rounds=9,
        pause=0,
        costs=dict.fromkeys(("bertft", cuda, copied), costs.pairs_of_words(lengths, 2, predicted.itemsize)),
        goals={cuda: None, copied: None},
    )


@pytest.mark.parametrize("words", [16, 40, 128])
@pytest.mark.parametrize("batch", [32, 256, 2048])
@pytest.mark.benchmark(group="spanning trees of distances that lie on a GPU")
def bench_trees_on_gpu(race, batch, words):
    rng = np.random.default_rng(0)
    distances = rng.random((batch, words, words), np.float32)
    distances += distances.transpose(0, 2, 1)
    lengths = rng.integers(2, words + 1, batch)
    keep = rng.random((batch, words)) > 0.12
    on_gpu = to_gpu(distances)[0]
    cpu, cuda = kernels.select("cpu"), kernels.select(str(on_gpu.device), "gpu")

    race(
        synchronized(lambda: cuda.spanning_trees(on_gpu, lengths, keep)),
        {"copied to the CPU": lambda: cpu.spanning_trees(on_gpu.cpu().numpy(), lengths, keep)},
        lambda name, answer, truth: int((answer.cpu().numpy() != truth).sum()),
        tolerances={"bertft": 0},
        reference="copied to the CPU",
        rounds=9,
        costs=dict.fromkeys(("bertft", "copied to the CPU"), costs.pairs_of_words(lengths, 1, distances.itemsize)),
        goals={"copied to the CPU": ("at least", 1)},
    )


@pytest.mark.parametrize("words", [16, 40, 128])
@pytest.mark.parametrize("rows", [1024, 65536])
@pytest.mark.benchmark(group="rank correlations of rows that lie on a GPU")
def bench_row_spearman_on_gpu(race, rows, words):
    rng = np.random.default_rng(0)
    predicted, gold = rng.random((rows, words), np.float32), rng.integers(0, 9, (rows, words)).astype(np.float32)
    lengths = rng.integers(2, words + 1, rows)
    x, y = to_gpu(predicted, gold)
    cpu, cuda = kernels.select("cpu"), kernels.select(str(x.device), "gpu")

    def check(name, answer, truth):
        found = answer.cpu().numpy()
        np.testing.assert_array_equal(np.isnan(found), np.isnan(truth))
        return float(np.nanmax(np.abs(found - truth)))

    race(
        synchronized(lambda: cuda.row_spearman(x, y, lengths)),
        {"copied to the CPU": lambda: cpu.row_spearman(x.cpu().numpy(), y.cpu().numpy(), lengths)},
        check,
        tolerances={"bertft": 1e-12},
        reference="copied to the CPU",
        rounds=9,
        costs=dict.fromkeys(("bertft", "copied to the CPU"), costs.words(lengths, 2, predicted.itemsize)),
        goals={"copied to the CPU": ("at least", 1)},
    )
