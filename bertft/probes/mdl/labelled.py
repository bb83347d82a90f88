"""Vectors with labels, for probes that classify one target at a time, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.probes.edge.model import Loss

EVALUATION_TARGETS = 4000
"""Targets of an evaluation batch."""


class LabelledVectors(Protocol):
    """The targets of sentences: their labels, and for each a vector of every input, for instance of every layer."""

    @property
    def inputs(self) -> int:
        """The number of inputs: of vectors of a target, and of probes trained side by side."""

    @property
    def width(self) -> int:
        """The size of a vector."""

    @property
    def n_labels(self) -> int:
        """The number of labels."""

    @property
    def loss(self) -> Loss:
        """`softmax` if each target has exactly one label, `sigmoid` if it may have any number."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """The number of targets of each sentence, (n,)."""

    def batch(self, sentences: NDArray[np.int64], inputs: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the vectors of some inputs, (inputs, targets, width), and the labels, 0 or 1, (targets, labels)."""


def shuffled_batches(sentences: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield batches of `size` sentences in random order."""
    order = rng.permutation(sentences)
    for first in range(0, len(order), size):
        yield order[first : first + size]


def batches_in_order(vectors: LabelledVectors, sentences: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield batches of about `EVALUATION_TARGETS` targets: whole sentences, in the order given."""
    before = np.cumsum(vectors.targets[sentences]) - vectors.targets[sentences]
    yield from np.split(sentences, np.flatnonzero(np.diff(before // EVALUATION_TARGETS)) + 1)


def read_batch(
    vectors: LabelledVectors,
    sentences: NDArray[np.int64],
    inputs: Sequence[int],
    device: str | torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return a batch on the device of the probes and in their type."""
    read, labels = vectors.batch(sentences, inputs)
    return read.to(device=device, dtype=dtype), labels.to(device=device, dtype=dtype)
