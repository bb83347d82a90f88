"""One base and several tuned models over the same batches, as chunks of rows that are aligned token by token.

The base runs once for each batch. A tuned model that shares its first layers with the base starts after them. Memory is
bounded by `MIN_ROWS` and one batch: a chunk is yielded as soon as it has enough rows for efficient products.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.batches import Batch
from bertft.activations.forward import read_layers

MIN_ROWS = 4096
"""Smallest number of rows in a chunk, except the last one. With fewer rows, adding the (d, d) products up would cost as
much as the products."""

LayerRows = dict[int, Tensor]
"""The rows, (r, d), by layer."""


class TunedModel(NamedTuple):
    """A model compared with the base; its layers 0 to `shared_depth` equal those of the base (-1 for none).

    by_hooks: how it is read, see `read_layers`.  resumes: whether it can start after the layers that it shares.
    """

    model: Any
    shared_depth: int
    by_hooks: bool = True
    resumes: bool = True

    @property
    def starts_at(self) -> int:
        """The layer whose hidden states it takes from the base; -1 where it runs from the beginning."""
        return self.shared_depth if self.by_hooks and self.resumes else -1


class Chunk(NamedTuple):
    """Rows of the same r tokens; the rows of a tuned model omit the layers that it shares with the base."""

    base: LayerRows
    tuned: tuple[LayerRows, ...]
    sentences: NDArray[np.int64]  # [r]


def stream(
    base: Any,
    tuned: Sequence[TunedModel],
    layers: Collection[int],
    batches: Iterable[Batch],
    *,
    base_layers: Collection[int] = (),
    by_hooks: bool = True,
) -> Iterator[Chunk]:
    """Yield the drawn rows of `layers` of all models, in chunks.

    The base is read at the layers where a tuned model differs, and at `base_layers`; without `by_hooks` it returns its
    hidden states itself, and no tuned model can start from them. Models with no layer to read are not run.
    """
    differing = [{layer for layer in layers if layer > other.shared_depth} for other in tuned]
    base_layers = set(base_layers).union(*differing)
    if not base_layers:
        return
    starts = [other.starts_at if by_hooks and own else -1 for other, own in zip(tuned, differing, strict=True)]
    prefix_layers = set(starts) - {-1}
    held: list[Chunk] = []
    for batch in batches:
        reading = read_layers(base, batch, base_layers, prefix_layers=prefix_layers, by_hooks=by_hooks)
        tuned_rows = tuple(
            read_layers(other.model, batch, own, prefix=reading.prefixes.get(start), by_hooks=other.by_hooks).rows
            if own
            else {}
            for other, own, start in zip(tuned, differing, starts, strict=True)
        )
        held.append(Chunk(reading.rows, tuned_rows, batch.sentences))
        if sum(len(chunk.sentences) for chunk in held) >= MIN_ROWS:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(
        _joined_rows([chunk.base for chunk in chunks]),
        tuple(_joined_rows(rows) for rows in zip(*(chunk.tuned for chunk in chunks), strict=True)),
        np.concatenate([chunk.sentences for chunk in chunks]),
    )


def _joined_rows(parts: Sequence[LayerRows]) -> LayerRows:
    # Parts are dropped layer by layer, so at most one layer is in memory twice.
    return {layer: torch.cat([part.pop(layer) for part in parts]) for layer in list(parts[0])}
