"""The one place that knows the backends: which there are, which can serve, and why the others cannot.

    ops = kernels.select("cpu")            # or a device such as "cuda:0", and a backend by name
    sums = ops.moments(x, y, x_center, y_center, "unit")

An operation has the same signature in every backend that has it; `bertft.kernels.reference` says what each computes
and has them all.  `backend="auto"` takes the compiled backend of the device the arrays lie on.  A backend asked for by
name either serves or raises `BackendError` with the reason; nothing falls back in silence.  On a GPU two backends share
the work, tiles in Triton and what is irregular in CUDA, and "auto" takes each operation where it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import cache
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
        "arborescences": "reference",
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
        "arborescences": "core_cpu",
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
    "cupy": {
        "row_spearman": "cupy_trees",
        "spanning_trees": "cupy_trees",
    },
}
"""Backend, operation, the module of this package that holds it."""

_OF_DEVICE: Mapping[str, tuple[str, ...]] = {"cpu": ("numba",), "gpu": ("triton", "cupy")}
"""The compiled backends of a kind of device; "auto" takes an operation from the first that serves and has it."""

Arrays = Literal["numpy", "torch"]

BACKENDS = tuple(_MODULES)
OPERATIONS = tuple(_MODULES["reference"])


class Operations:
    """The operations of one backend as attributes; a module is imported when its first operation is asked for.

    `others` are asked in turn for what the first does not have; `refused` says why further ones cannot be asked.
    """

    def __init__(self, backend: str, *others: str, refused: Mapping[str, str] | None = None) -> None:
        self.backend = backend
        self.arrays: Arrays = "torch" if backend in _OF_DEVICE["gpu"] else "numpy"
        """The kind of array the operations take, which is also the kind they give back."""
        self._backends = (backend, *others)
        self._refused = refused or {}

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation not in OPERATIONS:
            raise AttributeError(operation)
        able = [name for name in BACKENDS if operation in _MODULES[name]]
        for name in self._backends:
            if name in able:
                module = importlib.import_module(f"{__name__}.{_MODULES[name][operation]}")
                function: Callable[..., Any] = getattr(module, operation)
                setattr(self, operation, function)
                return function
        reasons = "".join(f"; {name}: {self._refused[name]}" for name in able if name in self._refused)
        raise BackendError(
            f"{' and '.join(self._backends)} has no {operation}, only {', '.join(able)}{reasons}; "
            "move the arrays to the CPU with .cpu()"
        )


def refusals(device: str, operation: str | None = None) -> dict[str, str | None]:
    """For each backend (that has an operation) the reason it cannot serve arrays on this device, or None."""
    on_cpu = device == "cpu"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    reasons = {
        "triton": _missing("triton", "pip install 'bertft[gpu]'")
        or (None if not on_cpu or interpreted else "the arrays are on the CPU; move them to a GPU with .cuda()"),
        "numba": _missing("numba", "pip install numba")
        or (None if on_cpu else f"the arrays are on {device}, and it computes on the CPU; move them with .cpu()"),
        "cupy": _missing("cupy", "pip install 'bertft[gpu]'")
        or ("the arrays are on the CPU; move them to a GPU with .cuda()" if on_cpu else None),
        "reference": None
        if on_cpu
        else f"the arrays are on {device}, and it computes on the CPU; move them with .cpu()",
    }
    return {name: reason for name, reason in reasons.items() if operation is None or operation in _MODULES[name]}


def choose(device: str, backend: str = "auto") -> str:
    """The name of the backend that will serve arrays on this device.

    Raises `OptionError` for an unknown backend and `BackendError`, with every reason, for one that cannot serve.
    """
    if backend not in ("auto", *BACKENDS):
        raise OptionError(f"unknown backend {backend!r}; expected one of auto, {', '.join(BACKENDS)}")
    reasons = refusals(device)
    candidates = _compiled(device) if backend == "auto" else (backend,)
    for candidate in candidates:
        if reasons[candidate] is None:
            return candidate
    wanted = f"backend {backend!r} cannot serve" if backend != "auto" else f"no backend can serve arrays on {device}"
    raise BackendError(f"{wanted}: " + "; ".join(f"{name}: {reasons[name]}" for name in candidates))


def select(device: str, backend: str = "auto") -> Operations:
    """The operations of the backend that `choose` names; with "auto" those of the device's others too."""
    chosen = choose(device, backend)
    if backend != "auto":
        return Operations(chosen)
    reasons = {name: reason for name, reason in refusals(device).items() if name in _compiled(device)}
    others = [name for name, reason in reasons.items() if reason is None and name != chosen]
    return Operations(chosen, *others, refused={name: reason for name, reason in reasons.items() if reason})


def _compiled(device: str) -> tuple[str, ...]:
    return _OF_DEVICE["cpu" if device == "cpu" else "gpu"]


@cache
def _missing(package: str, remedy: str) -> str | None:
    return None if importlib.util.find_spec(package) else f"{package} is not installed; {remedy}"
