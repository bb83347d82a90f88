"""Choose which code computes an operation: the one place that knows the backends.

    ops = kernels.select("cpu")  # or a device such as "cuda:0", and a backend by name
    sums = ops.moments(x, y, x_center, y_center, "unit")

A backend is named for where it runs. "cpu" computes on NumPy arrays with BLAS, Numba and C++; "gpu" computes on torch
tensors with Triton, torch and CUDA compiled by CuPy; "reference" is float64 NumPy with whole n x n matrices. An
operation has the same signature in every backend that has it, and `bertft.kernels.reference` has them all and says
what each computes.

`backend="auto"` takes the compiled backend of the device that holds the arrays. A backend asked for by name serves or
raises `BackendError` with the reason: nothing falls back in silence. Each operation of the GPU is in one module, so
where CuPy is missing only the operations that need it raise.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from bertft.errors import BackendError, OptionError
from bertft.kernels.blas_threads import one_blas_thread as one_blas_thread

_MODULES: Mapping[str, Mapping[str, str]] = {
    "reference": dict.fromkeys(
        (
            "shifted_rows",
            "moments",
            "shared_moments",
            "gram_pearson",
            "pair_values",
            "pair_histogram",
            "pair_rank_products",
            "nearest_rows",
            "tied_ranks",
            "row_spearman",
            "spanning_trees",
            "arborescences",
            "distance_loss",
        ),
        "reference",
    ),
    "cpu": {
        "shifted_rows": "core_moments",
        "moments": "core_moments",
        "shared_moments": "core_moments",
        "gram_pearson": "numba_tiles",
        "pair_values": "numba_tiles",
        "pair_histogram": "numba_tiles",
        "pair_rank_products": "numba_tiles",
        "nearest_rows": "core_neighbours",
        "tied_ranks": "core_cpu",
        "row_spearman": "core_cpu",
        "spanning_trees": "core_cpu",
        "arborescences": "core_cpu",
        "distance_loss": "blas_cpu",
    },
    "gpu": {
        "shifted_rows": "triton_moments",
        "moments": "triton_moments",
        "shared_moments": "triton_moments",
        "gram_pearson": "triton_tiles",
        "pair_values": "torch_ranks",
        "pair_histogram": "triton_tiles",
        "pair_rank_products": "triton_tiles",
        "nearest_rows": "torch_neighbours",
        "tied_ranks": "torch_ranks",
        "row_spearman": "cupy_trees",
        "spanning_trees": "cupy_trees",
        "distance_loss": "triton_distance_loss",
    },
}
"""The module of this package that holds each operation of each backend."""

_LIBRARIES: Mapping[str, tuple[str, str]] = {
    "numba": ("numba", "pip install numba"),
    "triton": ("triton", "pip install 'bertft[gpu]'"),
    "cupy": ("cupy", "pip install 'bertft[gpu]'"),
}
"""The library that a module needs, by the first word of its name, and how to install it."""

# Names of backends before 0.1, accepted until 0.2.
_FORMER_NAMES: Mapping[str, str] = {"numba": "cpu", "triton": "gpu", "cupy": "gpu"}

Arrays = Literal["numpy", "torch"]

BACKENDS = tuple(_MODULES)
OPERATIONS = tuple(_MODULES["reference"])


class Operations:
    """The operations of one backend on arrays of one device, as attributes.

    A module is imported when the first operation in it is asked for. Raises `BackendError` for an operation that the
    backend lacks, or whose library is not installed.
    """

    def __init__(self, backend: str, device: str) -> None:
        self.backend, self.device = backend, device
        self.arrays: Arrays = "torch" if backend == "gpu" else "numpy"
        """The kind of array that the operations take and return."""

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation not in OPERATIONS:
            raise AttributeError(operation)
        reasons = refusals(self.device, operation)
        if self.backend not in reasons:
            raise BackendError(
                f"backend {self.backend!r} has no {operation}, only {', '.join(reasons)}; "
                "move the arrays to the CPU with .cpu()"
            )
        if (reason := reasons[self.backend]) is not None:
            raise BackendError(f"backend {self.backend!r} cannot compute {operation}: {reason}")
        module = importlib.import_module(f"{__name__}.{_MODULES[self.backend][operation]}")
        function: Callable[..., Any] = getattr(module, operation)
        setattr(self, operation, function)
        return function


def backend_named(name: str) -> str:
    """Return the name of a backend, or "auto", as it was given. Raises `OptionError` for an unknown one."""
    found = _FORMER_NAMES.get(name, name) if isinstance(name, str) else name
    if found not in ("auto", *BACKENDS):
        raise OptionError(f"unknown backend {name!r}; expected one of auto, {', '.join(BACKENDS)}")
    return found


def refusals(device: str, operation: str | None = None) -> dict[str, str | None]:
    """Return for each backend why it cannot serve arrays on this device, or None where it can.

    With an operation, only the backends that have it are listed, and a library that it needs must be installed.
    """
    return {
        name: _refusal(name, device, None if operation is None else modules[operation])
        for name, modules in _MODULES.items()
        if operation is None or operation in modules
    }


def choose(device: str, backend: str = "auto", operation: str | None = None) -> str:
    """Return the name of the backend that serves arrays on this device, and can compute the operation if one is given.

    Raises `OptionError` for an unknown backend and `BackendError`, with the reason, for one that cannot serve.
    """
    chosen = backend_named(backend)
    if chosen == "auto":
        chosen = "cpu" if device == "cpu" else "gpu"
    if (reason := refusals(device, operation)[chosen]) is not None:
        raise BackendError(f"backend {chosen!r} cannot serve: {reason}")
    return chosen


def select(device: str, backend: str = "auto") -> Operations:
    """Return the operations of the backend that `choose` names, for arrays on this device."""
    return Operations(choose(device, backend), device)


def _refusal(backend: str, device: str, module: str | None) -> str | None:
    """Return why a backend, or one module of it, cannot serve arrays on a device, or None."""
    if backend != "gpu" and device != "cpu":
        return f"the arrays are on {device}, and it computes on the CPU; move them with .cpu()"
    library = (module or "").partition("_")[0]
    # Triton's interpreter runs its kernels on the CPU; kernels in CUDA have none.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and library != "cupy"
    if backend == "gpu" and device == "cpu" and not interpreted:
        return "the arrays are on the CPU; move them to a GPU with .cuda()"
    return _missing(*_LIBRARIES[library]) if library in _LIBRARIES else None


@cache
def _missing(library: str, remedy: str) -> str | None:
    return None if importlib.util.find_spec(library) else f"{library} is not installed; {remedy}"
