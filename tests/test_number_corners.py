"""Numbers in corners: types of both sides, scales, long rows, offsets and constant rows, against extended precision."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from exact_measures import KERNELS, METHODS, TYPES, dense_rsa, related, truth_of

from bertft import PairMoments, cka, compare, procrustes, rsa
from bertft.errors import ArrayError, PrecisionWarning, UndefinedWarning
from bertft.measures import MEASURES
from bertft.similarity import plan
from bertft.statistics import ranks

SCALES = {
    "float16": (1e-4, 1e3),
    "bfloat16": (1e-36, 1e-20, 1e25, 1e37),
    "float32": (1e-40, 1e-30, 1e-22, 1e19, 1e30, 1e37),
    "float64": (1e-300, 1e-160, 1e-76, 1e-30, 1e30, 1e76, 1e80, 1e160, 1e300),
}
"""Scales at which products, or sums of fourth powers, leave the range of the type."""

CANONICAL = {"cca", "pwcca", "svcca"}


def inputs(dtype, scale, side, outlier=1.0, offset=0.0, shape=(24, 7, 5)):
    """Return two spaces of a type; one side has the scale, a long row, and all its rows shifted by a vector."""
    pair = related(*shape)
    rng = np.random.default_rng(1)
    changed = pair[side]
    changed += offset * rng.standard_normal(changed.shape[1])
    changed[3] *= outlier
    changed *= scale / max(outlier, 4 * offset)
    return [torch.from_numpy(rows).to(TYPES[dtype]) for rows in pair]


CASES = [
    (dtype, scale, side, outlier, offset)
    for dtype, scales in SCALES.items()
    for scale in (1.0, *scales)
    for side in (0, 1)
    for outlier in ((1.0, 1e6) if dtype == "float64" or (1e-30 < scale < 1e35 and dtype != "float16") else (1.0,))
    for offset in (0.0, 30.0)
]


@pytest.mark.equality
@pytest.mark.parametrize("dtype", TYPES)
def test_all_measures_do_not_depend_on_the_scale(dtype):
    """All measures, float64 and float32 products, against extended precision of exactly the same numbers."""
    tried = 0
    for case in CASES:
        if case[0] != dtype:
            continue
        x, y = inputs(*case)
        outlier = case[3]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", PrecisionWarning)  # of components left out beside a long row
            for names in (
                list(MEASURES),
                ["rsa", "rsa-correlation"],
                ["rsa-dot", "rsa-sqeuclidean", "cka", "procrustes"],
            ):
                single = "cca" not in names and dtype != "float64"
                found = compare(x, y, names)
                for name, (value, _) in found.items():
                    if name in CANONICAL and outlier > 1:
                        continue
                    tolerance = 3e-6 if single else 1e-6 if outlier > 1 or name in CANONICAL else 1e-8
                    assert value == pytest.approx(truth_of(name, x, y), abs=tolerance), (case, name)
                    tried += 1
    assert tried > 50


EXTREMES = (
    *(("float64", 1e-300), ("float64", 1e-160), ("float64", 1e80), ("float64", 1e300)),
    *(("float32", 1e-40), ("float32", 1e-24), ("float32", 1e37), ("bfloat16", 1e30)),
)


@pytest.mark.equality
@pytest.mark.parametrize("shape", [(24, 7, 5), (9, 20, 14)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_rsa_does_not_depend_on_the_scale(kernel, shape, monkeypatch):
    """Every kernel and method, by moments and by tiles, with products in float64 and in float32."""
    for flops in (plan.CHEAP_FLOPS, 0.0):
        monkeypatch.setattr(plan, "CHEAP_FLOPS", flops)
        for dtype, scale in EXTREMES:
            for side in (0, 1):
                x, y = inputs(dtype, scale, side, shape=shape)
                for method in METHODS:
                    binned = method == "spearman" and side == flops == 0 and scale in (1e-300, 1e37)
                    for exact_pairs in (10**9, 0) if binned else (10**9,):
                        monkeypatch.setattr(ranks, "EXACT_PAIRS", exact_pairs)
                        tolerance = 1e-6 if flops else 3e-6
                        found = rsa(x, y, kernel=kernel, method=method)
                        expected = dense_rsa(x, y, kernel, method)
                        if exact_pairs == 0:
                            tolerance = 1e-2  # so few pairs are in wide bins
                        assert found == pytest.approx(expected, abs=tolerance), (dtype, scale, side, method)


def test_gamma_is_of_the_rows_as_given():
    x, y = related(30, 6, 4)
    expected = rsa(x, y, kernel="rbf", gamma=0.05)
    assert rsa(x * 2.0**-400, y * 2.0**-400, kernel="rbf", gamma=0.05 * 2.0**800) == pytest.approx(expected, abs=1e-12)
    with pytest.warns(UndefinedWarning, match="all pairs of x have the same kernel value"):
        assert math.isnan(rsa(x * 1e300, y, kernel="rbf", gamma=1.0))  # exp of minus a huge number, for all pairs


@pytest.mark.parametrize("left", TYPES)
@pytest.mark.parametrize("right", TYPES)
def test_the_types_of_both_sides_are_joined(left, right):
    """One side in float64 makes all of it float64, whichever side it is; smaller types are exact in float64."""
    for f, offset in ((1.0, 0.0), (100.0, 0.0), (1e4, 100.0)):
        x, y = related(20, 23, 3)
        y[0] *= f
        y += offset
        x, y = torch.from_numpy(x).to(TYPES[left]), torch.from_numpy(y / f).to(TYPES[right])
        wide = x.double(), y.double()
        double = "float64" in (left, right)
        for names in (["cka", "cka-biased", "procrustes", "rsa-dot", "rsa-sqeuclidean"], ["rsa", "rsa-correlation"]):
            for pair, same in (((x, y), wide), ((y, x), wide[::-1])):
                found, expected = compare(*pair, names), compare(*same, names)
                for name in names:
                    assert found[name].value == pytest.approx(expected[name].value, abs=1e-12 if double else 3e-6), name
        together = [PairMoments(("raw",)).update(*pair).cka() for pair in ((x, y), wide)]
        assert together[0] == pytest.approx(together[1], abs=1e-12 if double else 3e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e-20, 1e20, 1e100, 1e300])
def test_streams_of_any_scale_and_of_several(scale):
    """Batches and merged states of one scale, and of scales so different that the smaller rows count as zeros."""
    x, y = related(60, 7, 5)
    maps = ("unit", "centred_unit", "raw")
    whole = PairMoments(maps, products="float64").update(x, y)
    parts = np.split(np.arange(60), [7, 8, 40])
    streamed = PairMoments(maps, products="float64")
    for rows in parts:
        streamed.update(x[rows] * scale, y[rows])
    one, other = PairMoments(maps, products="float64"), PairMoments(maps, products="float64")
    one.update(x[:30] * scale, y[:30])
    other.update(x[30:45] * scale, y[30:45]).update(x[45:] * scale, y[45:])
    loaded = PairMoments.from_state(other.state())
    for found in (streamed, one.merge(other), other.merge(one), loaded.merge(one)):
        for name, measure in ((name, row) for name, row in MEASURES.items() if row.of is not None):
            assert measure.value(found) == pytest.approx(measure.value(whole), abs=1e-8), name
    mixed = PairMoments(("raw",)).update(np.zeros((5, 7)), y[:5])
    mixed.update(x[5:20] * scale, y[5:20]).update(x[20:40], y[20:40]).update(x[40:] / scale, y[40:])
    sizes = np.repeat([0.0, scale, 1.0, 1 / scale], [5, 15, 20, 20])[:, None]
    for name in ("cka", "cka-biased", "procrustes", "rsa-dot", "rsa-sqeuclidean"):
        assert MEASURES[name].value(mixed) == pytest.approx(truth_of(name, x * sizes, y), abs=1e-7), name


@pytest.mark.parametrize("chunk", [1, 5, 60])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_a_million_times_longer(dtype, chunk):
    """Pairs of a row with itself, 10^24, must not take the digits of the pairs of different rows, 10^12."""
    x, y = related(60, 23, 3)
    x[30] *= 1e6
    y[30] *= 1e6
    y[2] *= 1e3
    x, y = x.astype(dtype), y.astype(dtype)
    streamed = PairMoments(("raw",))
    for low in range(0, 60, chunk):
        streamed.update(x[low : low + chunk], y[low : low + chunk])
    half = PairMoments(("raw",)).update(x[:30], y[:30]).merge(PairMoments(("raw",)).update(x[30:], y[30:]))
    for found in (streamed, half, PairMoments.from_state(half.state())):
        for name in ("cka", "rsa-dot", "rsa-sqeuclidean"):
            assert MEASURES[name].value(found) == pytest.approx(truth_of(name, x, y), abs=1e-6), name
    assert cka(x, y) == pytest.approx(truth_of("cka", x, y), abs=1e-7)


def test_rows_constant_up_to_rounding_are_named():
    x, y = related(60, 8, 8)
    steps = np.array([0, 1, -1, 0, 1, 0, -1, 0])
    for level in (0.1, -1e5, 3e-200, 7e250):
        for row in (level + steps * np.spacing(level), np.full(8, level)):
            x[5] = row
            for n in (60, 7):
                for pair, side in (((x[:n], y[:n]), "x"), ((y[:n], x[:n]), "y")):
                    for find in (
                        lambda a, b: rsa(a, b, kernel="correlation"),
                        lambda a, b: rsa(a, b, kernel="correlation", method="spearman"),
                        lambda a, b: compare(a, b, ["rsa-correlation"]),
                        lambda a, b: PairMoments(("centred_unit",)).update(a, b),
                    ):
                        with pytest.raises(ArrayError, match=rf"^row 5 of {side} is constant \(to rounding\), so it"):
                            find(*pair)
    x[5] = 0.0
    with pytest.raises(ArrayError, match="row 5 of x is constant"):
        rsa(x, y, kernel="correlation")
    x[5, 2] = 1e-300  # one number is no constant row
    assert rsa(x, y, kernel="correlation") == pytest.approx(dense_rsa(x, y, "correlation"), abs=1e-10)


@pytest.mark.parametrize("level", [0.1, 0.3, 1e-200, 1e200, 12345.678])
def test_spaces_constant_up_to_rounding(level):
    """A mean of equal numbers is not always that number; what is left of it is no signal."""
    _, y = related(50, 4, 6)
    x = np.full((50, 4), level)
    for name, measure in MEASURES.items():
        if name == "mean-cosine-base":
            assert measure.value(PairMoments.serving([measure]).update(x, y)) == pytest.approx(1.0)
        elif name != "mean-cosine-tuned" and name != "rsa-correlation":
            for pair in ((x, y), (y, x)):
                moments = PairMoments(measure.maps, products="float64", rows=measure.of is None)
                with pytest.warns(UndefinedWarning, match="do not vary|have the same kernel value"):
                    assert math.isnan(measure.value(moments.update(*pair)))
    # One column constant but for its last bit, beside others, changes nothing.
    x, y = related(50, 4, 6)
    x[:, 2] = level + np.spacing(level) * (np.arange(50) % 2)
    if 1e-100 < level < 1e100:
        for name in MEASURES:
            found = compare(x, y, [name])[name].value
            if name not in CANONICAL:
                assert found == pytest.approx(truth_of(name, x, y), abs=1e-7), name


@pytest.mark.parametrize("ratio", [1e-10, 1e-28, 1e-55])
@pytest.mark.parametrize("level", [0.1, 1e200, 1e-200])
def test_a_constant_column_far_larger_than_what_varies(ratio, level):
    """The mean of a constant column is not always its value, and that rounding error must not hide what varies."""
    x, y = related(30, 6, 4)
    rows = np.concatenate([np.full((30, 2), level), x * (ratio * level)], axis=1)
    for name in ("cka", "cka-biased", "procrustes", "cca"):
        assert compare(rows, y, [name])[name].value == pytest.approx(compare(x, y, [name])[name].value, abs=1e-8), name
    for kernel in ("euclidean", "rbf", "sqeuclidean") if ratio == 1e-10 else ():  # else below the digits of a row
        assert rsa(rows, y, kernel=kernel) == pytest.approx(rsa(x, y, kernel=kernel), abs=1e-8)


def test_rows_beyond_the_range_of_sums_are_refused():
    """A column so large that all that varies is below the last digit of sums of squares."""
    x, y = related(30, 6, 4)
    x *= 1e-200
    x[:, 0] = 1e200
    for pair, side in (((x, y), "x"), ((y, x), "y")):
        for find in (cka, procrustes, lambda a, b: rsa(a, b, kernel="euclidean")):
            with pytest.raises(ArrayError, match=f"the rows of {side} differ by less than 6e-61 of the largest number"):
                find(*pair)
