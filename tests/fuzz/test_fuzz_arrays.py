"""Random pairs of arrays against extended precision: the right number, or an error that names the row.

Types of both sides, scales, offsets, long rows, equal rows, rows of zeros and values that are not finite are drawn at
random.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from exact_measures import KERNELS, METHODS, TYPES, dense_rsa, exact, kernel_values, truth_of
from fuzzing import SEED, TIMES

from bertft import compare, rsa
from bertft.errors import ArrayError, PrecisionWarning, UndefinedWarning

EXPONENTS = {"float16": (-10, 6), "bfloat16": (-110, 110), "float32": (-110, 110), "float64": (-990, 990)}
"""The powers of two by which numbers of about 1 are scaled: those of each type keep all digits."""

STEEP = 1e3
"""Where numbers are so many times larger than what varies, digits are lost by right, and nothing is compared."""


def drawn(rng: np.random.Generator, n: int, shared: np.ndarray[Any, Any]) -> tuple[torch.Tensor, str, int | None]:
    """One side: an array of a random type, what is wrong with it, and in which row."""
    d = int(rng.integers(2, 13))
    rows = shared @ rng.standard_normal((shared.shape[1], d)) + rng.standard_normal((n, d))
    if rng.random() < 0.3:
        rows += rng.choice([1.0, 10.0]) * rng.standard_normal(d)
    if rng.random() < 0.2:
        rows[rng.integers(n)] *= 100
    if rng.random() < 0.2:
        rows[rng.integers(n)] = rows[rng.integers(n)]
    kind = str(rng.choice(list(TYPES)))
    wrong, at = str(rng.choice([""] * 9 + ["zero", "nan", "inf"])), int(rng.integers(n))
    if wrong == "zero":
        rows[at] = 0
    values = torch.from_numpy(np.ldexp(rows / np.abs(rows).max(), int(rng.integers(*EXPONENTS[kind])))).to(TYPES[kind])
    if wrong in ("nan", "inf"):
        values[at, rng.integers(d)] = float(wrong)
    return values, wrong, at if wrong else None


def constant_row(array: torch.Tensor) -> int | None:
    """The first row whose numbers are all equal, as those of a narrow row may be once they are rounded to its type."""
    found = (array == array[:, :1]).all(dim=1).nonzero()
    return int(found[0]) if len(found) else None


def steepness(array: torch.Tensor, name: str) -> float:
    """How many times larger than what varies are the numbers that a measure subtracts."""
    if name in KERNELS:
        values = kernel_values(exact(array), name)
        spread = float(values.std())
        return float(np.abs(values).max()) / spread if spread else math.inf
    rows = exact(array)
    return float(np.abs(rows).max() / np.abs(rows - rows.mean(axis=0)).max())


def named(message: str, expected: bool, rows: Iterable[tuple[str, int | None]], where: str) -> int:
    """Check that a refusal was expected and names a row that is wrong; return 1."""
    assert expected, f"{where}: {message}"
    assert "\n" not in message
    assert any(f"row {at} of {side}" in message for side, at in rows), f"{where}: {message}"
    return 1


def test_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    count, refused, steep, undefined = 1500 * TIMES, 0, 0, 0
    for number in range(count):
        seed = [SEED, number]
        rng = np.random.default_rng(seed)
        n = int(rng.integers(5, 17))
        shared = rng.standard_normal((n, 3))
        (x, wrong_x, at_x), (y, wrong_y, at_y) = (drawn(rng, n, shared) for _ in "xy")
        kernel, method = str(rng.choice(KERNELS)), str(rng.choice(METHODS))
        measure = str(rng.choice(["", "", "cka-biased", "procrustes"]))
        expected_error, named_rows = None, [("x", at_x), ("y", at_y)]
        for side, array, wrong, at in (("x", x, wrong_x, at_x), ("y", y, wrong_y, at_y)):
            directed = not measure and kernel in ("cosine", "correlation")
            if wrong in ("nan", "inf") or (wrong == "zero" and directed):
                expected_error = expected_error or (side, at)
            if directed and kernel == "correlation" and (row := constant_row(array)) is not None:
                expected_error = expected_error or (side, row)
                named_rows.append((side, row))
        where = (
            f"seed {seed}: {measure or f'{kernel} {method}'} of {tuple(x.shape)} {x.dtype}, {tuple(y.shape)} {y.dtype}"
        )
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = compare(x, y, [measure])[measure].value if measure else rsa(x, y, kernel=kernel, method=method)
        except ArrayError as error:
            refused += named(str(error), expected_error is not None, named_rows, where)
            continue
        except BaseException as error:
            raise AssertionError(f"{where}: {error!r}") from error
        assert expected_error is None, f"{where} gives {found}"
        assert {warning.category for warning in told} <= {PrecisionWarning, UndefinedWarning}, where
        if max(steepness(side, measure or kernel) for side in (x, y)) > STEEP:
            steep += 1
            continue
        if math.isnan(found):
            undefined += 1
            assert any(warning.category is UndefinedWarning for warning in told), where
            continue
        right = truth_of(measure, x, y) if measure else dense_rsa(x, y, kernel, method)
        # A pair of ranks may change places where rounding decides; equal rows make many equal values.
        tolerance = 2e-2 if method == "spearman" and not measure else 2e-5
        assert found == pytest.approx(right, abs=tolerance), where
    with capsys.disabled():
        checked = count - refused - steep - undefined
        print(
            f"\nfuzz: arrays: {count:,} pairs, {checked:,} right, {refused:,} refused by row, {steep:,} too steep to "
            f"check, {undefined:,} undefined",
            end="",
        )
    assert checked > count // 4
