"""Vectors with labels, as probes that classify targets one by one read them, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.probes.edge.model import Loss

EVALUATION_TARGETS = 4000
"""Targets of a batch where nothing is learned and the size of batches is free."""


class LabelledVectors(Protocol):
    """The targets of sentences: each a vector of several inputs (layers, say), one for each probe, and its labels."""

    @property
    def inputs(self) -> int:
        """How many vectors a target has: as many as probes are trained side by side."""

    @property
    def width(self) -> int:
        """The length of a vector."""

    @property
    def n_labels(self) -> int:
        """How many labels there are."""

    @property
    def loss(self) -> Loss:
        """`softmax` where a target has exactly one label, `sigmoid` where it may have any number."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """How many targets each sentence has, (n,)."""

    def batch(self, sentences: NDArray[np.int64], inputs: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The vectors of some inputs (inputs, targets, width) and the labels, zeros and ones (targets, labels)."""


def shuffled_batches(sentences: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of `size` sentences in random order."""
    order = rng.permutation(sentences)
    for first in range(0, len(order), size):
        yield order[first : first + size]


def batches_in_order(vectors: LabelledVectors, sentences: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Batches of about `EVALUATION_TARGETS` targets, whole sentences in the order given."""
    before = np.cumsum(vectors.targets[sentences]) - vectors.targets[sentences]
    yield from np.split(sentences, np.flatnonzero(np.diff(before // EVALUATION_TARGETS)) + 1)


def read_batch(
    vectors: LabelledVectors,
    sentences: NDArray[np.int64],
    inputs: Sequence[int],
    device: str | torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """A batch where the probes are, in their type."""
    read, labels = vectors.batch(sentences, inputs)
    return read.to(device=device, dtype=dtype), labels.to(device=device, dtype=dtype)
