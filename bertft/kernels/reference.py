"""Every operation as textbooks write it, in float64 NumPy with whole n x n matrices.

These functions are slow and use much memory on purpose. Tests and benchmarks compare every backend with them, and
`backend="reference"` runs them to check a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertft.kernels.types import CONSTANT, LENGTHS, Array, Bins, Form, Link, MomentSums, RowMap, Rows


def map_rows(x: Array, row_map: RowMap) -> Array:
    """Return the rows of x, (n, d), under a row map, in float64."""
    x = np.asarray(x, dtype=np.float64)
    if row_map == "raw":
        return x
    mean = x.mean(axis=1, keepdims=True) if row_map == "centred_unit" else np.zeros((len(x), 1))
    with np.errstate(invalid="ignore", over="ignore"):
        norm = np.linalg.norm(x - mean, axis=1, keepdims=True)
        inside = (LENGTHS[0] < norm) & (norm < LENGTHS[1])
        norm[~inside | (norm <= CONSTANT * np.abs(mean) * x.shape[1] ** 0.5)] = np.nan
        return (x - mean) / norm


def shifted_rows(x: Array, center: Array, row_map: RowMap, form: Form) -> Rows:
    """Return u = map(x) - center with the offsets of the form, see `bertft.kernels.types`."""
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = map_rows(x, row_map) - center
    with np.errstate(over="ignore", invalid="ignore"):
        dots, squares = vectors @ np.asarray(center, np.float64), np.einsum("id,id->i", vectors, vectors)
    offsets = dots if form == "dot" else -0.5 * squares
    finite = np.isfinite(vectors).all(axis=1)
    return Rows(vectors, np.where(finite, offsets, np.nan))


def moments(x: Array, y: Array, x_center: Array, y_center: Array, row_map: RowMap) -> MomentSums:
    """Return the sums over rows from which every bilinear measure follows."""
    u, a = shifted_rows(x, x_center, row_map, "dot")
    v, b = shifted_rows(y, y_center, row_map, "dot")
    w = np.stack([np.ones(len(u)), a, b, np.einsum("id,id->i", u, u), np.einsum("id,id->i", v, v)], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # the caller scales rows whose sums overflow
        return MomentSums(w.T @ w, w.T @ u, w.T @ v, u.T @ u, u.T @ v, v.T @ v)


def shared_moments(
    x: Array, ys: Sequence[Array], x_center: Array, y_centers: Sequence[Array], row_map: RowMap
) -> list[MomentSums]:
    """Return the moments of x with each of several y. The answers may share the arrays that depend on x alone."""
    return [moments(x, y, x_center, y_center, row_map) for y, y_center in zip(ys, y_centers, strict=True)]


def pair_values(rows: Rows, link: Link) -> Array:
    """Return the values of all pairs i < j in row order, (n (n - 1) / 2,) float64."""
    vectors, offsets = (np.asarray(part, dtype=np.float64) for part in rows)
    if link.name == "identity":
        g = offsets[:, None] + offsets[None, :] + vectors @ vectors.T
        return g[np.triu_indices(len(g), k=1)] - link.center
    from scipy.spatial.distance import pdist

    # not -2 g, which has no digits left where two rows nearly coincide
    squares = pdist(vectors, "sqeuclidean")
    return (np.sqrt(squares) if link.name == "euclidean" else np.exp(-link.gamma * squares)) - link.center


def gram_pearson(x: Rows, y: Rows, x_link: Link, y_link: Link) -> Array:
    """Return the five sums over pairs i < j of f, g, f^2, g^2 and f g, the values of x and y, (5,) float64."""
    f, g = pair_values(x, x_link), pair_values(y, y_link)
    return np.array([f.sum(), g.sum(), f @ f, g @ g, f @ g])


def rsa(x: Array, y: Array, block: int = 2000) -> float:
    """Return RSA with the cosine kernel and Pearson's correlation, in float64, without a whole n x n matrix.

    Rows are shifted before they are multiplied, about the mean of the unit rows, which is what keeps the digits where
    all cosines are near 1. Pairs are computed in squares of `block` rows.
    """
    sides = []
    for rows in (x, y):
        u = map_rows(rows, "unit")
        center = u.mean(axis=0)
        u -= center
        sides.append(Rows(u, u @ center))
    sums, n = np.zeros(5), len(x)
    for i in range(0, n, block):
        for j in range(i, n, block):
            values = [
                a[i : i + block, None] + a[None, j : j + block] + u[i : i + block] @ u[j : j + block].T
                for u, a in sides
            ]
            if i == j:
                upper = np.triu_indices(len(values[0]), 1)
                values = [square[upper] for square in values]
            f, g = (square.ravel() for square in values)
            sums += f.sum(), g.sum(), f @ f, g @ g, f @ g
    f_mean, g_mean, ff, gg, fg = sums / (n * (n - 1) / 2)
    return float((fg - f_mean * g_mean) / np.sqrt((ff - f_mean**2) * (gg - g_mean**2)))


def bin_of(values: Array, bins: Bins) -> Array:
    """Return the bin of each value, (n,) int64."""
    cells = len(bins.first) - 1
    t = np.clip((values - bins.low) * bins.cells_per_unit, 0.0, float(cells))
    cell = np.minimum(t.astype(np.int64), cells - 1)
    first = np.asarray(bins.first, dtype=np.int64)
    width = first[cell + 1] - first[cell]
    return first[cell] + np.minimum(((t - cell) * width).astype(np.int64), width - 1)


def pair_histogram(rows: Rows, link: Link, bins: Bins) -> Array:
    """Return how many pairs i < j fall in each bin, (bins,) int64."""
    return np.bincount(bin_of(pair_values(rows, link), bins), minlength=int(bins.first[-1]))


def pair_rank_products(
    x: Rows, y: Rows, x_link: Link, y_link: Link, x_bins: Bins, y_bins: Bins, x_ranks: Array, y_ranks: Array
) -> float:
    """Return the sum over pairs i < j of x_ranks[bin of x] * y_ranks[bin of y]; ranks (bins,) are float64."""
    ranks_x = x_ranks[bin_of(pair_values(x, x_link), x_bins)]
    ranks_y = y_ranks[bin_of(pair_values(y, y_link), y_bins)]
    return float(ranks_x @ ranks_y)


def nearest_rows(x: Array, rows: Rows, k: int) -> Array:
    """Return the numbers of the k rows with the largest cosine to each row of x (n, d), (n, k) int64, nearest first.

    A row is not its own neighbour, and k is at most n - 1. Among rows of equal cosine, those of the lower numbers are
    chosen; cosines of rows that are no copies of each other tie only by chance of rounding. `rows` are the shifted
    rows of x under the unit map in the dot form, with which other backends find candidates.
    """
    unit = map_rows(x, "unit")
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def tied_ranks(values: Array) -> Array:
    """Return average ranks from 1, (n,) float64; ties share the mean of their ranks."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)


def row_spearman(predicted: Array, gold: Array, lengths: Array) -> Array:
    """Return Spearman's correlation of each row's first lengths[row] values, (rows,) float64.

    Both sides are (rows, width). As in SciPy, it is nan where a side is constant or has a nan, and where a row has
    fewer than two values.
    """
    from scipy.stats import rankdata

    correlations = np.full(len(lengths), np.nan)
    for row, n in enumerate(lengths):
        x, y = (np.asarray(side[row, :n], dtype=np.float64) for side in (predicted, gold))
        if n and np.ptp(rankdata(x)) > 0 and np.ptp(rankdata(y)) > 0:
            correlations[row] = np.corrcoef(rankdata(x), rankdata(y))[0, 1]
    return correlations


def spanning_trees(distances: Array, lengths: Array, keep: Array) -> Array:
    """Return parents in the spanning tree of each sentence's kept words, (batch, n) int32.

    `distances` is (batch, n, n) and `keep` (batch, n); the first lengths[sentence] words count. The tree is that of
    Kruskal's algorithm over all cells sorted by (distance, row, column), rooted in the first kept word. The root and
    words that are not kept have parent -1. Raises `ValueError` naming the sentence where a distance between two kept
    words is nan.
    """
    parents = np.full(keep.shape, -1, dtype=np.int32)
    for sentence, n in enumerate(lengths):
        words = np.flatnonzero(keep[sentence, :n]).tolist()
        cells = [(float(distances[sentence, i, j]), i, j) for i in words for j in words if i != j]
        if any(distance != distance for distance, _, _ in cells):
            raise ValueError(f"spanning_trees: sentence {sentence} has a distance that is nan")
        component = {word: {word} for word in words}
        neighbours = {word: list[int]() for word in words}
        for _, i, j in sorted(cells):
            if component[i] is not component[j]:
                component[i] |= component[j]
                for word in component[j]:
                    component[word] = component[i]
                neighbours[i].append(j)
                neighbours[j].append(i)
        reached = words[:1]
        for word in reached:
            for neighbour in neighbours[word]:
                if neighbour not in reached:
                    parents[sentence, neighbour] = word
                    reached.append(neighbour)
    return parents


def arborescences(scores: Array, lengths: Array) -> Array:
    """Return the heads of each sentence's highest-scoring tree with one root, (batch, n) int32, -1 beyond a length.

    `scores` (batch, n, n + 1) has the score of word i under head h at [sentence, i - 1, h]; words are counted from 1,
    head 0 is the root, and -inf forbids an arc. Edmonds's algorithm runs once for each word as the only one allowed to
    depend on the root. Any one of several best trees may be returned. Raises `ValueError` naming the sentence where a
    score is nan or inf, or where every tree with one root uses a forbidden arc.
    """
    heads = np.full(scores.shape[:2], -1, dtype=np.int32)
    for sentence, n in enumerate(lengths):
        arcs = np.zeros((n + 1, n + 1))  # [dependent, head]
        arcs[1:] = scores[sentence, :n, : n + 1]
        np.fill_diagonal(arcs, -np.inf)
        if np.isnan(arcs).any() or np.isposinf(arcs).any():
            raise ValueError(f"arborescences: sentence {sentence} has a score that is nan or inf")
        best, words = -np.inf, np.arange(1, n + 1)
        for root in words:
            allowed = arcs.copy()
            allowed[words[words != root], 0] = -np.inf
            found = np.array([0, *_edmonds(allowed)])
            total = allowed[words, found[1:]].sum()
            if total > best:
                best, heads[sentence, :n] = total, found[1:]
        if n and best == -np.inf:
            raise ValueError(f"arborescences: sentence {sentence} has no tree of one root without a forbidden arc")
    return heads


def _edmonds(scores: Array) -> list[int]:
    """Return the heads of nodes 1, 2, … in the best tree, whatever its roots; `scores` is [dependent, head], 0 root."""
    nodes = range(1, len(scores))
    heads = [0, *(int(scores[node].argmax()) for node in nodes)]
    cycle = next(filter(None, (_cycle(heads, node) for node in nodes)), None)
    if cycle is None:
        return heads[1:]
    # The cycle becomes one node, the last. An arc that enters it replaces the arc within it.
    kept = [node for node in range(len(scores)) if node not in cycle]
    entering = np.array([scores[node] - scores[node, heads[node]] for node in cycle])
    smaller = np.full((len(kept) + 1, len(kept) + 1), -np.inf)
    smaller[:-1, :-1] = scores[np.ix_(kept, kept)]
    smaller[:-1, -1] = scores[np.ix_(kept, cycle)].max(axis=1)
    smaller[-1, :-1] = entering[:, kept].max(axis=0)
    found = [0, *_edmonds(smaller)]
    for index, node in enumerate(kept[1:], start=1):
        into_kept = found[index]
        heads[node] = kept[into_kept] if into_kept < len(kept) else cycle[int(scores[node, cycle].argmax())]
    outside = kept[found[-1]]
    heads[cycle[int(entering[:, outside].argmax())]] = outside
    return heads[1:]


def _cycle(heads: list[int], node: int) -> list[int] | None:
    """Return the cycle that a node is on, following heads from it, or None."""
    path = [node]
    while heads[path[-1]] not in (0, node):
        if len(path) > len(heads):
            return None  # the path leads into a cycle of other nodes
        path.append(heads[path[-1]])
    return path if heads[path[-1]] == node else None


def distance_loss(projected: Array, gold: Array, lengths: Array) -> tuple[Array, Array]:
    """Return the L1 loss of each sentence in each layer, (layers, batch), and its gradient by `projected`.

    `projected` (layers, batch, n, rank) holds the words as a probe projects them, `gold` (batch, n, n) the distances in
    the tree. The first lengths[sentence] words count, and the gradient of the others is 0. With d_ij the squared
    distance of words i and j, the loss is the mean of |d_ij - gold_ij| over all pairs (i, j), in both orders and with
    i = j. Where the two are equal the absolute value has slope 0. Hewitt and Manning 2019, equation 3.
    """
    projected = np.asarray(projected, dtype=np.float64)
    losses = np.zeros(projected.shape[:2])
    gradient = np.zeros(projected.shape)
    for layer, words in enumerate(projected):
        for sentence, n in enumerate(lengths):
            differences = words[sentence, :n, None] - words[sentence, None, :n]
            apart = np.square(differences).sum(axis=-1) - np.asarray(gold[sentence, :n, :n], dtype=np.float64)
            signs = np.sign(apart)
            losses[layer, sentence] = np.abs(apart).sum() / max(n, 1) ** 2
            gradient[layer, sentence, :n] = 2 / max(n, 1) ** 2 * np.einsum("ij,ijk->ik", signs + signs.T, differences)
    return losses, gradient
