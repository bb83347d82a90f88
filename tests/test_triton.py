"""What only the Triton kernels do, in normal and in small tiles: interpreted unless there is a GPU.

`test_kernels.py` compares them with the reference beside the other backends.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_cases import assert_close, hard_spaces, numpy_of, numpy_rows, serving

from bertft.kernels import reference
from bertft.kernels.types import Link, Rows

triton = pytest.importorskip("triton", reason="Triton is not installed; it is made for Linux: pip install .[gpu]")

import triton.language as tl  # noqa: E402

from bertft.kernels import triton_gram, triton_moments, triton_tiles  # noqa: E402
from bertft.kernels.triton_gram import triangle_strip  # noqa: E402

DTYPES = (torch.float32, torch.float64)


@pytest.fixture(params=["gpu", "gpu-small"])
def device(request, monkeypatch):
    """The device of the backend, with tiles of normal size and with small ones."""
    return serving(request.param, monkeypatch).device


def rows_of(x, dtype, device):
    """Return rows as the backend is given them: shifted in float64 and rounded to their type."""
    vectors, offsets = reference.shifted_rows(x, x.mean(axis=0), "raw", "dot")
    return Rows(torch.as_tensor(vectors, dtype=dtype, device=device), torch.as_tensor(offsets, device=device))


def test_spaces_of_two_types_are_compared_in_the_wider(device):
    x, y = hard_spaces(17, (5, 9))
    x, y = rows_of(x, torch.float32, device), rows_of(y, torch.float64, device)
    found = triton_tiles.gram_pearson(x, y, Link(), Link())
    truth = reference.gram_pearson(numpy_rows(x), numpy_rows(y), Link(), Link())
    assert_close(found, truth, "gram_pearson", "float64")


def test_rows_of_any_magnitude(device):
    """A float16 number is between 2^-24 and 65504, so float32 rows must be scaled."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20, 24)) * 10.0 ** np.linspace(-18, 8, 20)[:, None]
    vectors = torch.as_tensor(x, dtype=torch.float32, device=device)
    rows = Rows(vectors, torch.zeros(20, dtype=torch.float64, device=device))
    for i in (0, 9, 18):  # pairs of rows, so that the small ones are not lost in the sum
        pair = Rows(rows.vectors[i : i + 2], rows.offsets[i : i + 2])
        found = triton_tiles.gram_pearson(pair, pair, Link(), Link())[0]
        norms = np.linalg.norm(x[i]) * np.linalg.norm(x[i + 1])
        assert abs(float(found) - x[i] @ x[i + 1]) < 1e-6 * norms


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nearly_equal_cosines_keep_their_digits(device, dtype):
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal(width) + 1e-3 * rng.standard_normal((40, width)) for width in (48, 20))
    given = [torch.as_tensor(rows, dtype=dtype, device=device) for rows in (x, y)]
    unit = [reference.map_rows(numpy_of(rows), "unit") for rows in given]
    assert (unit[0] @ unit[0].T).mean() > 0.999998
    centers = [rows.mean(axis=0) for rows in unit]
    made = [triton_moments.shifted_rows(rows, c, "unit", "dot") for rows, c in zip(given, centers, strict=True)]
    f, g, ff, gg, fg = triton_tiles.gram_pearson(*made, Link(), Link()).tolist()
    pairs = 40 * 39 / 2
    found = (fg - f * g / pairs) / ((ff - f * f / pairs) * (gg - g * g / pairs)) ** 0.5
    assert found == pytest.approx(reference.rsa(*unit), abs=3e-7)
    # The moments about the same centers.
    sums = triton_moments.moments(*given, *centers, "unit")
    truth = reference.moments(*[numpy_of(rows) for rows in given], *centers, "unit")
    for part, expected in zip(sums, truth, strict=True):
        # Differences of numbers near 1 are good to 1e-16, and 40 of them are added.
        assert_close(part, expected, "row_products", str(dtype).removeprefix("torch."), least=1e-14)


@pytest.mark.equality
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_rows_are_zero_apart(device, dtype):
    x = np.random.default_rng(3).standard_normal((1, 40)).repeat(35, axis=0) * 100
    rows = Rows(
        torch.as_tensor(x, dtype=dtype, device=device),
        torch.as_tensor(-0.5 * np.square(x).sum(axis=1), device=device),
    )
    pairs, square = 35 * 34 / 2, 0.0
    if device != "cuda":
        # A GPU computes every element of a tile alike, so equal rows are exactly 0 apart. The interpreter multiplies
        # tiles with NumPy, whose BLAS sums in an order that depends on the position in the tile, so the products of
        # equal rows differ by some units in the last place, of at most eps |u|^2 each. A squared distance,
        # (u_i.u_i - u_i.u_j) + (u_j.u_j - u_i.u_j), is the sum of two such differences; four units are allowed in each.
        square = 2 * 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps * (x[0] @ x[0])
    euclidean = numpy_of(triton_tiles.gram_pearson(rows, rows, Link("euclidean"), Link("euclidean")))
    assert (euclidean >= 0).all()
    assert (euclidean[:2] <= pairs * np.sqrt(square)).all()
    assert (euclidean[2:] <= pairs * square).all()
    rbf = numpy_of(triton_tiles.gram_pearson(rows, rows, Link("rbf", gamma=1.0), Link("rbf", gamma=1.0)))
    assert (rbf <= pairs).all()
    assert (rbf[:2] >= pairs * np.exp(-square)).all()
    assert (rbf[2:] >= pairs * np.exp(-2 * square)).all()


@pytest.mark.parametrize("form", ["dot", "distance"])
def test_shifted_rows_of_any_stride(device, form):
    x = hard_spaces(33, (70,))[0]
    x[6] = np.arange(70)
    center = x.mean(axis=0)
    truth = reference.shifted_rows(x, center, "centred_unit", form)
    given = torch.as_tensor(np.repeat(x, 2, axis=0), device=device)[::2].T.contiguous().T
    found = triton_moments.shifted_rows(given, center, "centred_unit", form)
    assert_close(found.vectors, truth.vectors, "shifted_rows", "float64")
    assert_close(found.offsets, truth.offsets, "row_sums", "float64")
    half = triton_moments.shifted_rows(given.half(), center, "raw", form)
    assert half.vectors.dtype == torch.float32
    assert half.offsets.dtype == torch.float64


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
    scale, shrink = triton_gram.power_of_two_scales(largest)
    assert (scale * shrink == 1.0).all()
    assert (torch.frexp(scale).mantissa == 0.5).all()
    scaled = (largest.double() * scale.double())[3:]
    assert ((scaled >= 2.0**13) & (scaled < 2.0**14)).all()
