"""The nearest rows of every row by cosine, on a GPU: products, `topk` and sorts of plain torch, block by block.

Products in the type of the rows choose k + SPARE rows, whose cosines are computed again in float64. So a neighbour can
be missed only where SPARE others are within the rounding of its product.
"""

from __future__ import annotations

import torch

from bertft.kernels.types import Array, Rows

BLOCK, COLUMNS = 2048, 16384
"""Rows and columns of a block of products: 128 MiB in float32."""

SPARE = 16


def nearest_rows(x: Array, rows: Rows, k: int) -> Array:
    """Return the numbers of the k rows nearest to each row, (n, k) int64, see `bertft.kernels.reference`."""
    n, vectors = len(x), rows.vectors
    offsets = rows.offsets.to(vectors.dtype)
    inverses = torch.cat([1.0 / part.double().norm(dim=1) for part in x.split(BLOCK)])
    found = []
    for first in range(0, n, BLOCK):
        block = vectors[first : first + BLOCK]
        values = torch.empty(len(block), 0, dtype=vectors.dtype, device=vectors.device)
        numbers = torch.empty(len(block), 0, dtype=torch.int64, device=vectors.device)
        for low in range(0, n, COLUMNS):
            products = block @ vectors[low : low + COLUMNS].T + offsets[low : low + COLUMNS]
            products.diagonal(first - low).fill_(-torch.inf) if -len(block) < first - low < COLUMNS else None
            best = products.topk(min(k + SPARE, products.shape[1]), dim=1)
            values = torch.cat([values, best.values], dim=1)
            numbers = torch.cat([numbers, best.indices + low], dim=1)
            chosen = values.topk(min(k + SPARE, values.shape[1]), dim=1).indices
            values, numbers = values.gather(1, chosen), numbers.gather(1, chosen)
        found.append(_nearest_of(x, inverses, first, numbers, k))
    return torch.cat(found)


def _nearest_of(x: Array, inverses: Array, first: int, numbers: Array, k: int) -> Array:
    """Return the k nearest of the numbered rows of each row of a block, by cosines in float64, lower numbers first."""
    numbers = numbers.sort(dim=1).values
    nearest = []
    for low in range(0, len(numbers), 64):
        some = numbers[low : low + 64]
        itself = torch.arange(first + low, first + low + len(some), device=x.device)
        cosines = torch.einsum("rcd,rd->rc", x[some].double(), x[itself].double()) * inverses[some]
        cosines = cosines.masked_fill(some == itself[:, None], -torch.inf)
        order = cosines.sort(dim=1, descending=True, stable=True).indices[:, :k]
        nearest.append(some.gather(1, order))
    return torch.cat(nearest)
