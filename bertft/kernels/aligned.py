"""Arrays that begin at a multiple of 64 bytes, as those of torch do; those of NumPy begin at any multiple of 16.

Some BLAS libraries choose their code by where the operands begin, and each code rounds in its own way.  Operands that
always begin alike give the same bits in every call with the same input.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from bertft.kernels.types import Array

ALIGNMENT = 64
"""Bytes: a cache line, and as wide as the widest vectors of a processor."""


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialised NumPy array in C order that begins at a multiple of `ALIGNMENT`.

    >>> aligned_empty((3, 5), "f4").ctypes.data % 64
    0
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    first = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)
