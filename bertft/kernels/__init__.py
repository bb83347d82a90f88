"""The one place that knows the backends: which there are, which can serve, and why the others cannot.

    ops = kernels.select("cpu")            # or a device such as "cuda:0", and a backend by name
    sums = ops.moments(x, y, x_center, y_center, "unit")

An operation has the same signature in every backend that has it; `bertft.kernels.reference` says what each computes
and has them all.  `backend="auto"` takes the compiled backend of the device the arrays lie on.  A backend asked for by
name either serves or raises `BackendError` with the reason; nothing falls back in silence.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from bertft.errors import BackendError, OptionError

_MODULES: Mapping[str, Mapping[str, str]] = {
    "reference": {
        "shifted_rows": "reference",
        "moments": "reference",
        "gram_pearson": "reference",
        "pair_values": "reference",
        "pair_histogram": "reference",
        "pair_rank_products": "reference",
        "tied_ranks": "reference",
        "row_spearman": "reference",
        "spanning_trees": "reference",
        "distance_loss": "reference",
    },
    "numba": {
        "shifted_rows": "numba_cpu",
        "moments": "numba_cpu",
        "gram_pearson": "numba_cpu",
        "pair_values": "numba_cpu",
        "pair_histogram": "numba_cpu",
        "pair_rank_products": "numba_cpu",
        "tied_ranks": "core_cpu",
        "row_spearman": "core_cpu",
        "spanning_trees": "core_cpu",
        "distance_loss": "blas_cpu",
    },
    "triton": {
        "shifted_rows": "triton_moments",
        "moments": "triton_moments",
        "gram_pearson": "triton_tiles",
        "pair_values": "torch_ranks",
        "pair_histogram": "triton_tiles",
        "pair_rank_products": "triton_tiles",
        "tied_ranks": "torch_ranks",
        "distance_loss": "triton_distance_loss",
    },
}
"""Backend, operation, the module of this package that holds it."""

Arrays = Literal["numpy", "torch"]

BACKENDS = tuple(_MODULES)
OPERATIONS = tuple(_MODULES["reference"])


class Operations:
    """The operations of one backend as attributes; a module is imported when its first operation is asked for."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.arrays: Arrays = "torch" if backend == "triton" else "numpy"
        """The kind of array the operations take, which is also the kind they give back."""

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation not in OPERATIONS:
            raise AttributeError(operation)
        if operation not in _MODULES[self.backend]:
            able = ", ".join(name for name in BACKENDS if operation in _MODULES[name])
            raise BackendError(
                f"{self.backend} has no {operation}, only {able}; move the arrays to the CPU with .cpu()"
            )
        module = importlib.import_module(f"{__name__}.{_MODULES[self.backend][operation]}")
        function: Callable[..., Any] = getattr(module, operation)
        setattr(self, operation, function)
        return function


def refusals(device: str) -> dict[str, str | None]:
    """For each backend the reason it cannot serve arrays on this device, or None where it can."""
    on_cpu = device == "cpu"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return {
        "triton": _missing("triton", "pip install 'bertft[gpu]'")
        or (None if not on_cpu or interpreted else "the arrays are on the CPU; move them to a GPU with .cuda()"),
        "numba": _missing("numba", "pip install numba")
        or (None if on_cpu else f"the arrays are on {device}, and it computes on the CPU; move them with .cpu()"),
        "reference": None
        if on_cpu
        else f"the arrays are on {device}, and it computes on the CPU; move them with .cpu()",
    }


def choose(device: str, backend: str = "auto") -> str:
    """The name of the backend that will serve arrays on this device.

    Raises `OptionError` for an unknown backend and `BackendError`, with every reason, for one that cannot serve.
    """
    if backend not in ("auto", *BACKENDS):
        raise OptionError(f"unknown backend {backend!r}; expected one of auto, {', '.join(BACKENDS)}")
    reasons = refusals(device)
    candidates = ("numba" if device == "cpu" else "triton",) if backend == "auto" else (backend,)
    for candidate in candidates:
        if reasons[candidate] is None:
            return candidate
    wanted = f"backend {backend!r} cannot serve" if backend != "auto" else f"no backend can serve arrays on {device}"
    raise BackendError(f"{wanted}: " + "; ".join(f"{name}: {reasons[name]}" for name in candidates))


def select(device: str, backend: str = "auto") -> Operations:
    """The operations of the backend that `choose` names."""
    return Operations(choose(device, backend))


def _missing(package: str, remedy: str) -> str | None:
    return None if importlib.util.find_spec(package) else f"{package} is not installed; {remedy}"
