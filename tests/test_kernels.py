"""Every operation of every compiled backend against the float64 reference, on inputs that break kernels."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest

from bertft import kernels
from bertft.errors import BackendError, OptionError
from bertft.kernels import numba_cpu, reference
from bertft.kernels.types import Bins, Link

TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
"""Relative to the largest value of an answer: one product in the type of the rows, everything else in float64."""

LINKS = {
    "identity": ("dot", Link("identity", center=0.25)),
    "sqeuclidean": ("distance", Link("identity")),
    "euclidean": ("distance", Link("euclidean", center=1.5)),
    "rbf": ("distance", Link("rbf", gamma=0.02, center=0.3)),
}


@pytest.fixture(params=["numba", "numba-small"])
def ops(request, monkeypatch):
    """The operations of a compiled backend; -small: tiles so tiny that small inputs cross their edges."""
    name, _, small = request.param.partition("-")
    if small:
        monkeypatch.setattr(numba_cpu, "TILE", 16)
    return kernels.select("cpu", name)


def spaces(n, widths, dtype, seed=0):
    """Two spaces with what kernels trip over: duplicate rows, a constant row, an outlying dimension, an offset."""
    rng = np.random.default_rng(seed)
    pair = [rng.standard_normal((n, width)) + rng.standard_normal(width) * 3 for width in widths]
    for rows in pair:
        rows[:, 0] += 20
        if n > 6:
            rows[5], rows[6] = rows[2], 1.0
    return [rows.astype(dtype) for rows in pair]


def assert_close(found, expected, dtype):
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected)
    assert found.shape == expected.shape
    scale = np.abs(expected).max() if expected.size else 0.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale + 1e-300)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row_map", ["raw", "unit", "centred_unit"])
@pytest.mark.parametrize(("n", "widths"), [(1, (3, 5)), (3, (1, 2)), (7, (16, 17)), (65, (33, 70)), (500, (40, 24))])
def test_moments(ops, dtype, row_map, n, widths):
    x, y = spaces(n, widths, dtype)
    if row_map == "centred_unit":
        x[x.std(axis=1) == 0] += np.arange(widths[0], dtype=dtype)
        y[y.std(axis=1) == 0] += np.arange(widths[1], dtype=dtype)
        if min(widths) == 1:
            pytest.skip("a row of one number has no correlation")
    centers = [0.9 * reference.map_rows(rows, row_map).mean(axis=0) for rows in (x, y)]
    before = x.copy(), y.copy()
    found = ops.moments(x, y, *centers, row_map)
    for part, truth in zip(found, reference.moments(x, y, *centers, row_map), strict=True):
        assert_close(part, truth, dtype)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_without_a_value_have_nan_offsets(ops, dtype):
    x = np.random.default_rng(1).standard_normal((9, 12)).astype(dtype)
    x[2], x[4, 3], x[6] = 0.0, np.inf, 0.1
    x[8, 11] = np.nan
    for row_map, bad in (("raw", {4, 8}), ("unit", {2, 4, 8}), ("centred_unit", {2, 4, 6, 8})):
        for form in ("dot", "distance"):
            offsets = ops.shifted_rows(x, np.full(12, 0.01), row_map, form).offsets
            assert set(np.flatnonzero(np.isnan(offsets))) == bad


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("n", "widths"), [(3, (4, 4)), (17, (5, 16)), (33, (70, 9)), (120, (24, 33))])
def test_tiles(ops, dtype, link, n, widths):
    form, with_link = LINKS[link]
    x, y = spaces(n, widths, dtype)
    centers = [rows.astype(np.float64).mean(axis=0) for rows in (x, y)]
    # The rows as the backend shifted and rounded them, so that tiles alone are judged.
    given = [ops.shifted_rows(rows, center, "raw", form) for rows, center in zip((x, y), centers, strict=True)]
    links = with_link, with_link
    values = [reference.pair_values(rows, with_link) for rows in given]
    assert_close(ops.pair_values(given[0], with_link), values[0], dtype)
    assert_close(ops.gram_pearson(*given, *links), reference.gram_pearson(*given, *links), dtype)

    bins = [bins_between(v, np.array([0, 1, 4, 6, 7, 20, 21, 30, 64], dtype=np.int32)) for v in values]
    counts = [ops.pair_histogram(rows, with_link, edges) for rows, edges in zip(given, bins, strict=True)]
    for found, v, edges in zip(counts, values, bins, strict=True):
        assert found.sum() == n * (n - 1) // 2
        # A value within rounding of an edge may fall on either side of it.
        truth = np.bincount(reference.bin_of(v, edges), minlength=64)
        assert np.abs(np.cumsum(found) - np.cumsum(truth)).max() <= near_edges(v, edges, dtype)
    ranks = np.random.default_rng(2).standard_normal((2, 64))
    # Both passes must see the same bins, whatever rounding made of them: one space against its own indicator columns.
    for column in (0, 7, 40):
        indicator = (np.arange(64) == column).astype(np.float64)
        same = ops.pair_rank_products(given[0], given[0], *links, bins[0], bins[0], indicator, indicator)
        assert same == counts[0][column]
    if not any(near_edges(v, edges, dtype) for v, edges in zip(values, bins, strict=True)):
        found = ops.pair_rank_products(*given, *links, *bins, *ranks)
        assert found == pytest.approx(reference.pair_rank_products(*given, *links, *bins, *ranks), rel=1e-10, abs=1e-10)


def bins_between(values, first):
    low, high = values.min(), values.max()
    margin = 0.013 * (high - low) + 1e-6
    return Bins(low + margin, (len(first) - 1) / max(high - low - 2 * margin, 1e-6), first)


def near_edges(values, bins, dtype):
    cells = len(bins.first) - 1
    widths = np.diff(bins.first)
    edges = np.concatenate([cell + np.arange(width) / width for cell, width in zip(range(cells), widths, strict=True)])
    t = (values - bins.low) * bins.cells_per_unit
    slack = TOLERANCE[dtype] * np.abs(values).max() * bins.cells_per_unit * 10
    return int(sum((np.abs(t - edge) < slack).sum() for edge in edges[1:]))


@pytest.mark.equality
def test_duplicate_rows_are_exactly_zero_apart(ops):
    x = np.random.default_rng(3).standard_normal((40, 64)).astype(np.float32) * 100
    x[20:] = x[:20]
    rows = ops.shifted_rows(x, np.zeros(64), "raw", "distance")
    distances = np.zeros((40, 40))
    distances[np.triu_indices(40, 1)] = ops.pair_values(rows, Link("euclidean"))
    assert (np.diagonal(distances, 20) == 0).all()


@pytest.mark.equality
def test_the_same_input_gives_the_same_bits(ops):
    x, y = spaces(200, (40, 30), "float32")
    rows = [ops.shifted_rows(side, np.zeros(side.shape[1]), "unit", "dot") for side in (x, y)]
    first, second = (ops.gram_pearson(*rows, Link(), Link()) for _ in range(2))
    assert np.array_equal(first, second)
    first, second = (ops.moments(x, y, np.zeros(40), np.zeros(30), "unit") for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_one_signature_everywhere(operation):
    truth = inspect.signature(getattr(reference, operation))
    for backend in kernels.BACKENDS:
        if backend == "triton" and importlib.util.find_spec("triton") is None:
            continue
        if operation not in kernels._MODULES[backend]:
            with pytest.raises(BackendError, match=rf"{backend} has no {operation}, only reference, .*\.cpu\(\)"):
                getattr(kernels.Operations(backend), operation)
            continue
        found = inspect.signature(getattr(kernels.Operations(backend), operation))
        assert list(found.parameters) == list(truth.parameters), backend


def test_auto_takes_the_backend_of_the_cpu():
    assert kernels.choose("cpu") == "numba"


@pytest.mark.usefixtures("needs_triton")
def test_auto_takes_the_backend_of_the_gpu():
    assert kernels.choose("cuda:0") == "triton"


def test_a_backend_asked_for_serves_or_says_why():
    with pytest.raises(BackendError, match=r"'numba' cannot serve.*cuda:0.*computes on the CPU"):
        kernels.choose("cuda:0", "numba")
    with pytest.raises(OptionError, match="unknown backend 'opencl'; expected one of auto, reference, numba, triton"):
        kernels.choose("cpu", "opencl")


@pytest.mark.usefixtures("needs_triton")
def test_triton_on_the_cpu_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"the arrays are on the CPU; move them to a GPU"):
        kernels.choose("cpu", "triton")
