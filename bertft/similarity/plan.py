"""Plan how `rsa` computes its answer, from shapes and types alone: the path, the backend and the cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bertft import kernels
from bertft.arrays import RowSource, check_pair
from bertft.errors import OptionError
from bertft.statistics import ranks
from bertft.statistics.forms import BILINEAR, FORMS

SINGLE = {"float16", "bfloat16", "float32"}
"""Types of rows whose products may run in float32."""
METHODS = ("pearson", "cosine", "spearman")
BATCH_ROWS = 8192
"""Rows read at a time: 48 MiB for two spaces of width 768 in float32, and long enough for BLAS at full speed."""
CHEAP_FLOPS = 4e9
"""Work up to which products run in float64 whatever the type of the rows: it costs milliseconds, and the rounding of
few rows does not average out."""


@dataclass(frozen=True)
class Plan:
    """How `rsa` computes an answer, to print or to read. flops and bytes are predictions, not measurements."""

    path: Literal["moments", "tiles", "ranks", "binned ranks"]
    backend: str
    n: int
    widths: tuple[int, int]
    kernel: str
    method: str
    products: str
    flops: float
    bytes: float
    why: str
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"rsa of {self.n:,} rows, {self.widths[0]} and {self.widths[1]} wide, "
            f"kernel {self.kernel!r}, method {self.method!r}",
            f"  path      {self.path}: {self.why}",
            f"  backend   {self.backend}, products in {self.products}",
            f"  predicted {self.flops / 1e9:,.1f} GFLOP, {self.bytes / 2**20:,.0f} MiB beyond the arrays",
        ]
        lines += [f"  not {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def explain(x: Any, y: Any, *, kernel: str = "cosine", method: str = "pearson", backend: str = "auto") -> Plan:
    """Return how `rsa` would compute its answer for these arrays, and why. Only shapes and types are read.

    x is (n, d1) and y is (n, d2); the options and the errors raised are those of `rsa`.

    >>> import numpy as np
    >>> from bertft import explain
    >>> plan = explain(np.zeros((5000, 768), np.float32), np.zeros((5000, 768), np.float32))
    >>> plan.path, plan.backend
    ('moments', 'cpu')
    """
    return make_plan(*row_sources(x, y), kernel, method, backend)


def row_sources(x: Any, y: Any) -> tuple[RowSource, RowSource]:
    """Return the rows of both arrays. Raises `ArrayError` unless they are two spaces of the same rows."""
    x_rows, y_rows = RowSource(x, "x"), RowSource(y, "y")
    check_pair(x_rows, y_rows)
    return x_rows, y_rows


def make_plan(x: RowSource, y: RowSource, kernel: str, method: str, backend: str) -> Plan:
    """Return the plan for two checked arrays. Raises `OptionError` and `BackendError`."""
    if not isinstance(kernel, str) or kernel not in FORMS:
        raise OptionError(f"unknown kernel {kernel!r}; expected one of {', '.join(FORMS)}")
    if method not in METHODS:
        raise OptionError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    name = kernels.choose(x.device, backend, "moments")
    n, d1, d2 = len(x), x.width, y.width
    moment_flops = float(n) * (d1 * d1 + d2 * d2 + 2 * d1 * d2)
    tile_flops = float(n) * n * (d1 + d2)
    pairs = n * (n - 1) // 2
    path: Literal["moments", "tiles", "ranks", "binned ranks"]
    if name == "reference":
        path, flops = ("ranks" if method == "spearman" else "tiles"), tile_flops
        why = "the reference stores whole float64 matrices of all pairs, and does not use moments"
    elif method == "spearman":
        path, flops = ("ranks", tile_flops) if pairs <= ranks.EXACT_PAIRS else ("binned ranks", 2 * tile_flops)
        why = f"ranks need the pairs themselves, and {pairs:,} of them " + (
            "fit in memory, so the ranks are exact"
            if path == "ranks"
            else "do not, so two passes over the tiles bin them finely, with an error below 1e-6"
        )
    elif kernel not in BILINEAR:
        path, flops = "tiles", tile_flops
        why = f"{kernel} is not bilinear in its rows, so every pair is computed, and reduced where it is made"
    elif moment_flops <= 2 * tile_flops:
        path, flops = "moments", moment_flops
        why = f"the kernel is bilinear in its rows, so {d1} x {d2} moments give the exact answer in one pass"
    else:
        path, flops = "tiles", tile_flops
        why = f"{n:,} rows are few against {d1} + {d2} columns, so the pairs themselves cost less than moments"
    double = not {x.dtype, y.dtype} <= SINGLE or path == "ranks" or name == "reference" or flops <= CHEAP_FLOPS
    itemsize = 8 if double else 4
    size = float(itemsize * min(n, BATCH_ROWS if path == "moments" else n) * (d1 + d2))  # the shifted rows
    if name == "reference":
        size += 40.0 * pairs
    elif path == "moments":
        size += 16.0 * (d1 * d1 + d2 * d2 + d1 * d2)
    else:
        size += 2.0 * itemsize * min(n, 2048) ** 2 + (48.0 * pairs if path == "ranks" else 0.0)
        size += 48.0 * ranks.BINS if path == "binned ranks" else 0.0
    reasons = kernels.refusals(x.device, "moments")
    refused = {other: reason for other, reason in reasons.items() if other != name and reason is not None}
    if backend == "auto" and name != "reference" and x.device == "cpu":
        refused["reference"] = "it is slow and stores whole n x n matrices; ask for it by name to check a number"
    type_ = "float64" if double else "float32"
    return Plan(path, name, n, (d1, d2), kernel, method, type_, flops, size, why, refused)
