"""Evaluation of predicted distances and depths against syntax trees, by the measures of Hewitt and Manning.

*Spearman* (DSpr, NSpr): the rank correlation of predicted and gold values. Distances have one row a word, which
includes the zero distance of the word to itself and punctuation. Depths have one row a sentence. The correlations are
averaged over all rows of the sentences of one length, and these averages, unweighted, over the lengths 5 to 50. A row
whose predicted or gold values are constant has no rank correlation. It is left out and counted.

*UUAS*: the share of the gold edges between kept words that are in the minimum spanning tree of the predicted distances
between kept words. Every edge has the same weight, whatever the length of its sentence.

*Root accuracy*: the share of sentences where the kept word of the lowest predicted depth is the root.

*Standard errors* are over sentences: they are independent, the words of one are not. UUAS is a ratio of sums over
sentences, and its variance that of the linearised ratio (Cochran 1977, section 6.5). For Spearman the lengths are
strata: the variance is the sum of the variances of the means of the lengths, over the square of their number. A length
with one sentence gets the variance that a sentence has within the other lengths.

The two presets differ in the gold edges. `paper`: the minimum spanning tree of the gold distances between kept words.
It is the tree of the treebank only if no word left out has a dependent. `today`: the edges of the treebank whose two
words are kept. Each preset has its own masks, see `keep_masks`.

Results can be merged: `merge` gives the result over the sentences of both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bertft import kernels
from bertft.arrays import host, padded
from bertft.errors import ArrayError, OptionError, UndefinedWarning
from bertft.kernels.placement import where_faster
from bertft.probes.structural.punctuation import check_preset

LENGTHS = range(5, 51)
"""The lengths of sentences over which rank correlations are averaged."""

LEAST_SENTENCES = 10
"""With fewer sentences the variance among them is too uncertain, and a standard error is nan."""

_Result = TypeVar("_Result", bound="_Evaluation")


@dataclass(frozen=True)
class SquareSums:
    """Sums over sentences from which the variance of a ratio of sums follows: of parts p and wholes w, such as edges.

    sentences: those with a whole above 0.  parts, cross, wholes: the sums of p p, p w and w w.
    """

    sentences: int
    parts: float
    cross: float
    wholes: float

    @classmethod
    def of(cls, parts: NDArray[Any], wholes: NDArray[Any]) -> SquareSums:
        """Return the sums over sentences, from one number for each."""
        products = (float((parts * parts).sum()), float((parts * wholes).sum()), float((wholes * wholes).sum()))
        return cls(int(np.count_nonzero(wholes)), *products)

    def __add__(self, other: SquareSums) -> SquareSums:
        return SquareSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def residuals(self, ratio: float) -> float:
        """Return the sum of (p - ratio w)^2."""
        return max(self.parts - 2 * ratio * self.cross + ratio * ratio * self.wholes, 0.0)

    def variance(self, ratio: float, whole: float) -> float:
        """Return the variance of the ratio of the sums of p and w, of which `whole` is that of w."""
        return self.residuals(ratio) / (whole * whole) * self.sentences / (self.sentences - 1)


_Ranks = tuple[dict[int, float], dict[int, int], int, dict[int, SquareSums]]


@dataclass(frozen=True)
class _Evaluation:
    """Sums and counts of rank correlations by length of sentence, and the number of rows that have none.

    Rows of one-word sentences, which cannot have a rank correlation, are not counted.
    """

    spearman_sums: Mapping[int, float]
    spearman_counts: Mapping[int, int]
    constant_rows: int
    spearman_squares: Mapping[int, SquareSums]

    @property
    def spearman_by_length(self) -> dict[int, float]:
        """The mean rank correlation over the rows of the sentences of each length, from 2."""
        return {length: total / self.spearman_counts[length] for length, total in self.spearman_sums.items()}

    @property
    def spearman(self) -> float:
        """The unweighted mean of `spearman_by_length` over the lengths 5 to 50; nan, with a warning, without any."""
        means = [mean for length, mean in self.spearman_by_length.items() if length in LENGTHS]
        what = f"no sentence of {LENGTHS[0]} to {LENGTHS[-1]} words has a rank correlation"
        return _ratio(math.fsum(means), len(means), what)

    @property
    def spearman_stderr(self) -> float:
        """The standard error of `spearman`; nan with fewer than ten sentences, or if no two have one length."""
        means = {length: mean for length, mean in self.spearman_by_length.items() if length in LENGTHS}
        squares = {length: self.spearman_squares[length] for length in means}
        several = [length for length in means if squares[length].sentences > 1]
        if sum(found.sentences for found in squares.values()) < LEAST_SENTENCES or not several:
            return math.nan
        # In units of the mean of a sentence, as some have more rows than others.
        within = math.fsum(
            squares[length].residuals(means[length]) * (squares[length].sentences / self.spearman_counts[length]) ** 2
            for length in several
        )
        of_one = within / sum(squares[length].sentences - 1 for length in several)
        variances = [
            squares[length].variance(mean, self.spearman_counts[length]) if length in several else of_one
            for length, mean in means.items()
        ]
        return math.sqrt(math.fsum(variances)) / len(means)

    def merge(self: _Result, other: _Result) -> _Result:
        """Return the result over the sentences of both."""
        return type(self)(*(_add(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


@dataclass(frozen=True)
class DistanceEvaluation(_Evaluation):
    """The result of `evaluate_distances`. Edges are undirected and between kept words."""

    correct_edges: int
    predicted_edges: int
    gold_edges: int
    edge_squares: SquareSums

    @property
    def uuas_stderr(self) -> float:
        """The standard error of `uuas`; nan with fewer than ten sentences."""
        if self.edge_squares.sentences < LEAST_SENTENCES:
            return math.nan
        return math.sqrt(self.edge_squares.variance(self.correct_edges / self.gold_edges, self.gold_edges))

    @property
    def uuas(self) -> float:
        """The undirected unlabelled attachment score, correct over gold edges; nan, with a warning, without any."""
        return _ratio(self.correct_edges, self.gold_edges, "no sentence has a gold edge between kept words")


@dataclass(frozen=True)
class DepthEvaluation(_Evaluation):
    """The result of `evaluate_depths`."""

    correct_roots: int
    sentences: int

    @property
    def root_accuracy_stderr(self) -> float:
        """The standard error of `root_accuracy`; nan with fewer than ten sentences."""
        if self.sentences < LEAST_SENTENCES:
            return math.nan
        share = self.correct_roots / self.sentences
        return math.sqrt(share * (1 - share) / (self.sentences - 1))

    @property
    def root_accuracy(self) -> float:
        """The share of sentences whose root was found; nan, with a warning, if there is no sentence."""
        return _ratio(self.correct_roots, self.sentences, "there is no sentence")


def evaluate_distances(
    predicted: Any,
    gold: Any,
    lengths: Any,
    keep: Any = None,
    preset: str = "paper",
    gold_heads: Any = None,
    *,
    backend: str = "auto",
) -> DistanceEvaluation:
    """Evaluate predicted distances between words against those in the tree: Spearman and UUAS.

    `predicted` and `gold` are (batch, n, n), `lengths` (batch,). `keep` (batch, n) is True for words that are not
    punctuation, by default for all. Values beyond a length are not read. The preset "today" needs `gold_heads`
    (batch, n), the head of each word as in CoNLL-U: counted from 1, 0 for the root. Arrays may be NumPy arrays, torch
    tensors, or anything with DLPack.

    Raises `ArrayError` for wrong shapes, types, lengths and heads, and for a nan, whose sentence and words it names.
    Raises `OptionError` for an unknown preset, and for heads that do not go with it.

    >>> import numpy as np
    >>> gold = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))[None]  # each word hangs from the one before
    >>> found = evaluate_distances(gold**2, gold, [6])
    >>> found.spearman, found.uuas, found.gold_edges
    (1.0, 1.0, 5)

    Source: Hewitt and Manning 2019, section 4.1.
    """
    check_preset(preset)
    if preset == "paper" and gold_heads is not None:
        raise OptionError(
            "preset 'paper' takes its edges from the gold distances; leave gold_heads out, or say preset='today'"
        )
    if preset == "today" and gold_heads is None:
        raise OptionError("preset 'today' counts the edges of the treebank; give gold_heads, each word's head from 1")
    predicted, gold, lengths, device = _batch(predicted, gold, lengths, 3)
    batch, n = predicted.shape[:2]
    keep = _mask(keep, batch, n)
    inside = np.arange(n) < lengths[:, None]
    row_lengths = np.where(inside, lengths[:, None], 0).ravel()
    heads = None if gold_heads is None else _kept_parents(_heads(gold_heads, inside), keep & inside)

    def ranks_and_trees(ops: kernels.Operations, predicted: Any, gold: Any) -> tuple[_Ranks, Any, Any]:
        # Results are one number a word, so they are moved to the CPU. The distances stay where they are.
        found = host(ops.row_spearman(predicted.reshape(-1, n), gold.reshape(-1, n), row_lengths))
        ranks = _rank_fields(found.reshape(batch, n), lengths, predicted, gold)
        parents = host(ops.spanning_trees(predicted, lengths, keep))
        return ranks, parents, host(ops.spanning_trees(gold, lengths, keep)) if heads is None else heads

    if backend == "auto":
        ranks, parents, gold_parents = where_faster(ranks_and_trees, device, predicted, gold)
    else:
        ranks, parents, gold_parents = ranks_and_trees(kernels.select(device, backend), predicted, gold)
    # An edge of the predicted tree may be in the gold tree in either direction.
    edges = parents >= 0
    back = gold_parents.take(parents.clip(0) + np.arange(0, batch * n, n)[:, None])
    found = (gold_parents == parents) | (back == np.arange(n))
    correct, in_gold = np.count_nonzero(found & edges, axis=1), np.count_nonzero(gold_parents >= 0, axis=1)
    return DistanceEvaluation(
        *ranks,
        correct_edges=int(correct.sum()),
        predicted_edges=int(np.count_nonzero(edges)),
        gold_edges=int(in_gold.sum()),
        edge_squares=SquareSums.of(correct, in_gold),
    )


def evaluate_depths(
    predicted: Any, gold: Any, lengths: Any, keep: Any = None, preset: str = "paper", *, backend: str = "auto"
) -> DepthEvaluation:
    """Evaluate predicted depths of words against those in the tree: Spearman and root accuracy. The root has depth 0.

    `predicted` and `gold` are (batch, n), `lengths` (batch,). `keep` (batch, n) is True for words that are not
    punctuation, by default for all. If no word of a sentence is kept, any of its words may be predicted as the root.
    The presets differ only in their masks.

    Raises `ArrayError` for wrong shapes, types and lengths, for a nan, whose sentence and word it names, and for a
    sentence without a root. Raises `OptionError` for an unknown preset.

    >>> found = evaluate_depths([[0.9, 0.1, 0.7, 2.5, 1.1]], [[1, 0, 1, 2, 1]], [5])
    >>> round(found.spearman, 4), found.root_accuracy
    (0.8944, 1.0)

    Source: Hewitt and Manning 2019, section 4.1.
    """
    check_preset(preset)
    predicted, gold, lengths, device = _batch(predicted, gold, lengths, 2)
    batch, n = predicted.shape
    keep = _mask(keep, batch, n)
    inside = np.arange(n) < lengths[:, None]
    if backend == "auto":  # the root is searched for on the CPU, so the depths are moved there in any case
        predicted, gold, device = host(predicted), host(gold), "cpu"
    ops = kernels.select(device, backend)
    correlations = host(ops.row_spearman(predicted, gold, lengths))[:, None]
    predicted, gold = host(predicted), host(gold)
    ranks = _rank_fields(correlations, lengths, predicted, gold)

    roots = inside & (gold == 0)
    if not roots.any(axis=1).all():
        sentence = int(np.argmin(roots.any(axis=1)))
        raise ArrayError(f"sentence {sentence} has no word of gold depth 0; a root has depth 0, count depths from it")
    candidates = keep & inside
    candidates |= inside & ~candidates.any(axis=1, keepdims=True)
    # Predictions may be infinite. Among candidates of the same lowest depth, the first is taken.
    lowest = np.where(candidates, predicted, np.inf).min(axis=1, keepdims=True)
    found = np.argmax(candidates & (predicted == lowest), axis=1)
    return DepthEvaluation(*ranks, correct_roots=int(np.sum(found == roots.argmax(axis=1))), sentences=batch)


def _batch(predicted: Any, gold: Any, lengths: Any, dimensions: int) -> tuple[Any, Any, NDArray[np.int64], str]:
    """Check the arrays of one evaluation. Return them with the device they are on."""
    predicted, device = padded(predicted, "predicted", (None,) * dimensions)
    shape = tuple(predicted.shape)
    if dimensions == 3 and shape[1] != shape[2]:
        raise ArrayError(f"predicted has shape {shape}; expected a square of distances a sentence, (batch, n, n)")
    if shape[-1] == 0:
        raise ArrayError(f"predicted has shape {shape}; expected at least one word a sentence")
    gold, gold_device = padded(gold, "gold", shape)
    if gold_device != device:
        raise ArrayError(
            f"predicted is on {device} and gold on {gold_device}; move one of them to the device of the other"
        )
    lengths = _whole(lengths, "lengths", shape[:1])
    wrong = (lengths < 1) | (lengths > shape[1])
    if wrong.any():
        sentence = int(np.argmax(wrong))
        raise ArrayError(
            f"sentence {sentence} has length {lengths[sentence]}; expected 1 to {shape[1]}, the width of the arrays"
        )
    return predicted, gold, lengths, device


def _whole(numbers: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    found = _numpy(numbers)
    if found.shape != shape or found.dtype.kind not in "iu":
        raise ArrayError(f"{name} has shape {found.shape} and type {found.dtype}; expected whole numbers, {shape}")
    return np.ascontiguousarray(found, dtype=np.int64)


def _numpy(array: Any) -> NDArray[Any]:
    return np.asarray(host(array) if hasattr(array, "detach") else array)


def _mask(keep: Any, batch: int, n: int) -> NDArray[np.bool_]:
    if keep is None:
        return np.ones((batch, n), dtype=np.bool_)
    found = _numpy(keep)
    if found.shape != (batch, n) or found.dtype != np.bool_:
        raise ArrayError(
            f"keep has shape {found.shape} and type {found.dtype}; expected bool, {(batch, n)}, "
            "True where a word counts: see keep_masks"
        )
    return np.ascontiguousarray(found)


def _heads(gold_heads: Any, inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    heads = _whole(gold_heads, "gold_heads", inside.shape)
    wrong = inside & ((heads < 0) | (heads > inside.sum(axis=1, keepdims=True)))
    if wrong.any():
        sentence, word = np.argwhere(wrong)[0]
        raise ArrayError(
            f"word {word} of sentence {sentence} has head {heads[sentence, word]}; "
            f"expected 1 to {inside[sentence].sum()}, or 0 for the root"
        )
    # Pointer jumping: each step doubles the number of ancestors that are passed. Node 0, above the root, is its own.
    above = np.pad(np.where(inside, heads, 0), ((0, 0), (1, 0)))
    for _ in range(above.shape[1].bit_length()):
        above = np.take_along_axis(above, above, axis=1)
    if above.any():
        sentence, word = np.argwhere(above)[0]
        raise ArrayError(
            f"the heads above word {word - 1} of sentence {sentence} lead into a cycle, not to the root; expected a "
            "tree, whose root has head 0"
        )
    return heads


def _kept_parents(heads: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return heads counted from 0, and -1 where one of the two words is not kept."""
    parents = np.where(kept, heads, 0) - 1
    return np.where(np.take_along_axis(kept, parents.clip(0), axis=1), parents, -1)


def _rank_fields(correlations: NDArray[np.float64], lengths: NDArray[np.int64], predicted: Any, gold: Any) -> _Ranks:
    """Return the fields of `_Evaluation` from correlations (batch, rows), which are nan where there is none."""
    defined = ~np.isnan(correlations)
    counts = np.count_nonzero(defined, axis=1)
    rows = np.minimum(lengths, correlations.shape[1])
    short = np.flatnonzero(counts < rows)
    for name, values in (("predicted", predicted), ("gold", gold)):
        _refuse_nan(name, values, short, lengths)
    of_sentence = np.where(defined, correlations, 0.0).sum(axis=1)
    sums = np.bincount(lengths, of_sentence)
    of_length = np.bincount(lengths, counts).astype(np.int64)
    present = np.flatnonzero(of_length).tolist()
    return (
        {length: float(sums[length]) for length in present},
        {length: int(of_length[length]) for length in present},
        int((rows - counts)[lengths > 1].sum()),
        {length: SquareSums.of(of_sentence[lengths == length], counts[lengths == length]) for length in present},
    )


def _refuse_nan(name: str, values: Any, sentences: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Raise `ArrayError` for a nan. Only sentences with a row without a correlation can have one."""
    for sentence in sentences:
        n = lengths[sentence]
        part = values[sentence, :n, :n] if values.ndim == 3 else values[sentence, :n]
        places = np.argwhere(np.isnan(host(part)))
        if len(places):
            raise ArrayError(
                f"{name} is nan in sentence {sentence} at word {', '.join(map(str, places[0]))} (from 0), and nan has "
                "no rank; look for an overflow, or leave the sentence out"
            )


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, Mapping):
        either, both = {**left, **right}, left.keys() & right.keys()
        return {key: left[key] + right[key] if key in both else either[key] for key in sorted(either)}
    return left + right


def _ratio(part: float, whole: float, why_not: str) -> float:
    if whole:
        return part / whole
    warnings.warn(f"{why_not}; the result is nan", UndefinedWarning, stacklevel=3)
    return math.nan
