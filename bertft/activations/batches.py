"""Sentences in batches of like length, within a budget of tokens, so that little is computed for padding.

A batch carries, beside the model's inputs, where its drawn tokens lie once (batch, length) is flattened to rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.encode import TokenisedTexts
from bertft.activations.sampling import Draw

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Token places of a batch, padding included, where none are given; by the kind of device."""

MAX_PADDING = 0.08
"""The share of a batch that padding may take; a batch is closed before it would take more."""


class Batch(NamedTuple):
    """A padded batch of b sentences, t tokens long, r of whose tokens were drawn."""

    input_ids: Tensor  # [b, t]
    attention_mask: Tensor  # [b, t]
    token_type_ids: Tensor  # [b, t]
    rows: Tensor  # [r], the drawn tokens as rows of a (b * t, d) view
    sentences: NDArray[np.int64]  # [r], the sentence of each


def plan_batches(
    lengths: NDArray[np.int64], sentences: NDArray[np.int64], batch_tokens: int
) -> list[NDArray[np.int64]]:
    """Split `sentences` (numbers into `lengths`) into batches, longest first.

    A batch of b sentences, the longest of t tokens, has b * t <= batch_tokens, and padding takes at most `MAX_PADDING`
    of it; a sentence longer than the budget makes a batch of its own.

    >>> [batch.tolist() for batch in plan_batches(np.array([9, 3, 10, 3]), np.arange(4), batch_tokens=20)]
    [[2, 0], [1, 3]]
    """
    order = sentences[np.argsort(-lengths[sentences], kind="stable")]
    batches = []
    first, tokens = 0, 0
    for last, sentence in enumerate(order):
        cells = (last - first + 1) * lengths[order[first]]
        tokens += lengths[sentence]
        if last > first and (cells > batch_tokens or cells - tokens > MAX_PADDING * cells):
            batches.append(order[first:last])
            first, tokens = last, lengths[sentence]
    return [*batches, order[first:]] if len(order) else []


def padding_share(lengths: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> float:
    """The part of all computed token places that is padding, 0 to 1."""
    cells = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - sum(int(lengths[batch].sum()) for batch in batches) / cells if cells else 0.0


def make_batch(
    texts: TokenisedTexts, draw: Draw, members: NDArray[np.int64], pad_id: int, device: torch.device
) -> Batch:
    """The sentences `members` side by side, padded on the right with `pad_id`."""
    lengths = texts.lengths[members]
    columns = np.arange(lengths.max())
    inside = columns < lengths[:, None]
    places = np.where(inside, texts.starts[members][:, None] + columns, 0)

    first = np.searchsorted(draw.sentences, members, side="left")
    counts = np.searchsorted(draw.sentences, members, side="right") - first
    member = np.repeat(np.arange(len(members)), counts)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = first[member] + nth
    rows = member * len(columns) + draw.positions[drawn] - texts.starts[members[member]]

    return Batch(
        input_ids=torch.from_numpy(np.where(inside, texts.ids[places], pad_id)).to(device),
        attention_mask=torch.from_numpy(inside.astype(np.int64)).to(device),
        token_type_ids=torch.from_numpy(np.where(inside, texts.types[places], 0)).to(device),
        rows=torch.from_numpy(rows).to(device),
        sentences=draw.sentences[drawn],
    )
