"""Time `rsa` called from several threads at once, against as many calls one after another, and compare the numbers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import competitors
import numpy as np
import pytest

from bertft import PairMoments, rsa

CALLERS = (1, 2, 8, 32)
TOLERANCE = 1e-7


def at_once(work, callers):
    """Return the answers of `work`, called from as many threads at the same time."""
    with ThreadPoolExecutor(callers) as pool:
        ready = threading.Barrier(callers)
        return list(pool.map(lambda _: (ready.wait(), work())[1], range(callers)))


def largest_error(truth):
    """Return a `check` for `race`: the largest error of the answers."""
    return lambda name, answers: max(abs(answer - truth) for answer in answers)


def race_of(race, work, callers, truth):
    alone = work()
    race(
        lambda: at_once(work, callers),
        {"one after another": lambda: [work() for _ in range(callers)]},
        largest_error(truth),
        tolerances=dict.fromkeys(("bertft", "one after another"), TOLERANCE),
        rounds=9 if callers < 32 else 3,
        goals={"one after another": ("at least", 0.9)},
        callers=callers,
        of_other_bits=sum(answer != alone for answer in at_once(work, callers)),
    )


@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.benchmark(group="cosine, Pearson, n = 2,000, calls at once")
def bench_moments(race, callers):
    """Time the path through moments. `of_other_bits` counts the answers that differ from that of a call alone."""
    x, y = competitors.spaces(2000)
    race_of(race, lambda: rsa(x, y), callers, competitors.dense_truth(x, y))


@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.benchmark(group="Euclidean, Pearson, n = 2,000, calls at once")
def bench_tiles(race, callers):
    """Time the path through tiles, in which every thread makes whole products."""
    x, y = competitors.spaces(2000)
    race_of(race, lambda: rsa(x, y, kernel="euclidean"), callers, competitors.dense_truth(x, y, "euclidean"))


@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.benchmark(group="one accumulator, 8 batches of 500 rows, callers at once")
def bench_one_accumulator(race, callers):
    """Time updates of one accumulator from several threads; each caller has an equal share of the batches."""
    x, y = competitors.spaces(4000)
    batches = np.array_split(np.arange(4000), 8)

    def accumulated(threads):
        moments = PairMoments(reservoir=0)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda rows: moments.update(x[rows], y[rows]), batches))
        return [moments.rsa()]

    race(
        lambda: accumulated(callers),
        {"one after another": lambda: accumulated(1)},
        largest_error(competitors.dense_truth(x, y)),
        tolerances=dict.fromkeys(("bertft", "one after another"), TOLERANCE),
        rounds=9,
        goals={"one after another": None},
        callers=callers,
    )
