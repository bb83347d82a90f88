"""The compiled core of bertft: plain functions over NumPy arrays that run without the GIL."""

import numpy as np
from numpy.typing import NDArray

def tied_ranks(values: NDArray[np.float64] | NDArray[np.float32], threads: int = 0) -> NDArray[np.float64]:
    """Average ranks of a 1-D contiguous array, counted from 1, equal values sharing the mean of their ranks.

    At most 2**31 values; `threads=0` uses every processor, and the answer does not depend on it. 0.0 ties with -0.0.
    Raises ValueError where the shape, type or layout is another, or a value is nan (the first is named).

    >>> tied_ranks(np.array([0.9, 0.1, 0.9]))
    array([2.5, 1. , 2.5])

    The ranks of scipy.stats.rankdata(values, method="average"), and of Spearman, 1904.
    """
