"""Choose where work on a GPU's arrays is done sooner: on the GPU, or on the CPU after a copy.

The answer depends on the GPU, the processor, the bus between them and the size of the batch, so no fixed threshold
holds on every machine. Both ways are timed on the first batch of each size, and the faster one serves later batches.
The work must give the same answer on either device, and its answer must be small and go to the CPU in any case.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from bertft import kernels
from bertft.arrays import host
from bertft.errors import BackendError, PerformanceWarning

TRIALS = 3
"""Timed runs of each way, after one that compiles and warms up. The shortest counts: other load only adds time."""

_Answer = TypeVar("_Answer")
_faster: dict[tuple[Any, ...], bool] = {}
"""Whether the GPU was faster, by device, work, types, and sizes rounded up to a power of two."""


def where_faster(work: Callable[..., _Answer], device: str, *arrays: Any) -> _Answer:
    """Return `work(operations, *arrays)`, computed on the arrays' device or on copies on the CPU.

    Arrays on the CPU stay there. Where the GPU backend lacks an operation that the work needs, or does not work, the
    copies are used, with a `PerformanceWarning`.

    >>> import numpy as np
    >>> where_faster(lambda ops, x, y: ops.row_spearman(x, y, np.array([3])), "cpu", *np.eye(3)[:2, None])
    array([-0.5])
    """
    if device == "cpu":
        return work(kernels.select(device), *arrays)

    def there() -> _Answer:
        return work(kernels.select(device), *arrays)

    def copied() -> _Answer:
        return work(kernels.select("cpu"), *map(host, arrays))

    sizes = [(str(array.dtype), *(int(side).bit_length() for side in array.shape)) for array in arrays]
    key = (device, work.__qualname__, *sizes)
    if key not in _faster:
        try:
            _faster[key] = _least_seconds(there) < _least_seconds(copied)
        except BackendError as error:
            warnings.warn(f"{error}; the arrays are copied to the CPU", PerformanceWarning, stacklevel=3)
            _faster[key] = False
    return there() if _faster[key] else copied()


def _least_seconds(run: Callable[[], Any]) -> float:
    least = math.inf
    for trial in range(1 + TRIALS):
        start = time.perf_counter()
        run()
        if trial:
            least = min(least, time.perf_counter() - start)
    return least
