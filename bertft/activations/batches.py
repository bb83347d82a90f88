"""Batches of sentences of similar length within a budget of tokens, so that little is computed for padding.

In addition to the model's inputs, a batch holds the row numbers of its drawn tokens after (batch, length) is flattened.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.encode import TokenisedTexts
from bertft.activations.sampling import Draw

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Default number of tokens in a batch, padding included, by type of device."""

MAX_PADDING = 0.08
"""Largest share of padding in a batch, 0 to 1; a batch ends before it would exceed this."""


class Grouping(IntEnum):
    """Which sentences may share a batch, from the fastest to the slowest; of several models, the largest applies."""

    PADDED = 0
    """Sentences of similar length: padding changes nothing but the last digits."""
    ONE_LENGTH = 1
    """Sentences of one length: the hidden states depend on padding."""
    ALONE = 2
    """None: the hidden states depend on the other sentences of the batch."""


class Batch(NamedTuple):
    """A padded batch of b sentences with t tokens each, padding included, and r drawn tokens."""

    input_ids: Tensor  # [b, t]
    attention_mask: Tensor  # [b, t]
    token_type_ids: Tensor  # [b, t]
    rows: Tensor  # [r], the drawn tokens as rows of a (b * t, d) view
    sentences: NDArray[np.int64]  # [r], the sentence of each


def plan_batches(
    lengths: NDArray[np.int64],
    sentences: NDArray[np.int64],
    batch_tokens: int,
    grouping: Grouping = Grouping.PADDED,
) -> list[NDArray[np.int64]]:
    """Split `sentences` (indices into `lengths`) into batches, longest first.

    A batch of b sentences, the longest with t tokens, has b * t <= batch_tokens, and a share of padding of at most
    `MAX_PADDING`, or none at all, see `Grouping`. A sentence longer than the budget is a batch of its own.

    >>> [batch.tolist() for batch in plan_batches(np.array([9, 3, 10, 3]), np.arange(4), batch_tokens=20)]
    [[2, 0], [1, 3]]
    """
    if grouping is Grouping.ALONE:
        batch_tokens = 1
    most = MAX_PADDING if grouping is Grouping.PADDED else 0.0
    order = sentences[np.argsort(-lengths[sentences], kind="stable")]
    batches = []
    first, tokens = 0, 0
    for last, sentence in enumerate(order):
        cells = (last - first + 1) * lengths[order[first]]
        tokens += lengths[sentence]
        if last > first and (cells > batch_tokens or cells - tokens > most * cells):
            batches.append(order[first:last])
            first, tokens = last, lengths[sentence]
    return [*batches, order[first:]] if len(order) else []


def padding_share(lengths: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> float:
    """Return the share of padding in all batches, 0 to 1."""
    cells = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - sum(int(lengths[batch].sum()) for batch in batches) / cells if cells else 0.0


def make_batch(
    texts: TokenisedTexts, draw: Draw, members: NDArray[np.int64], pad_id: int, device: torch.device
) -> Batch:
    """Return the sentences `members` as a batch, padded on the right with `pad_id`."""
    lengths = texts.lengths[members]
    columns = np.arange(lengths.max())
    inside = columns < lengths[:, None]
    indices = np.where(inside, texts.starts[members][:, None] + columns, 0)

    first = np.searchsorted(draw.sentences, members, side="left")
    counts = np.searchsorted(draw.sentences, members, side="right") - first
    member = np.repeat(np.arange(len(members)), counts)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = first[member] + nth
    rows = member * len(columns) + draw.positions[drawn] - texts.starts[members[member]]

    return Batch(
        input_ids=torch.from_numpy(np.where(inside, texts.ids[indices], pad_id)).to(device),
        attention_mask=torch.from_numpy(inside.astype(np.int64)).to(device),
        token_type_ids=torch.from_numpy(np.where(inside, texts.types[indices], 0)).to(device),
        rows=torch.from_numpy(rows).to(device),
        sentences=draw.sentences[drawn],
    )
