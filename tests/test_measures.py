"""The table of measures: every declared range and invariance holds, and every undeclared invariance fails."""

from __future__ import annotations

import numpy as np
import pytest

from bertft import PairMoments
from bertft.measures import MEASURES

N, WIDTH = 400, 8


def value(measure, x, y):
    row = MEASURES[measure]
    wanted = PairMoments(row.maps, products="float64", rows=row.of is None)
    return row.value(wanted.update(x, y))


def spaces():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, WIDTH)) * np.linspace(0.5, 3, WIDTH) + 0.4
    return x, x[:, :6] @ rng.standard_normal((6, 6)) + rng.standard_normal((N, 6)) + 0.3


def changed(x, invariance):
    rng = np.random.default_rng(1)
    if invariance == "rotation":
        return x @ np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    if invariance == "scale":
        return 7.5 * x
    if invariance == "row_scale":
        return x * rng.uniform(0.2, 5, (N, 1))
    if invariance == "shift":
        return x + rng.standard_normal(WIDTH)
    assert invariance == "affine"
    return x @ rng.standard_normal((WIDTH, WIDTH)) + rng.standard_normal(WIDTH)


@pytest.mark.parametrize("invariance", ["rotation", "scale", "row_scale", "shift", "affine", "exchange"])
@pytest.mark.parametrize("measure", MEASURES)
def test_declared_invariances_hold_and_others_break(measure, invariance):
    x, y = spaces()
    if invariance == "exchange":
        difference = abs(value(measure, y, x) - value(measure, x, y))
    elif measure == "mean-cosine-tuned":
        difference = abs(value(measure, y, changed(x, invariance)) - value(measure, y, x))
    else:
        difference = abs(value(measure, changed(x, invariance), y) - value(measure, x, y))
    if invariance in MEASURES[measure].invariances:
        assert difference < 1e-10
    else:
        assert difference > 1e-4


@pytest.mark.parametrize("measure", MEASURES)
def test_values_stay_in_range(measure):
    low, high = MEASURES[measure].range
    rng = np.random.default_rng(2)
    for _ in range(20):
        n = int(rng.integers(30, 60))
        x, y = rng.standard_normal((n, 4)), rng.standard_normal((n, 5)) - 1
        assert low <= value(measure, x, y) <= high


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_spaces(measure):
    x, _ = spaces()
    found, expected = value(measure, x, x), MEASURES[measure].equal_spaces
    if expected is None:
        assert found < 0.99
    else:
        assert found == pytest.approx(expected, abs=1e-9)
