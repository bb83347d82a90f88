"""The GPU backend against the float64 reference, in normal and in tiny tiles: interpreted unless there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is absent; it is made for Linux: pip install .[gpu]")

import triton
import triton.language as tl

from bertft.kernels import reference, torch_ranks, triton_moments, triton_tiles
from bertft.kernels.triton_tiles import Tile, triangle_strip
from bertft.kernels.types import Bins, Link, Rows

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Relative to the largest number of an answer."""

LINKS = {
    "identity": ("dot", Link("identity", center=0.25)),
    "euclidean": ("distance", Link("euclidean", center=3.5)),
    "rbf": ("distance", Link("rbf", gamma=0.02, center=0.3)),
}
SIZES = {"n3": (3, (5, 16)), "n17": (17, (33, 70)), "n33": (33, (16, 5)), "n65": (65, (70, 33))}


@pytest.fixture(scope="module")
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["normal", "tiny"])
def tiles(request, monkeypatch):
    """Tiny: tiles, groups, launches and spans so small that these inputs cross the edges of all of them."""
    if request.param == "tiny":
        for name in triton_tiles.TILES:
            monkeypatch.setitem(triton_tiles.TILES, name, Tile(16, 8 if name == "float64" else 16, 16, 4, 2))
        monkeypatch.setattr(triton_tiles, "GROUP", 2)
        monkeypatch.setattr(triton_tiles, "SLAB", 23)
        monkeypatch.setattr(triton_moments, "SPAN", 32)
        monkeypatch.setattr(triton_moments, "SHORTEST", 16)


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fresh memory is full of nan, so that reading what no kernel wrote shows."""

    def poisoned(make):
        return lambda *args, **kwargs: make(*args, **kwargs).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))


def spaces(n, widths, seed=0):
    """Two spaces with what kernels trip over: equal rows, whole numbers, a constant row, an outlying column."""
    rng = np.random.default_rng(seed)
    pair = [rng.standard_normal((n, width)) + 3 * rng.standard_normal(width) for width in widths]
    for rows in pair:
        rows[:, 0] += 20
        rows[n // 2 :: 3] = np.round(rows[n // 2 :: 3])
        if n > 6:
            rows[5], rows[6] = rows[2], 1.0
    return pair


def rows_of(x, form, dtype, device):
    """Rows as the backend is given them: shifted in float64, rounded to its type."""
    vectors, offsets = reference.shifted_rows(x, x.mean(axis=0), "raw", form)
    return Rows(torch.as_tensor(vectors, dtype=dtype, device=device), torch.as_tensor(offsets, device=device))


def on_host(rows):
    return Rows(*(part.double().cpu().numpy() for part in rows))


def assert_close(found, expected, tolerance, floor=1e-300):
    found, expected = np.asarray(torch.as_tensor(found).double().cpu()), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max() + floor)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("size", "name"), [(size, "identity") for size in SIZES] + [("n33", "euclidean"), ("n33", "rbf")]
)
def test_gram_pearson(tiles, device, dtype, size, name):
    n, widths = SIZES[size]
    form, link = LINKS[name]
    x, y = (rows_of(rows, form, dtype, device) for rows in spaces(n, widths))
    found = triton_tiles.gram_pearson(x, y, link, Link())
    assert_close(found, reference.gram_pearson(on_host(x), on_host(y), link, Link()), TOLERANCE[dtype])


def test_spaces_of_two_types_are_compared_in_the_wider(device):
    x, y = spaces(17, (5, 9))
    x, y = rows_of(x, "dot", torch.float32, device), rows_of(y, "dot", torch.float64, device)
    found = triton_tiles.gram_pearson(x, y, Link(), Link())
    assert_close(found, reference.gram_pearson(on_host(x), on_host(y), Link(), Link()), 1e-12)


def test_rows_of_any_magnitude(tiles, device):
    """A float16 holds 2^-24 to 65504, so float32 rows must be scaled on their way to it."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20, 24)) * 10.0 ** np.linspace(-18, 8, 20)[:, None]
    vectors = torch.as_tensor(x, dtype=torch.float32, device=device)
    rows = Rows(vectors, torch.zeros(20, dtype=torch.float64, device=device))
    for i in (0, 9, 18):  # pairs of rows, so that the small ones are not lost in the sum
        pair = Rows(rows.vectors[i : i + 2], rows.offsets[i : i + 2])
        found = triton_tiles.gram_pearson(pair, pair, Link(), Link())[0]
        norms = np.linalg.norm(x[i]) * np.linalg.norm(x[i + 1])
        assert abs(float(found) - x[i] @ x[i + 1]) < 1e-6 * norms


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_nearly_equal_cosines_keep_their_digits(tiles, device, dtype):
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal(width) + 1e-3 * rng.standard_normal((40, width)) for width in (48, 20))
    given = [torch.as_tensor(rows, dtype=dtype, device=device) for rows in (x, y)]
    unit = [reference.map_rows(rows.double().cpu().numpy(), "unit") for rows in given]
    assert (unit[0] @ unit[0].T).mean() > 0.999998
    centers = [rows.mean(axis=0) for rows in unit]
    dense = np.corrcoef(*[(rows @ rows.T)[np.triu_indices(40, 1)] for rows in unit])[0, 1]
    made = [triton_moments.shifted_rows(rows, c, "unit", "dot") for rows, c in zip(given, centers, strict=True)]
    f, g, ff, gg, fg = triton_tiles.gram_pearson(*made, Link(), Link()).tolist()
    pairs = 40 * 39 / 2
    found = (fg - f * g / pairs) / ((ff - f * f / pairs) * (gg - g * g / pairs)) ** 0.5
    assert found == pytest.approx(dense, abs=3e-7)
    # and the moments about the same centers
    sums = triton_moments.moments(*given, *centers, "unit")
    truth = reference.moments(*[rows.double().cpu().numpy() for rows in given], *centers, "unit")
    for part, expected in zip(sums, truth, strict=True):
        # Differences of numbers near 1 are good to 1e-16, and 40 of them are added.
        assert_close(part, expected, TOLERANCE[dtype], floor=1e-14)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equal_rows_are_exactly_zero_apart(tiles, device, dtype):
    x = np.random.default_rng(3).standard_normal((1, 40)).repeat(35, axis=0) * 100
    rows = Rows(
        torch.as_tensor(x, dtype=dtype, device=device),
        torch.as_tensor(-0.5 * np.square(x).sum(axis=1), device=device),
    )
    assert triton_tiles.gram_pearson(rows, rows, Link("euclidean"), Link("euclidean")).tolist() == [0.0] * 5
    assert triton_tiles.gram_pearson(rows, rows, Link("rbf"), Link("rbf")).tolist() == [35 * 34 / 2] * 5


def bins_between(values, device):
    first = np.array([0, 1, 4, 6, 7, 20, 21, 30, 64], dtype=np.int32)
    margin = 0.0131 * (values.max() - values.min())
    low, high = values.min() + margin, values.max() - margin
    return Bins(low, (len(first) - 1) / (high - low), torch.as_tensor(first, device=device))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("size", "name"), [("n3", "identity"), ("n33", "euclidean"), ("n33", "rbf"), ("n33", "identity")]
)
def test_bins(tiles, device, dtype, size, name):
    n, widths = SIZES[size]
    form, link = LINKS[name]
    given = [rows_of(rows, form, dtype, device) for rows in spaces(n, widths)]
    values = [reference.pair_values(on_host(rows), link) for rows in given]
    bins = [bins_between(v, device) for v in values]
    counts = triton_tiles.pair_histogram(given[0], link, bins[0])
    assert counts.dtype == torch.int64
    assert int(counts.sum()) == n * (n - 1) // 2

    # The bin grows with the value, so moving every value by its rounding error brackets the running counts.
    host_bins = [b._replace(first=b.first.cpu().numpy()) for b in bins]
    slack = 5 * TOLERANCE[dtype] * (np.abs(values[0]).max() + abs(link.center))
    running = np.cumsum(counts.cpu().numpy())
    above, below = (
        np.cumsum(np.bincount(reference.bin_of(values[0] + shift, host_bins[0]), minlength=64))
        for shift in (slack, -slack)
    )
    assert (above <= running).all()
    assert (running <= below).all()

    # The second pass must find the bins of the first, whatever rounding made of them.
    ranks = np.random.default_rng(4).standard_normal((2, 64))
    tables = [torch.as_tensor(r, device=device) for r in ranks]
    same = triton_tiles.pair_rank_products(given[0], given[0], link, link, bins[0], bins[0], tables[0], tables[0])
    assert same == pytest.approx(float(counts.double().cpu().numpy() @ ranks[0] ** 2), rel=1e-12)

    found = triton_tiles.pair_rank_products(*given, link, link, *bins, *tables)
    unsure = sum(
        np.count_nonzero(reference.bin_of(v + slack, b) != reference.bin_of(v - slack, b))
        for v, b in zip(values, host_bins, strict=True)
    )
    truth = reference.pair_rank_products(*map(on_host, given), link, link, *host_bins, *ranks)
    assert abs(found - truth) <= 2 * unsure * np.abs(ranks[0]).max() * np.abs(ranks[1]).max() + 1e-11


@pytest.mark.parametrize("row_map", ["raw", "unit", "centred_unit"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float16, "n33"),
        (torch.bfloat16, "n17"),
        (torch.float32, "n3"),
        (torch.float32, "n65"),
        (torch.float64, "n33"),
    ],
    ids=str,
)
def test_moments(tiles, device, dtype, size, row_map):
    n, widths = SIZES[size]
    given = [torch.as_tensor(rows, device=device).to(dtype) for rows in spaces(n, widths)]
    for rows in given:
        if row_map == "centred_unit" and n > 6:
            rows[6] = torch.arange(rows.shape[1])
    exact = [rows.double().cpu().numpy() for rows in given]
    centers = [0.9 * reference.map_rows(rows, row_map).mean(axis=0) for rows in exact]
    found = triton_moments.moments(*given, *centers, row_map)
    truth = reference.moments(*exact, *centers, row_map)
    tolerance = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
    for name, part, expected in zip(found._fields, found, truth, strict=True):
        assert part.dtype == torch.float64
        # Only the products are rounded.
        assert_close(part, expected, tolerance if name in ("xx", "xy", "yy") else 1e-13)
    assert torch.equal(found.xx, found.xx.T)
    assert torch.equal(found.yy, found.yy.T)


@pytest.mark.parametrize("form", ["dot", "distance"])
def test_shifted_rows_of_any_stride(device, form):
    x = spaces(33, (70,))[0]
    x[6] = np.arange(70)
    center = x.mean(axis=0)
    truth = reference.shifted_rows(x, center, "centred_unit", form)
    given = torch.as_tensor(np.repeat(x, 2, axis=0), device=device)[::2].T.contiguous().T
    found = triton_moments.shifted_rows(given, center, "centred_unit", form)
    assert_close(found.vectors, truth.vectors, 1e-13)
    assert_close(found.offsets, truth.offsets, 1e-13)
    half = triton_moments.shifted_rows(given.half(), center, "raw", form)
    assert half.vectors.dtype == torch.float32
    assert half.offsets.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # as NumPy interprets kernels
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_without_a_value_are_nan_to_the_end(device, dtype):
    x = np.random.default_rng(5).standard_normal((19, 12))
    x[2], x[4, 3], x[16], x[18, 11] = 0.0, np.inf, 0.1, np.nan
    x = torch.as_tensor(x, dtype=dtype, device=device)
    good = torch.as_tensor(spaces(19, (7,))[0], dtype=dtype, device=device)
    zeros = np.zeros(7)
    for row_map, bad, (form, link) in (
        ("raw", {4, 18}, LINKS["euclidean"]),
        ("unit", {2, 4, 18}, LINKS["identity"]),
        ("centred_unit", {2, 4, 16, 18}, LINKS["rbf"]),
    ):
        rows = triton_moments.shifted_rows(x, np.full(12, 0.01), row_map, form)
        assert set(np.flatnonzero(rows.offsets.isnan().cpu().numpy())) == bad
        y = triton_moments.shifted_rows(good, zeros, "raw", form)
        assert triton_tiles.gram_pearson(rows, y, link, link)[[0, 2, 4]].isnan().all()
        sums = triton_moments.moments(x, good, np.full(12, 0.01), zeros, row_map)
        assert sums.scalars[0, 1].isnan()


def test_the_same_input_gives_the_same_bits(device):
    """On a GPU; interpreted, NumPy makes the products, in memory that begins anywhere."""
    tolerance = 0.0 if device == "cuda" else 1e-6
    given = [torch.as_tensor(rows, dtype=torch.float32, device=device) for rows in spaces(33, (33, 16))]
    centers = np.zeros(33), np.zeros(16)
    first, second = (triton_moments.moments(*given, *centers, "unit") for _ in range(2))
    for part, again in zip(first, second, strict=True):
        torch.testing.assert_close(again, part, rtol=tolerance, atol=tolerance)
    rows = [triton_moments.shifted_rows(x, c, "unit", "dot") for x, c in zip(given, centers, strict=True)]
    first, second = (triton_tiles.gram_pearson(*rows, Link(), Link()) for _ in range(2))
    torch.testing.assert_close(second, first, rtol=tolerance, atol=tolerance)


@triton.jit(do_not_specialize=["start"])
def walk_kernel(out_ptr, start, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    program = tl.program_id(0)
    first_i, first_j = triangle_strip(start + program.to(tl.int64), BLOCK, COLUMNS, GROUP)
    tl.store(out_ptr + 2 * program, first_i)
    tl.store(out_ptr + 2 * program + 1, first_j)


def walked(start, count, device, *shape):
    out = torch.full((count, 2), -1, dtype=torch.int64, device=device)
    walk_kernel[(count,)](out, start, *shape)
    return out.cpu().numpy()


def test_the_walk_meets_every_strip_of_the_triangle_once(device):
    groups = 4
    met = walked(0, groups * (groups + 1) // 2 * 9 * 2, device, 32, 16, 3)
    assert len({tuple(strip) for strip in met}) == len(met)
    side = groups * 3 * 32
    wanted = {(i, j) for i in range(0, side, 32) for j in range(0, side, 16) if j + 16 > i}
    assert wanted <= {tuple(strip) for strip in met}


def test_the_walk_is_exact_far_out(device):
    """Group q = J (J + 1) / 2 + I, at the ends of its column, where a rounded root would be one off."""
    for column in (2**20, 94906267, 2**31 - 1):
        start = column * (column + 1) // 2
        assert walked(start - 1, 2, device, 16, 16, 1).tolist() == [
            [16 * (column - 1), 16 * (column - 1)],
            [0, 16 * column],
        ]


def test_scales_are_exact_inverse_powers_of_two():
    largest = torch.tensor([0.0, 1e-45, 1e-38, 2.0**-113, 0.99, 1.0, 65504.0, 3.4e38])
    scale, shrink = triton_tiles.power_of_two_scales(largest)
    assert (scale * shrink == 1.0).all()
    assert (torch.frexp(scale).mantissa == 0.5).all()
    scaled = (largest.double() * scale.double())[3:]
    assert ((scaled >= 2.0**13) & (scaled < 2.0**14)).all()


@pytest.mark.parametrize("name", LINKS)
def test_all_pairs_at_once(device, name, monkeypatch):
    monkeypatch.setattr(torch_ranks, "BLOCK", 10)
    form, link = LINKS[name]
    rows = rows_of(spaces(33, (16,))[0], form, torch.float32, device)
    found = torch_ranks.pair_values(rows, link)
    assert_close(found, reference.pair_values(on_host(rows), link), 1e-14)


def test_tied_ranks(device):
    rng = np.random.default_rng(6)
    for values in (rng.standard_normal(50), rng.integers(0, 7, 200) / 7.0, np.ones(4), np.array([2.0])):
        found = torch_ranks.tied_ranks(torch.as_tensor(values, device=device))
        assert np.array_equal(found.cpu().numpy(), reference.tied_ranks(values))
    assert torch_ranks.tied_ranks(torch.tensor([1.0, torch.nan, 0.0], dtype=torch.float64, device=device)).isnan().all()
