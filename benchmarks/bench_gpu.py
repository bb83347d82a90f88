"""On a GPU: rsa against dense RSA there, and the CUDA twin of the evaluator against a copy to the CPU and the C++ core.

The evaluation takes the faster of these two by itself, so it should lose to neither; where the twin loses, by size of
the batch, is where predictions are moved.  Without a GPU all of this is skipped, and says so.
"""

from __future__ import annotations

import numpy as np
import pytest
import rivals
import torch

from bertft import kernels, rsa
from bertft.probes import evaluate_distances

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand")


def finished(work):
    """The work, waited for: launches return before the device is done."""

    def run():
        answer = work()
        torch.cuda.synchronize()
        return answer

    return run


def on_gpu(*arrays):
    return tuple(torch.from_numpy(array).cuda() for array in arrays)


@pytest.mark.parametrize("n", [5000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.benchmark(group="cosine, Pearson, on a GPU")
def bench_rsa_on_gpu(race, n):
    arrays = rivals.spaces(n)
    x, y = on_gpu(*arrays)
    truth = rivals.truth(*arrays)

    def check(name, answer):
        assert float(answer) == pytest.approx(truth, abs=1e-6 if name == "bertft" else 0.05), name
        return abs(float(answer) - truth)

    others = {
        "bare products": finished(lambda: (x.T @ x, y.T @ y, x.T @ y) and truth),
        "torch": finished(lambda: rivals.torch_dense(x, y)),
    }
    goals = {"bare products": ("at most", 1.3), "fastest dense": ("at least", 5)}
    race(finished(lambda: rsa(x, y)), others, check, rounds=9, goals=goals)


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
    there = on_gpu(predicted, gold)
    truth = evaluate_distances(predicted, gold, lengths, keep)

    def check(name, answer):
        assert (answer.correct_edges, answer.gold_edges) == (truth.correct_edges, truth.gold_edges), name
        assert answer.spearman_by_length == pytest.approx(truth.spearman_by_length, abs=1e-12), name

    race(
        lambda: evaluate_distances(*there, lengths, keep),
        {
            "the CUDA twin": lambda: evaluate_distances(*there, lengths, keep, backend="cupy"),
            "copied to the CPU": lambda: evaluate_distances(*(side.cpu() for side in there), lengths, keep),
        },
        check,
        rounds=9,
        pause=0,
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
    there = on_gpu(distances)[0]
    here, twin = kernels.select("cpu"), kernels.select(str(there.device), "cupy")
    truth = here.spanning_trees(distances, lengths, keep)

    def check(name, answer):
        np.testing.assert_array_equal(answer.cpu() if torch.is_tensor(answer) else answer, truth, err_msg=name)

    race(
        finished(lambda: twin.spanning_trees(there, lengths, keep)),
        {"copied to the CPU": lambda: here.spanning_trees(there.cpu().numpy(), lengths, keep)},
        check,
        rounds=9,
        goals={"copied to the CPU": ("at least", 1)},
    )


@pytest.mark.parametrize("words", [16, 40, 128])
@pytest.mark.parametrize("rows", [1024, 65536])
@pytest.mark.benchmark(group="rank correlations of rows that lie on a GPU")
def bench_row_spearman_on_gpu(race, rows, words):
    rng = np.random.default_rng(0)
    predicted, gold = rng.random((rows, words), np.float32), rng.integers(0, 9, (rows, words)).astype(np.float32)
    lengths = rng.integers(2, words + 1, rows)
    x, y = on_gpu(predicted, gold)
    here, twin = kernels.select("cpu"), kernels.select(str(x.device), "cupy")
    truth = here.row_spearman(predicted, gold, lengths)

    def check(name, answer):
        found = answer.cpu().numpy() if torch.is_tensor(answer) else answer
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-12, err_msg=name)

    race(
        finished(lambda: twin.row_spearman(x, y, lengths)),
        {"copied to the CPU": lambda: here.row_spearman(x.cpu().numpy(), y.cpu().numpy(), lengths)},
        check,
        rounds=9,
        goals={"copied to the CPU": ("at least", 1)},
    )
