"""One base and several tuned models over the same batches, as chunks of rows that line up token by token.

The base runs once a batch.  A tuned model that shares its first layers with the base starts where they part.
Memory is bounded by `MIN_ROWS` and one batch: a chunk leaves as soon as it has rows enough for efficient products.
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
"""A chunk holds at least so many rows (the last one excepted): adding up (d, d) products over fewer costs as much as
the products."""

LayerRows = dict[int, Tensor]
"""Layer to rows, (r, d)."""


class TunedModel(NamedTuple):
    """A model compared with the base, whose layers 0 to `shared_depth` equal the base's (-1: none does)."""

    model: Any
    shared_depth: int


class Chunk(NamedTuple):
    """Rows of the same r tokens; layers that a tuned model shares with the base are not in its rows."""

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
) -> Iterator[Chunk]:
    """Yield the drawn rows of `layers` of all models, in chunks.

    The base is read where some tuned model differs, and at `base_layers`; models with nothing to read are not run.
    """
    differing = [{layer for layer in layers if layer > other.shared_depth} for other in tuned]
    base_layers = set(base_layers).union(*differing)
    if not base_layers:
        return
    prefix_layers = {other.shared_depth for other, own in zip(tuned, differing, strict=True) if own} - {-1}
    held: list[Chunk] = []
    for batch in batches:
        reading = read_layers(base, batch, base_layers, prefix_layers=prefix_layers)
        tuned_rows = tuple(
            read_layers(other.model, batch, own, prefix=reading.prefixes.get(other.shared_depth)).rows if own else {}
            for other, own in zip(tuned, differing, strict=True)
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
    # Each layer leaves its parts as it is joined, so that no more than one layer is held twice.
    return {layer: torch.cat([part.pop(layer) for part in parts]) for layer in list(parts[0])}
