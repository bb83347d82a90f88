"""What the tests of all kernels share: the backends, the tolerances, and rows that are hard for kernels.

Importing this module imports no kernel, since some of their libraries are not installed everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from bertft import kernels
from bertft.kernels.types import Link, Rows

TOLERANCE: dict[str, dict[str, float]] = {
    # Norms, shifts, offsets and sums over rows are float64 whatever the type of the rows.
    "row_sums": {"float16": 1e-12, "bfloat16": 1e-12, "float32": 1e-12, "float64": 1e-12},
    # One matrix product in the type of the rows, everything else in float64.
    "row_products": {"float16": 2e-6, "bfloat16": 2e-6, "float32": 2e-6, "float64": 1e-12},
    "shifted_rows": {"float32": 1e-7, "float64": 1e-12},
    "gram_pearson": {"float32": 1e-6, "float64": 1e-12},
    "pair_values": {"float32": 2e-6, "float64": 1e-12},
    "distance_loss": {"float32": 2e-6, "float64": 1e-12},
    # Ranks are halves of integers, and their sums are exact.
    "ranks": {"float32": 0.0, "float64": 0.0},
}
"""By operation and type of the rows: the largest error, relative to the largest value of an answer."""

LINKS: dict[str, tuple[Any, Link]] = {
    "identity": ("dot", Link("identity", center=0.25)),
    "sqeuclidean": ("distance", Link("identity")),
    "euclidean": ("distance", Link("euclidean", center=1.5)),
    "rbf": ("distance", Link("rbf", gamma=0.02, center=0.3)),
}

SIZES = {"n3": (3, (5, 16)), "n17": (17, (33, 70)), "n33": (33, (16, 5)), "n65": (65, (70, 33))}
"""Rows, and the widths of both spaces. Interpreted kernels are slow, so these are small."""


@dataclass(frozen=True)
class Backend:
    """A backend and the device that it serves here. Without a GPU, kernels for one are interpreted on the CPU."""

    name: str
    device: str

    @property
    def ops(self) -> kernels.Operations:
        return kernels.select(self.device, self.name)

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """Return values as the kind of array that the operations take."""
        tensor = torch.as_tensor(np.asarray(values))
        if dtype is not None:
            tensor = tensor.to(getattr(torch, dtype))
        return tensor.numpy() if self.ops.arrays == "numpy" else tensor.to(self.device)


def serving(name: str, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Return a backend by name. With the suffix -small its tiles are so small that small inputs cross their edges."""
    name, _, small = name.partition("-")
    if name == "gpu":
        pytest.importorskip("triton", reason="Triton is not installed, so kernels for a GPU cannot be interpreted")
        _poison(monkeypatch)
    if small:
        {"cpu": _small_tiles_of_cpu, "gpu": _small_tiles_of_gpu}[name](monkeypatch)
    return Backend(name, "cuda" if name == "gpu" and torch.cuda.is_available() else "cpu")


@pytest.fixture(params=["cpu", "cpu-small", "gpu", "gpu-small"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Each compiled backend."""
    return serving(request.param, monkeypatch)


def _small_tiles_of_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertft.kernels import core_moments, numba_tiles

    monkeypatch.setattr(numba_tiles, "TILE", 16)
    monkeypatch.setattr(core_moments, "HALVED", 5)


def _small_tiles_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles, groups, launches and spans small."""
    from bertft.kernels import torch_ranks, triton_distance_loss, triton_gram, triton_moments, triton_tiles

    for tiles in (triton_gram.TILES, triton_distance_loss.TILES):
        for name in tiles:
            columns = 8 if name == "float64" else 16
            monkeypatch.setitem(tiles, name, triton_gram.Tile(16, columns, 16, 4, 2))
    for module, name, value in (
        (triton_tiles, "GROUP", 2),
        (triton_tiles, "SLAB", 23),
        (triton_moments, "SPAN", 32),
        (triton_moments, "SHORTEST", 16),
        (torch_ranks, "BLOCK", 10),
    ):
        monkeypatch.setattr(module, name, value)


def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh memory with nan, so that reading what no kernel wrote shows."""

    def poisoned(make: Any) -> Any:
        return lambda *args, **kwargs: make(*args, **kwargs).fill_(torch.nan)

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def hard_spaces(n: int, widths: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Return float64 spaces with equal rows, whole numbers, a constant row, an outlying column and an offset."""
    rng = np.random.default_rng(seed)
    pair = [rng.standard_normal((n, width)) + 3 * rng.standard_normal(width) for width in widths]
    for rows in pair:
        rows[:, 0] += 20
        rows[n // 2 :: 3] = np.round(rows[n // 2 :: 3])
        if n > 6:
            rows[5], rows[6] = rows[2], 1.0
    return pair


def numpy_of(array: Any) -> np.ndarray:
    """Return an array of a backend as float64 NumPy."""
    return np.asarray(torch.as_tensor(array).double().cpu())


def numpy_rows(rows: Rows) -> Rows:
    """Return rows of a backend as float64 NumPy."""
    return Rows(*map(numpy_of, rows))


def assert_close(found: Any, expected: Any, operation: str, dtype: str, least: float = 1e-300) -> None:
    """Compare an answer with the reference, by the table of tolerances; `least` is an absolute error allowed anyway."""
    found, expected = numpy_of(found), np.asarray(expected)
    assert found.shape == expected.shape
    largest = np.abs(expected).max() if expected.size else 0.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[operation][dtype] * largest + least)
