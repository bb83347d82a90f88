"""Where work on arrays of a GPU is done sooner: there, or on the CPU after a copy.

Which of the two it is turns on the GPU, the processor, the bus between them and the size of the batch, so no threshold
holds on every machine.  Both are timed on the first batch of each size, and the faster serves the further ones.  It is
for work whose answers are the same on either side, and small: they come to the CPU in any case.
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
"""Times that each is timed, after one that compiles and warms; the least counts, since others only ever add to it."""

_Answer = TypeVar("_Answer")
_faster: dict[tuple[Any, ...], bool] = {}
"""By device, work, types and sizes up to a power of two, whether the GPU was the faster."""


def where_faster(work: Callable[..., _Answer], device: str, *arrays: Any) -> _Answer:
    """What `work(operations, *arrays)` answers, with arrays of `device` where they lie or copied to the CPU.

    A GPU whose backends lack an operation, or do not work, leaves the copy, with a warning.

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
