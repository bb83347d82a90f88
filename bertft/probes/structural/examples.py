"""The data of structural probes: sentences with gold trees, padded into batches."""

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
"""Words of an evaluation batch, padding included."""


class Vectors(Protocol):
    """Word vectors of sentences by layer, as `bertft.activations.vectors.CachedVectors` has them."""

    @property
    def kept(self) -> NDArray[np.int64]:
        """The sentences that have vectors."""

    def padded(
        self, sentences: NDArray[np.int64], layers: Sequence[int] | None = None, *, dtype: DTypeLike = "f4"
    ) -> NDArray[Any]:
        """Return the vectors of some sentences, (layers, sentences, n, d), padded with zeros."""


@dataclass(frozen=True)
class GoldBatch:
    """The trees of a batch, padded with zeros: lengths (s,), distances (s, n, n), depths (s, n), heads (s, n).

    Distances and depths may be on a GPU, with the predictions that they are compared with. The others are NumPy arrays.
    """

    trees: tuple[Tree, ...]
    lengths: NDArray[np.int64]
    distances: Any
    depths: Any
    heads: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Trees and the vectors of their words, sentence by sentence. Sentences may have no vectors.

    Raises `DataError` if no sentence has vectors.
    """

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
        """Return the trees of some sentences."""
        return pad_trees(
            [self.trees[sentence] for sentence in sentences], [self._distances[sentence] for sentence in sentences]
        )

    def shuffled(self, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return batches of `size` sentences of similar length, in random order.

        Which sentences of one length share a batch is random.
        """
        kept = self.vectors.kept
        by_length = kept[np.lexsort((rng.random(len(kept)), self.lengths[kept]))]
        batches = [by_length[first : first + size] for first in range(0, len(kept), size)]
        return [batches[place] for place in rng.permutation(len(batches))]

    def in_order(self, words: int = EVALUATION_WORDS) -> list[NDArray[np.int64]]:
        """Return batches of at most `words` words, padding included, the shortest sentences first."""
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
    """Return a batch of trees. Their distances are computed if not given."""
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
    """A batch of trees, and its tensors on the device of the probes."""

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
        """Return the vectors of one layer, (sentences, n, d)."""
        return self.vectors[self.layers.index(layer)]

    def rows(self, layers: tuple[int, ...]) -> Tensor:
        """Return the words of some layers, (layers, sentences * n, d). They are a view if all layers are asked for."""
        rows = self.vectors.flatten(1, 2)
        return rows if layers == self.layers else rows[[self.layers.index(layer) for layer in layers]]


def read_batches(
    examples: Examples,
    plan: Sequence[NDArray[np.int64]],
    layers: Sequence[int],
    device: str | torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[LayerVectors, GoldTensors]]:
    """Yield the batches of a plan. The next one is read while the current one is in use."""
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
            # A copy even where the type is right: memory of torch's own is aligned alike in every run.
            of_layer = LayerVectors(chosen, torch.from_numpy(vectors).to(device).to(dtype, copy=True))
            yield of_layer, GoldTensors(gold, lengths, distances, depths, heads)
