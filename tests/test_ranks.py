"""Tied ranks of the C++ core against SciPy's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata

from bertft._core import tied_ranks

FLOATS = st.sampled_from([np.float64, np.float32])


@given(
    FLOATS.flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(0, 200), elements={"allow_nan": False, "allow_infinity": True})
    ),
    st.integers(0, 4),
)
@example(np.array([0.0, -0.0, 5e-324, -5e-324, np.inf, -np.inf, np.inf, 1.0]), 0)
@example(np.array([]), 0)
def test_equals_scipy_on_any_values(values: npt.NDArray[np.floating], threads: int) -> None:
    before = values.copy()
    ranks = tied_ranks(values, threads=threads)
    assert ranks.dtype == np.float64
    np.testing.assert_array_equal(ranks, rankdata(values))
    np.testing.assert_array_equal(values, before)


# Long enough for many buckets: smooth, close together like cosines of a top layer, tied, sorted, of all exponents.
SHAPES: dict[str, Callable[[np.random.Generator, int], npt.NDArray[np.float64]]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "crowded": lambda rng, n: 1 - 1e-7 * rng.random(n),
    "levels": lambda rng, n: rng.integers(-3, 4, n).astype(np.float64),
    "dominant": lambda rng, n: np.where(rng.random(n) < 0.9, 0.5, rng.normal(size=n)),
    "constant": lambda rng, n: np.full(n, -2.5),
    "ascending": lambda rng, n: np.sort(rng.normal(size=n)),
    "exponents": lambda rng, n: rng.choice([-1.0, 1.0], n) * np.exp(rng.uniform(-700, 700, n)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_scipy_on_many_values(shape: str, threads: int) -> None:
    values = SHAPES[shape](np.random.default_rng(7), 150_001)
    np.testing.assert_array_equal(tied_ranks(values, threads=threads), rankdata(values))


def test_float32_ranks_the_stored_values() -> None:
    values = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    assert len(np.unique(values)) < len(values), "the case must have ties"
    np.testing.assert_array_equal(tied_ranks(values), rankdata(values))


def test_runs_beside_other_python_threads() -> None:
    rng = np.random.default_rng(5)
    inputs = [rng.normal(size=100_000) for _ in range(4)]
    outputs: dict[int, npt.NDArray[np.float64]] = {}
    workers = [
        threading.Thread(target=lambda i=i, x=x: outputs.update({i: tied_ranks(x, threads=2)}))
        for i, x in enumerate(inputs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, x in enumerate(inputs):
        np.testing.assert_array_equal(outputs[i], rankdata(x))


@pytest.mark.parametrize("place", [0, 20_000, 99_999])
def test_nan_is_refused_and_named(place: int) -> None:
    values = np.ones(100_000)
    values[[place, -1]] = np.nan
    with pytest.raises(ValueError, match=rf"value {place} is nan"):
        tied_ranks(values, threads=3)


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 dimensions, wanted 1; try values\.ravel"):
        tied_ranks(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"not contiguous in memory; try numpy\.ascontiguousarray"):
        tied_ranks(np.ones(10)[::2])
    with pytest.raises(ValueError, match="type int64, wanted float64 or float32"):
        tied_ranks(np.arange(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="type >f8, wanted float64 or float32"):
        tied_ranks(np.ones(3, dtype=">f8"))
