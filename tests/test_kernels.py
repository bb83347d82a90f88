"""Every operation of every compiled backend against the float64 reference, on inputs that are hard for kernels."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from kernel_cases import LINKS, SIZES, TOLERANCE, assert_close, hard_spaces, numpy_of, numpy_rows

from bertft import kernels
from bertft.errors import BackendError, OptionError
from bertft.kernels import reference
from bertft.kernels.types import Bins, Link, Rows

# NumPy warns where it interprets kernels of a GPU on rows without a value.
RUNS_ON_BAD_ROWS = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")


def centres_of(rows, row_map):
    """Return centers near the means of the mapped rows."""
    return [0.9 * reference.map_rows(side, row_map).mean(axis=0) for side in rows]


@pytest.mark.parametrize("row_map", ["raw", "unit", "centred_unit"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("float32", "n3"),
        ("float32", "n65"),
        ("float64", "n17"),
        ("float64", "n33"),
        ("float16", "n33"),
        ("bfloat16", "n17"),
    ],
)
def test_moments(compiled, dtype, size, row_map):
    if dtype in ("float16", "bfloat16") and compiled.name == "cpu":
        pytest.skip("half precisions are widened before they reach the kernels of the CPU")
    n, widths = SIZES[size]
    given = hard_spaces(n, widths)
    if row_map == "centred_unit" and n > 6:
        for rows in given:
            rows[6] = np.arange(rows.shape[1])
    given = [compiled.array(rows, dtype) for rows in given]
    exact = [numpy_of(rows) for rows in given]
    centers = centres_of(exact, row_map)
    found = compiled.ops.moments(*given, *centers, row_map)
    truth = reference.moments(*exact, *centers, row_map)
    for name, part, expected in zip(found._fields, found, truth, strict=True):
        assert str(part.dtype).endswith("float64")
        assert_close(part, expected, "row_products" if name in ("xx", "xy", "yy") else "row_sums", dtype)
    for square in (found.xx, found.yy):
        assert np.array_equal(numpy_of(square), numpy_of(square).T)
    for rows, before in zip(given, exact, strict=True):
        assert np.array_equal(numpy_of(rows), before)


@pytest.mark.parametrize("row_map", ["raw", "unit", "centred_unit"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_of_several_y(compiled, dtype, row_map):
    x, *ys = hard_spaces(33, (16, 5, 40, 16), seed=1)
    for rows in (x, *ys):
        rows[6] = np.arange(rows.shape[1])
    x, ys = compiled.array(x, dtype), [compiled.array(rows, dtype) for rows in ys]
    x_center, *y_centers = centres_of([numpy_of(rows) for rows in (x, *ys)], row_map)
    found = compiled.ops.shared_moments(x, ys, x_center, y_centers, row_map)
    truth = reference.shared_moments(numpy_of(x), [numpy_of(y) for y in ys], x_center, y_centers, row_map)
    assert len(found) == len(truth) == 3
    for sums, expected_sums in zip(found, truth, strict=True):
        for name, part, expected in zip(sums._fields, sums, expected_sums, strict=True):
            assert_close(part, expected, "row_products" if name in ("xx", "xy", "yy") else "row_sums", dtype)


def test_moments_of_one_row(compiled):
    x, y = (compiled.array(rows) for rows in hard_spaces(1, (3, 5)))
    centers = np.full(3, 0.1), np.full(5, 0.2)
    found, truth = (ops(*sides, *centers, "unit") for ops, sides in ((compiled.ops.moments, (x, y)),
                    (reference.moments, (numpy_of(x), numpy_of(y)))))  # fmt: skip
    for part, expected in zip(found, truth, strict=True):
        assert_close(part, expected, "row_sums", "float64")


@pytest.mark.parametrize("form", ["dot", "distance"])
@pytest.mark.parametrize("row_map", ["raw", "unit", "centred_unit"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shifted_rows(compiled, dtype, row_map, form):
    (x,) = hard_spaces(33, (70,))
    x[6] = np.arange(70)
    given = compiled.array(x, dtype)
    (center,) = centres_of([numpy_of(given)], row_map)
    found, truth = compiled.ops.shifted_rows(given, center, row_map, form), reference.shifted_rows(
        numpy_of(given), center, row_map, form
    )  # fmt: skip
    assert str(found.vectors.dtype).endswith(dtype)
    assert_close(found.vectors, truth.vectors, "shifted_rows", dtype)
    assert_close(found.offsets, truth.offsets, "row_sums", dtype)


@RUNS_ON_BAD_ROWS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_without_a_value_are_nan_to_the_end(compiled, dtype):
    x = np.random.default_rng(5).standard_normal((19, 12))
    x[2], x[4, 3], x[16], x[18, 11] = 0.0, np.inf, 0.1, np.nan
    x, good = compiled.array(x, dtype), compiled.array(hard_spaces(19, (7,))[0], dtype)
    ops, center, zeros = compiled.ops, np.full(12, 0.01), np.zeros(7)
    for row_map, bad, link_name in (
        ("raw", {4, 18}, "euclidean"),
        ("unit", {2, 4, 18}, "identity"),
        ("centred_unit", {2, 4, 16, 18}, "rbf"),
    ):
        for form in ("dot", "distance"):
            offsets = numpy_of(ops.shifted_rows(x, center, row_map, form).offsets)
            assert set(np.flatnonzero(np.isnan(offsets))) == bad
        form, link = LINKS[link_name]
        rows = ops.shifted_rows(x, center, row_map, form)
        y = ops.shifted_rows(good, zeros, "raw", form)
        assert np.isnan(numpy_of(ops.gram_pearson(rows, y, link, link))[[0, 2, 4]]).all()
        assert np.isnan(numpy_of(ops.moments(x, good, center, zeros, row_map).scalars)[0, 1])


def rows_of(backend, x, form, dtype):
    """Return rows as a backend is given them: shifted in float64 and rounded to their type."""
    vectors, offsets = reference.shifted_rows(x, x.mean(axis=0), "raw", form)
    return Rows(backend.array(vectors, dtype), backend.array(offsets))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "link_name"), [(size, "identity") for size in SIZES] + [("n17", name) for name in [*LINKS][1:]]
)
def test_gram_pearson(compiled, dtype, size, link_name):
    n, widths = SIZES[size]
    form, link = LINKS[link_name]
    given = [rows_of(compiled, x, form, dtype) for x in hard_spaces(n, widths)]
    links = link, Link()
    truth = reference.gram_pearson(*map(numpy_rows, given), *links)
    assert_close(compiled.ops.gram_pearson(*given, *links), truth, "gram_pearson", dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("link_name", LINKS)
def test_pair_values(compiled, dtype, link_name):
    form, link = LINKS[link_name]
    rows = rows_of(compiled, hard_spaces(33, (16,))[0], form, dtype)
    truth = reference.pair_values(numpy_rows(rows), link)
    assert_close(compiled.ops.pair_values(rows, link), truth, "pair_values", dtype)


def bins_between(backend, values):
    """Return bins of unequal width that leave out the ends of the values."""
    first = np.array([0, 1, 4, 6, 7, 20, 21, 30, 64], dtype=np.int32)
    margin = 0.0131 * (values.max() - values.min())
    low, high = values.min() + margin, values.max() - margin
    return Bins(low, (len(first) - 1) / (high - low), backend.array(first))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "link_name"), [("n3", "identity"), *(("n17", name) for name in LINKS)])
def test_bins(compiled, dtype, size, link_name):
    n, widths = SIZES[size]
    form, link = LINKS[link_name]
    ops = compiled.ops
    given = [rows_of(compiled, x, form, dtype) for x in hard_spaces(n, widths)]
    values = [reference.pair_values(numpy_rows(rows), link) for rows in given]
    bins = [bins_between(compiled, v) for v in values]
    counts = ops.pair_histogram(given[0], link, bins[0])
    assert str(counts.dtype).endswith("int64")
    counts = numpy_of(counts)
    assert counts.sum() == n * (n - 1) // 2

    # The bin grows with the value, so moving every value by its rounding error brackets the running counts.
    numpy_bins = [b._replace(first=numpy_of(b.first).astype(np.int32)) for b in bins]
    slack = 5 * TOLERANCE["pair_values"][dtype] * (np.abs(values[0]).max() + abs(link.center))
    running = np.cumsum(counts)
    above, below = (
        np.cumsum(np.bincount(reference.bin_of(values[0] + shift, numpy_bins[0]), minlength=64))
        for shift in (slack, -slack)
    )
    assert (above <= running).all()
    assert (running <= below).all()

    # The second pass must find the bins of the first, whatever rounding made of them.
    ranks = np.random.default_rng(4).standard_normal((2, 64))
    tables = [compiled.array(r) for r in ranks]
    same = ops.pair_rank_products(given[0], given[0], link, link, bins[0], bins[0], tables[0], tables[0])
    assert same == pytest.approx(float(counts @ ranks[0] ** 2), rel=1e-12)

    found = ops.pair_rank_products(*given, link, link, *bins, *tables)
    unsure = sum(
        np.count_nonzero(reference.bin_of(v + slack, b) != reference.bin_of(v - slack, b))
        for v, b in zip(values, numpy_bins, strict=True)
    )
    truth = reference.pair_rank_products(*map(numpy_rows, given), link, link, *numpy_bins, *ranks)
    assert abs(found - truth) <= 2 * unsure * np.abs(ranks[0]).max() * np.abs(ranks[1]).max() + 1e-11


@pytest.mark.equality
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_duplicate_rows_are_exactly_zero_apart(compiled, dtype):
    x = np.random.default_rng(3).standard_normal((40, 64)) * 100
    x[20:] = x[:20]
    rows = compiled.ops.shifted_rows(compiled.array(x, dtype), np.zeros(64), "raw", "distance")
    distances = np.zeros((40, 40))
    distances[np.triu_indices(40, 1)] = numpy_of(compiled.ops.pair_values(rows, Link("euclidean")))
    assert (np.diagonal(distances, 20) == 0).all()


@pytest.mark.equality
def test_the_same_input_gives_the_same_bits(compiled):
    # The interpreter of the GPU's kernels multiplies with NumPy, in memory that is not aligned.
    tolerance = 1e-6 if (compiled.name, compiled.device) == ("gpu", "cpu") else 0.0
    ops, given = compiled.ops, [compiled.array(rows, "float32") for rows in hard_spaces(33, (33, 16))]
    centers = np.zeros(33), np.zeros(16)
    rows = [ops.shifted_rows(side, center, "unit", "dot") for side, center in zip(given, centers, strict=True)]
    first, second = (numpy_of(ops.gram_pearson(*rows, Link(), Link())) for _ in range(2))
    np.testing.assert_allclose(second, first, rtol=tolerance, atol=tolerance)
    first, second = (ops.moments(*given, *centers, "unit") for _ in range(2))
    for part, again in zip(first, second, strict=True):
        np.testing.assert_allclose(numpy_of(again), numpy_of(part), rtol=tolerance, atol=tolerance)


def test_many_rows_are_multiplied_in_parts():
    """Enough rows that the CPU cuts a product in two, and that threads share the work."""
    x, y = (rows.astype(np.float32) for rows in hard_spaces(2500, (40, 24)))
    centers = centres_of((x, y), "unit")
    found = kernels.select("cpu").moments(x, y, *centers, "unit")
    for part, expected in zip(found, reference.moments(x, y, *centers, "unit"), strict=True):
        assert_close(part, expected, "row_products", "float32")


def test_tied_ranks(compiled):
    rng = np.random.default_rng(6)
    for values in (rng.standard_normal(50), rng.integers(0, 7, 200) / 7.0, np.ones(4), np.array([2.0])):
        found = compiled.ops.tied_ranks(compiled.array(values))
        assert_close(found, reference.tied_ranks(values), "ranks", "float64", least=0.0)


@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_one_signature_everywhere(operation, monkeypatch):
    truth = inspect.signature(getattr(reference, operation))
    for backend, device in (("reference", "cpu"), ("cpu", "cpu"), ("gpu", "cuda:0")):
        if backend == "gpu":
            pytest.importorskip("triton", reason="Triton is not installed")
            monkeypatch.setattr(kernels, "_missing", lambda *_: None)
        if backend not in kernels.refusals(device, operation):
            with pytest.raises(BackendError, match=rf"'{backend}' has no {operation}, only reference, .*\.cpu\(\)"):
                getattr(kernels.Operations(backend, device), operation)
            continue
        found = inspect.signature(getattr(kernels.Operations(backend, device), operation))
        assert list(found.parameters) == list(truth.parameters), backend


def test_auto_takes_the_backend_of_the_cpu():
    assert kernels.choose("cpu") == "cpu"


@pytest.mark.usefixtures("needs_triton")
def test_auto_takes_the_backend_of_the_gpu():
    assert kernels.choose("cuda:0") == "gpu"


def test_a_backend_asked_for_serves_or_says_why():
    with pytest.raises(BackendError, match=r"'cpu' cannot serve.*cuda:0.*computes on the CPU"):
        kernels.choose("cuda:0", "cpu")
    for unknown in ("opencl", None, ["cpu"]):
        with pytest.raises(OptionError, match=r"unknown backend .*; expected one of auto, reference, cpu, gpu"):
            kernels.choose("cpu", unknown)


@pytest.mark.usefixtures("needs_triton")
def test_the_backend_of_the_gpu_says_why_it_cannot_serve_the_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"the arrays are on the CPU; move them to a GPU"):
        kernels.choose("cpu", "gpu")


@pytest.mark.usefixtures("needs_triton")
def test_former_names_of_backends_still_serve(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for former, name in (("numba", "cpu"), ("triton", "gpu"), ("cupy", "gpu")):
        assert kernels.choose("cpu", former) == name
