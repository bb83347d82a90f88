"""The compiled core of bertft: plain functions over NumPy arrays that run without the GIL."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64] | NDArray[np.float32]

def tied_ranks(values: Floats, threads: int = 0) -> NDArray[np.float64]:
    """Average ranks of a 1-D contiguous array, counted from 1, equal values sharing the mean of their ranks.

    At most 2**31 values; `threads=0` uses every processor, and the answer does not depend on it. 0.0 ties with -0.0.
    Raises ValueError where the shape, type or layout is another, or a value is nan (the first is named).

    >>> tied_ranks(np.array([0.9, 0.1, 0.9]))
    array([2.5, 1. , 2.5])

    The ranks of scipy.stats.rankdata(values, method="average"), and of Spearman, 1904.
    """

def row_spearman(predicted: Floats, gold: Floats, lengths: NDArray[np.int64], threads: int = 0) -> NDArray[np.float64]:
    """Spearman's correlation of the first lengths[row] values of each row of two (rows, width) arrays, (rows,).

    Equal values share the mean of their ranks. A row where a side is constant (fewer than two values always are) or
    holds a nan has correlation nan, as in SciPy. Sums are exact; up to 256 values a row are ranked by counting, in
    O(width**2). Raises ValueError where a shape, type or layout is another, or a length exceeds the width.

    >>> row_spearman(np.array([[0.0, 1, 5, 9]]), np.array([[0.0, 1, 1, 7]]), np.array([3]))
    array([0.8660254])

    Spearman, 1904; a row for each word of a sentence as in Hewitt and Manning, 2019.
    """

def spanning_trees(
    distances: Floats, lengths: NDArray[np.int64], keep: NDArray[np.bool_], threads: int = 0
) -> NDArray[np.int32]:
    """Parents of words in the minimum spanning tree of each sentence's kept words, (batch, width).

    `distances` is (batch, width, width), `keep` (batch, width), `lengths` (batch,); what lies beyond a length is not
    read. The tree hangs from the first kept word, so equal trees have equal parents; that word and those left out have
    parent -1. It is the tree of Kruskal's algorithm over all cells sorted by (distance, row, column), found by Prim's
    in O(width**2). Infinities are distances like any other. Raises ValueError where a shape, type or layout is another,
    a length exceeds the width, or a distance between kept words is nan (the first such sentence is named).

    >>> spanning_trees(np.array([[[0.0, 2, 1], [2, 0, 1], [1, 1, 0]]]), np.array([3]), np.array([[True, True, True]]))
    array([[-1,  2,  0]], dtype=int32)

    Prim, 1957; Kruskal, 1956.
    """

def arborescences(scores: Floats, lengths: NDArray[np.int64], threads: int = 0) -> NDArray[np.int32]:
    """Heads of the words of each sentence in its highest-scoring tree of exactly one root, (batch, width).

    `scores` is (batch, width, width + 1): at [b, i - 1, h] that of word i under head h, words counted from 1 and 0 the
    root, as in CoNLL-U; -inf forbids an arc. The first lengths[b] words of a sentence count, beyond them heads are -1;
    cells beyond a length, and those of a word with itself, are not read. Sums are float64; of several best trees it is
    always the same one, whatever `threads` is. Time O(width**2) a sentence. Raises ValueError where a shape, type or
    layout is another, a length exceeds the width, a score is nan, inf or beyond 2**1000, or every tree of one root
    takes a forbidden arc (the first such sentence is named).

    >>> arborescences(np.array([[[5.0, 0, 1], [6, 2, 0]]]), np.array([2]))  # both words would hang from the root
    array([[0, 1]], dtype=int32)

    Chu and Liu, 1965; Edmonds, 1967; one root as in Zmigrod, Vieira and Cotterell, 2020.
    """
