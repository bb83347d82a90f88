"""Mutual nearest neighbours: exact on every path, with ties, at any scale; its standard error; rows that have none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_standard_errors import even

import bertft
from bertft import PairMoments, compare, mutual_knn
from bertft.errors import ArrayError, OptionError, UndefinedWarning
from bertft.kernels import core_neighbours, cpu_threads, torch_neighbours
from bertft.kernels.types import Rows
from bertft.measures import MEASURES, evaluate
from bertft.measures.mutual_knn import mutual_knn as measured
from bertft.statistics.reservoir import Sample


def neighbours(x, k):
    """The k rows of the largest cosines, those of lower numbers first among equal rows, by sorting whole lists."""
    x = np.asarray(x, dtype=np.float64)
    x = x / np.abs(x).max(axis=1, keepdims=True)
    lengths = [math.sqrt(math.fsum(row * row)) for row in x]
    found = []
    for i, row in enumerate(x):
        cosines = [(-float(round(math.fsum(row * other) / length, 13)), j) for j, (other, length) in
                   enumerate(zip(x, lengths, strict=True)) if j != i]  # fmt: skip
        found.append([j for _, j in sorted(cosines)[:k]])
    return np.array(found)


def share(x, y, k):
    pairs = zip(neighbours(x, k), neighbours(y, k), strict=True)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))


def rows_of(x, *, shift=0.0):
    """Rows as they are passed to kernels: unit rows less a center, in the type of x."""
    unit = np.asarray(x, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    center = shift * unit.mean(axis=0)
    return Rows((unit - center).astype(x.dtype), (unit - center) @ center)


def near(n, d, spread, seed=0):
    """Rows about a common direction: cosines near 1 - spread^2."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(d) + spread * rng.standard_normal((n, d))


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(core_neighbours, "TILE", 16)
    monkeypatch.setattr(cpu_threads, "INLINE", 0.0)
    monkeypatch.setattr(torch_neighbours, "BLOCK", 10)
    monkeypatch.setattr(torch_neighbours, "COLUMNS", 14)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "d", "k", "spread"), [(3, 1, 2, 1), (17, 5, 1, 1), (70, 33, 10, 1e-3), (121, 8, 40, 3)])
def test_neighbours_are_those_of_float64(backend, dtype, n, d, k, spread):
    x = near(n, d, spread, seed=n).astype(dtype)
    x[n // 2] = x[0]  # equal rows
    x[-1] = 4 * x[1]
    expected = neighbours(x, k)
    if backend == "cpu":
        found = core_neighbours.nearest_rows(x, rows_of(x, shift=0.9), k)
    else:
        rows = rows_of(x, shift=0.9)
        tensors = Rows(*(torch.from_numpy(part) for part in rows))
        found = torch_neighbours.nearest_rows(torch.from_numpy(x), tensors, k).numpy()
    assert np.array_equal(found, expected)


@pytest.mark.usefixtures("small_tiles")
def test_among_equal_rows_the_first_are_neighbours():
    x = np.repeat(near(3, 7, 1.0), 30, axis=0).astype(np.float32)[np.random.default_rng(0).permutation(90)]
    found = core_neighbours.nearest_rows(x, rows_of(x), 5)
    for i, row in enumerate(x):
        equal = [j for j in range(90) if j != i and np.array_equal(row, x[j])]
        assert found[i].tolist() == equal[:5]


@pytest.mark.usefixtures("small_tiles")
def test_rows_whose_products_are_below_the_precision_of_float32():
    """Products of rows so close to each other that float32 does not order them, with a row far from all."""
    x = near(80, 12, 3e-5)
    x[5] *= -1
    found = core_neighbours.nearest_rows(x, rows_of(x), 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i, row in enumerate(found):
        distances = np.square(unit - unit[i]).sum(axis=1)
        distances[i] = math.inf
        # A cosine in float64 tells squared distances apart to a few units of 1e-16.
        assert distances[row].max() <= np.partition(distances, 3)[3] + 5e-15


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_function_the_measure_and_the_accumulator_agree(dtype):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 9)).astype(dtype)
    y = (x[:, :7] + rng.standard_normal((60, 7))).astype(dtype)
    expected = share(x, y, 10)
    assert 0.2 < expected < 0.9
    assert mutual_knn(x, y) == pytest.approx(expected, abs=1e-12)
    assert mutual_knn(torch.from_numpy(x), torch.from_numpy(y), backend="reference") == pytest.approx(expected)
    assert mutual_knn(x, y, 3) == pytest.approx(share(x, y, 3), abs=1e-12)
    assert compare(x, y, ["mutual-knn", "rsa"])["mutual-knn"].value == pytest.approx(expected)
    halves = [PairMoments(rows=True).update(x[part], y[part]) for part in (slice(0, 25), slice(25, 60))]
    assert halves[0].merge(halves[1]).mutual_knn() == pytest.approx(expected)


def test_the_scale_of_rows_does_not_matter():
    x, y = near(40, 6, 1.0), near(40, 5, 1.0, seed=1)
    sizes = 10.0 ** np.random.default_rng(2).integers(-290, 290, (40, 1))
    assert mutual_knn(x * sizes, y) == pytest.approx(share(x, y, 10), abs=1e-12)


def test_rows_without_neighbours():
    x, y = near(20, 6, 1.0), near(20, 5, 1.0)
    for value, word in ((math.nan, "not finite"), (math.inf, "not finite"), (0.0, "all zeros")):
        bad = y.copy()
        bad[13] = value
        with pytest.raises(ArrayError, match=f"row 13 of y is {word}"):
            mutual_knn(x, bad)
    for k in (0, 20, 2.5):
        with pytest.raises(OptionError, match=r"^k is"):
            mutual_knn(x, y, k)
    with pytest.raises(ArrayError, match="rows"):
        mutual_knn(x, y[:19])
    with pytest.warns(UndefinedWarning, match="10 rows do not have 10"):
        assert math.isnan(compare(x[:10], y[:10], ["mutual-knn"])["mutual-knn"].value)
    with pytest.warns(UndefinedWarning, match="all pairs of y have the same"):
        assert math.isnan(mutual_knn(x, np.ones((20, 3)) * np.arange(1, 21)[:, None]))
    with pytest.raises(OptionError, match="rows=True"):
        PairMoments().update(x, y).mutual_knn()
    with pytest.raises(OptionError, match="all rows are kept"):
        PairMoments(rows=True).update(x, y).state()
    assert "mutual_knn" in bertft.__all__


def test_without_each_sentence_as_if_it_had_not_been_read():
    rng = np.random.default_rng(3)
    groups = np.sort(rng.integers(0, 14, 70))
    x = rng.standard_normal((70, 5)) + rng.standard_normal((14, 5))[groups]
    y = x + 0.5 * rng.standard_normal((70, 5))
    without = np.array([share(x[groups != group], y[groups != group], 10) for group in np.unique(groups)])
    expected = math.sqrt(np.square(without - without.mean()).sum() * (len(without) - 1) / len(without))
    found = measured(Sample(groups * 7, x, y, np.ones(70)))
    assert found == pytest.approx((share(x, y, 10), expected), abs=1e-12)


def test_the_standard_error_is_no_less_than_the_spread():
    rng, values, errors = np.random.default_rng(0), [], []
    for number in range(120):
        moments = PairMoments(rows=True, reservoir=0).update(*even(rng, 50))
        values.append(MEASURES["mutual-knn"].value(moments))
        if number < 40:
            errors.append(evaluate("mutual-knn", moments).stderr)
    ratio = np.mean(errors) / np.std(values, ddof=1)
    assert 0.95 < ratio < 1.6, ratio
    few = PairMoments(rows=True).update(*even(rng, 9))
    assert math.isnan(evaluate("mutual-knn", few).stderr)
