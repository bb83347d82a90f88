"""The compiled core of bertft: functions of NumPy arrays that run without the GIL."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64] | NDArray[np.float32]

def tied_ranks(values: Floats, threads: int = 0) -> NDArray[np.float64]:
    """Return the average ranks of a 1-D contiguous array, counted from 1; ties share the mean of their ranks.

    At most 2**31 values. `threads=0` uses every processor, and the answer does not depend on it. 0.0 ties with -0.0.
    Raises ValueError for another shape, type or layout, and for a nan (the first is named).

    >>> tied_ranks(np.array([0.9, 0.1, 0.9]))
    array([2.5, 1. , 2.5])

    The ranks of scipy.stats.rankdata(values, method="average"), and of Spearman, 1904.
    """

def row_spearman(predicted: Floats, gold: Floats, lengths: NDArray[np.int64], threads: int = 0) -> NDArray[np.float64]:
    """Return Spearman's correlation of the first lengths[row] values of each row of two (rows, width) arrays, (rows,).

    Ties share the mean of their ranks. As in SciPy the correlation is nan where a side has a nan or is constant, as
    fewer than two values always are. Sums are exact. Rows of up to 256 values are ranked by counting, in O(width**2).
    Raises ValueError for another shape, type or layout, and for a length above the width.

    >>> row_spearman(np.array([[0.0, 1, 5, 9]]), np.array([[0.0, 1, 1, 7]]), np.array([3]))
    array([0.8660254])

    Spearman, 1904; a row for each word of a sentence as in Hewitt and Manning, 2019.
    """

def spanning_trees(
    distances: Floats, lengths: NDArray[np.int64], keep: NDArray[np.bool_], threads: int = 0
) -> NDArray[np.int32]:
    """Return the parents of words in the minimum spanning tree of each sentence's kept words, (batch, width).

    `distances` is (batch, width, width), `keep` (batch, width) and `lengths` (batch,); cells beyond a length are not
    read. The first kept word is the root, so equal trees have equal parents. It and words that are not kept have parent
    -1. The tree is that of Kruskal's algorithm over all cells sorted by (distance, row, column), found by Prim's in
    O(width**2). Infinities are distances like any other. Raises ValueError for another shape, type or layout, for a
    length above the width, and for a nan between kept words (the first such sentence is named).

    >>> spanning_trees(np.array([[[0.0, 2, 1], [2, 0, 1], [1, 1, 0]]]), np.array([3]), np.array([[True, True, True]]))
    array([[-1,  2,  0]], dtype=int32)

    Prim, 1957; Kruskal, 1956.
    """

def arborescences(scores: Floats, lengths: NDArray[np.int64], threads: int = 0) -> NDArray[np.int32]:
    """Return the heads of words in each sentence's highest-scoring tree with exactly one root, (batch, width).

    `scores` is (batch, width, width + 1) and holds the score of word i under head h at [b, i - 1, h]. Words are counted
    from 1 and head 0 is the root, as in CoNLL-U; -inf forbids an arc. The first lengths[b] words of a sentence count,
    and heads beyond them are -1. Cells beyond a length, and those of a word with itself, are not read. Sums are
    float64. Among several best trees the choice is always the same, for any `threads`. Takes O(width**2) a sentence.
    Raises ValueError for another shape, type or layout, for a length above the width, and, naming the first such
    sentence, where a score is nan, inf or beyond 2**1000, or where every tree with one root uses a forbidden arc.

    >>> arborescences(np.array([[[5.0, 0, 1], [6, 2, 0]]]), np.array([2]))  # both words score highest under the root
    array([[0, 1]], dtype=int32)

    Chu and Liu, 1965; Edmonds, 1967; one root as in Zmigrod, Vieira and Cotterell, 2020.
    """

def shift_rows(
    x: Floats,
    center: NDArray[np.float64],
    row_map: str,
    distance: bool,
    limits: tuple[float, float, float],
    stored: Floats,
    offsets: NDArray[np.float64],
) -> None:
    """Write u = map(x) - center to `stored` (n, d), in the type of x, and the offset of each row to `offsets` (n,).

    `row_map` is raw, unit or centred_unit, see `bertft.kernels.types`. The offset is center . u, or -|u|^2 / 2 of a
    `distance`. `limits` are the least and the largest squared length of a row that has a value under the unit maps, and
    the share of its mean by which it must differ from it; the offset of another row is nan. All sums are float64, added
    in an order that does not depend on the processor. Raises ValueError for another shape, type or layout.

    >>> stored, offsets = np.empty((1, 2)), np.empty(1)
    >>> shift_rows(np.array([[3.0, 4.0]]), np.array([1.0, 0.0]), "unit", False, (1e-300, 1e300, 0.0), stored, offsets)
    >>> stored, offsets
    (array([[-0.4,  0.8]]), array([-0.4]))
    """

def row_moments(
    x: Floats,
    y: Floats,
    x_center: NDArray[np.float64],
    y_center: NDArray[np.float64],
    row_map: str,
    limits: tuple[float, float, float],
    kept: NDArray[np.float64],
    again: bool,
    u: Floats,
    v: Floats,
    ww: NDArray[np.float64],
    wu: NDArray[np.float64],
    wv: NDArray[np.float64],
) -> None:
    """Write the shifted rows u and v of two spaces, and add to the sums over rows of w w^T, w u^T and w v^T.

    x is (n, d1), y (n, d2), `ww` (5, 5), `wu` (5, d1), `wv` (5, d2); u and v have the shapes and types of x and y. w is
    (1, a, b, e, f), see `bertft.kernels.types.MomentSums`, and `row_map` and `limits` are those of `shift_rows`. `kept`
    (n, 4) holds the mean, scale, a and e of each row of x. They are written unless the rows of x come `again`, with
    another y: then they are read, u is not written, and of w u^T only the rows of b and f are added. Raises ValueError
    for another shape, type or layout.

    >>> x, kept, sums = np.array([[3.0, 4.0]]), np.empty((1, 4)), [np.zeros((5, n)) for n in (5, 2, 2)]
    >>> center, u, v = np.zeros(2), np.empty((1, 2)), np.empty((1, 2))
    >>> row_moments(x, x, center, center, "raw", (0.0, 1e300, 0.0), kept, False, u, v, *sums)
    >>> sums[0][0]
    array([ 1.,  0.,  0., 25., 25.])
    """

def inverse_lengths(rows: Floats) -> NDArray[np.float64]:
    """Return 1 / |row| of each row of a (n, d) array, (n,). Raises ValueError for another shape, type or layout."""

def nearer_in_tile(
    tile: NDArray[np.float32],
    first_i: int,
    first_j: int,
    rows: Floats,
    inverses: NDArray[np.float64],
    offsets: NDArray[np.float32],
    slack: NDArray[np.float64],
    values: NDArray[np.float64],
    numbers: NDArray[np.int64],
    thresholds: NDArray[np.float32],
) -> None:
    """Add the pairs i < j of a tile of products to the k nearest rows found so far, of both rows of each pair.

    `tile` (height, breadth) holds products of rows first_i, … with rows first_j, …; with `offsets` (n,) they differ
    from cosines of row i by no more than `slack` (n,) says. `rows` (n, d) have the lengths 1 / `inverses`. The three
    last arrays are changed: `values` (n, k) cosines times |row i|, -inf at first; `numbers` (n, k) of rows; and
    `thresholds` (n,), -inf at first, below which a tile's value is no neighbour. Raises ValueError for another shape,
    type or layout, and for a tile beyond the rows.
    """
