"""The losses of structural probes and their gradients, for many probes at once.

A probe maps the vector of word i to p_i = B^T h_i. Distances are |p_i - p_j|^2 = |p_i|^2 + |p_j|^2 - 2 p_i . p_j, so
the largest array is (probes, sentences, n, n), never (..., n, n, rank). The losses of distances are sums of w_ij d_ij
whose weights are constant wherever the loss is differentiable. The gradient by p_i is
2 sum_j (w_ij + w_ji) (p_i - p_j), which for symmetric w is one more matrix product.

Each loss takes `projected` (probes, sentences, n, rank), gold values, and lengths (sentences,). Values after the end of
a sentence are not used. It returns the loss of each probe, (probes,), averaged over the sentences, and the gradient by
`projected`, which is 0 after the end of a sentence.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bertft import kernels
from bertft.probes.structural.distance_loss import losses_and_gradient


def squared_distances(projected: Tensor) -> Tensor:
    """Return |p_i - p_j|^2 for all words of each sentence, (..., n, n) of (..., n, rank).

    No distance is below 0, and that of a word to itself is 0.

    >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.0, 25.0], [25.0, 0.0]]
    """
    # Vectors of one sentence share an offset. It cancels in the distances but would increase the rounding error.
    centred = projected - projected.mean(dim=-2, keepdim=True)
    norms = centred.square().sum(dim=-1)
    products = centred @ centred.transpose(-1, -2)
    distances = (norms.unsqueeze(-1) + norms.unsqueeze(-2)).sub_(products, alpha=2).clamp_(min=0)
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    return distances


def distance_loss(projected: Tensor, gold: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of |d_ij - gold_ij| over all n² cells, gold (sentences, n, n), and the gradient.

    Source: Hewitt and Manning 2019, section 2.1.
    """
    losses, gradient = losses_and_gradient(projected, gold, lengths)
    return losses.mean(dim=1), gradient.div_(len(lengths))


def tree_loss(projected: Tensor, heads: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of distances along gold edges minus that along predicted edges, a word, and the gradient.

    `heads` (sentences, n) are counted from 1, 0 for the root. The predicted edges are those of the minimum spanning
    tree, so the loss is never below 0, and it is 0 if the trees are equal. The gradient is that of a structured
    perceptron.

    Source: Hall Maudslay et al. 2020, section 3.
    """
    n, (probes, sentences) = heads.shape[-1], projected.shape[:2]
    inside = words_inside(lengths, n)
    distances = squared_distances(projected)
    parents = kernels.select("cpu").spanning_trees(
        distances.flatten(0, 1).cpu().numpy(),
        np.tile(lengths.cpu().numpy(), probes),
        np.tile(inside.cpu().numpy(), (probes, 1)),
    )
    predicted = torch.from_numpy(parents).to(heads).view(probes, sentences, n)
    gold = torch.where(inside, heads - 1, -1)
    weights = (_edges(gold, distances) - _edges(predicted, distances)) / (len(lengths) * lengths)[:, None, None]
    return (weights * distances).sum(dim=(1, 2, 3)), _gradient(weights, projected)


def depth_loss(projected: Tensor, gold: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of | |p_i|^2 - gold_i | over the words, gold (sentences, n), and the gradient.

    Source: Hewitt and Manning 2019, section 2.2.
    """
    share = words_inside(lengths, gold.shape[-1]).to(projected.dtype) / (len(lengths) * lengths)[:, None]
    off = projected.square().sum(dim=-1).sub_(gold)
    loss = off.abs().mul_(share).sum(dim=(1, 2))
    return loss, projected * off.sign_().mul_(share).mul_(2).unsqueeze(-1)


def words_inside(lengths: Tensor, width: int) -> Tensor:
    """Return which cells of padded sentences hold a word, (sentences, width)."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(-1)


def _edges(parents: Tensor, like: Tensor) -> Tensor:
    """Return 0.5 in both cells of each edge to a parent, (..., n, n). Parents (..., n) count from 0, -1 for none."""
    n = parents.shape[-1]
    edges = torch.zeros((*parents.shape, n), dtype=like.dtype, device=like.device)
    edges.scatter_(-1, parents.clamp(min=0).unsqueeze(-1), (parents >= 0).to(like.dtype).unsqueeze(-1))
    return (edges + edges.transpose(-1, -2)).mul_(0.5)


def _gradient(weights: Tensor, projected: Tensor) -> Tensor:
    """Return the gradient by p of the sum of w_ij |p_i - p_j|^2, for symmetric w."""
    return (weights.sum(dim=-1, keepdim=True) * projected).sub_(weights @ projected).mul_(4)
