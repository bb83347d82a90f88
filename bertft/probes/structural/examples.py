"""Sentences with gold trees, padded into batches: what structural probes are trained and evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from bertft.data.treebank import Tree
from bertft.errors import DataError

EVALUATION_WORDS = 2000
"""Words of a batch, padding included, where nothing is learned and the size of batches is free."""


class Vectors(Protocol):
    """Word vectors of sentences by layer, as `bertft.activations.vectors.CachedVectors` has them."""

    @property
    def kept(self) -> NDArray[np.int64]:
        """The sentences that have vectors."""

    def padded(
        self, sentences: NDArray[np.int64], layers: Sequence[int] | None = None, *, dtype: DTypeLike = "f4"
    ) -> NDArray[Any]:
        """The vectors of some sentences, (layers, sentences, n, d), zeros after the end of each."""


@dataclass(frozen=True)
class GoldBatch:
    """The trees of a batch, padded with zeros: lengths (s,), distances (s, n, n), depths (s, n), heads (s, n).

    All are NumPy arrays, but for distances and depths on the device of the predictions that they are compared with.
    """

    trees: tuple[Tree, ...]
    lengths: NDArray[np.int64]
    distances: Any
    depths: Any
    heads: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Trees and the vectors of their words; sentence i of one is sentence i of the other, and some have no vectors."""

    trees: tuple[Tree, ...]
    vectors: Vectors
    lengths: NDArray[np.int64] = field(init=False)
    _distances: list[NDArray[np.int16]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.vectors.kept):
            raise DataError("no sentence has vectors; give at least one")
        object.__setattr__(self, "lengths", np.array([len(tree) for tree in self.trees], dtype=np.int64))
        object.__setattr__(self, "_distances", [tree.distances() for tree in self.trees])

    def gold(self, sentences: NDArray[np.int64]) -> GoldBatch:
        """The trees of some sentences."""
        return pad_trees(
            [self.trees[sentence] for sentence in sentences], [self._distances[sentence] for sentence in sentences]
        )

    def shuffled(self, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Batches of `size` sentences of like length, in random order; which of a length come together is random."""
        kept = self.vectors.kept
        by_length = kept[np.lexsort((rng.random(len(kept)), self.lengths[kept]))]
        batches = [by_length[first : first + size] for first in range(0, len(kept), size)]
        return [batches[place] for place in rng.permutation(len(batches))]

    def in_order(self, words: int = EVALUATION_WORDS) -> list[NDArray[np.int64]]:
        """Batches of at most `words` words, padding included, shortest sentences first."""
        kept = self.vectors.kept
        kept = kept[np.argsort(self.lengths[kept], kind="stable")]
        batches, first = [], 0
        while first < len(kept):
            end = first + 1
            while end < len(kept) and (end + 1 - first) * self.lengths[kept[end]] <= words:
                end += 1
            batches.append(kept[first:end])
            first = end
        return batches


def pad_trees(trees: Sequence[Tree], distances: Sequence[NDArray[np.int16]] | None = None) -> GoldBatch:
    """A batch of trees, whose distances are computed where they are not given."""
    between = [tree.distances() for tree in trees] if distances is None else distances
    lengths = np.array([len(tree) for tree in trees], dtype=np.int64)
    cells = (len(trees), int(lengths.max()))
    batch = GoldBatch(
        tuple(trees), lengths, np.zeros((*cells, cells[1]), "f4"), np.zeros(cells, "f4"), np.zeros(cells, np.int64)
    )
    for row, (tree, own) in enumerate(zip(trees, between, strict=True)):
        batch.distances[row, : len(tree), : len(tree)] = own
        batch.depths[row, : len(tree)] = own[tree.heads.index(0)]
        batch.heads[row, : len(tree)] = tree.heads
    return batch


@dataclass(frozen=True)
class GoldTensors:
    """A batch of trees with its tensors where the probes are."""

    batch: GoldBatch
    lengths: Tensor
    distances: Tensor
    depths: Tensor
    heads: Tensor


@dataclass(frozen=True)
class LayerVectors:
    """The vectors of some layers, (layers, sentences, n, d)."""

    layers: tuple[int, ...]
    vectors: Tensor

    def padded(self, layer: int) -> Tensor:
        return self.vectors[self.layers.index(layer)]

    def rows(self, layers: tuple[int, ...]) -> Tensor:
        """The words of some layers, (layers, sentences · n, d); copied only where it is not all of them in order."""
        rows = self.vectors.flatten(1, 2)
        return rows if layers == self.layers else rows[[self.layers.index(layer) for layer in layers]]


def read_batches(
    examples: Examples,
    plan: Sequence[NDArray[np.int64]],
    layers: Sequence[int],
    device: str | torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[LayerVectors, GoldTensors]]:
    """The batches of a plan, the next one read while the last is in use."""
    chosen = tuple(layers)
    on_disk = getattr(examples.vectors, "dtype", np.dtype(np.float32))

    def read(sentences: NDArray[np.int64]) -> tuple[NDArray[Any], GoldBatch]:
        return examples.vectors.padded(sentences, chosen, dtype=on_disk), examples.gold(sentences)

    with ThreadPoolExecutor(max_workers=1) as reader:
        pending: list[Future[tuple[NDArray[Any], GoldBatch]]] = [reader.submit(read, plan[0])]
        for following in [*plan[1:], None]:
            vectors, gold = pending.pop().result()
            if following is not None:
                pending.append(reader.submit(read, following))
            values = (torch.from_numpy(part).to(device) for part in (gold.distances, gold.depths))
            distances, depths = (part.to(dtype) for part in values)
            lengths, heads = (torch.from_numpy(part).to(device) for part in (gold.lengths, gold.heads))
            of_layer = LayerVectors(chosen, torch.from_numpy(vectors).to(device).to(dtype))
            yield of_layer, GoldTensors(gold, lengths, distances, depths, heads)
