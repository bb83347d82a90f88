"""Arrays that begin at a multiple of 64 bytes, as torch's tensors do. NumPy's arrays begin at any multiple of 16.

Some BLAS libraries choose their code by the addresses of the operands, and each code rounds differently. With operands
at aligned addresses, the same input gives the same bits in every call.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from bertft.arrays import ALIGNMENT
from bertft.kernels.types import Array


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an uninitialised NumPy array in C order that begins at a multiple of `ALIGNMENT`.

    >>> aligned_empty((3, 5), "f4").ctypes.data % 64
    0
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    first = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)
