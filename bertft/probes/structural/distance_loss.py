"""The L1 loss of distance probes as a differentiable operation of torch. Loss and gradient are computed in one pass."""
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from bertft import kernels
from bertft.arrays import as_torch
from bertft.errors import ArrayError

FLOATS = (torch.float32, torch.float64)


def losses_and_gradient(
    projected: torch.Tensor, gold: torch.Tensor, lengths: torch.Tensor, backend: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every layer and sentence, (layers, batch), and the gradient of their sum by `projected`."""
    ops = kernels.select(str(projected.device), backend)
    given: tuple[Any, ...] = projected.detach(), gold, lengths
    if ops.arrays == "torch":
        losses, gradient = ops.distance_loss(*given)
    else:
        losses, gradient = map(as_torch, ops.distance_loss(*(part.numpy() for part in given)))
    return losses.to(projected.dtype), gradient.to(projected.dtype)


class _DistanceLoss(torch.autograd.Function):
    """The gradient is computed with the loss, at the cost of one more matrix product, and scaled in `backward`."""

    @staticmethod
    def forward(
        ctx: Any, projected: torch.Tensor, gold: torch.Tensor, lengths: torch.Tensor, backend: str
    ) -> torch.Tensor:
        losses, gradient = losses_and_gradient(projected, gold, lengths, backend)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scaled: torch.Tensor = slope[:, :, None, None] * gradient
        return scaled, None, None, None


def distance_loss(
    projected: torch.Tensor, gold: torch.Tensor, lengths: torch.Tensor, *, backend: str = "auto"
) -> torch.Tensor:
    """Return the L1 loss of squared distances between projected words against those in the tree, (layers, batch).

    `projected` is (layers, batch, n, rank), float32 or, on the CPU, float64. `gold` is (batch, n, n). `lengths`
    (batch,) are whole numbers up to n. Values beyond a length are not read and get gradient 0.

    The loss of a sentence is the mean of |distance - gold| over all n² pairs of its words, as in the reference code. It
    can be differentiated once, with respect to `projected`. On a GPU, no predicted distance is stored.

    Raises `ArrayError` for wrong shapes, types, devices and lengths, and `BackendError` if the backend cannot be used.

    >>> words = torch.tensor([[[[0.0], [1.0], [3.0]]]], requires_grad=True)  # squared distances 1, 4 and 9
    >>> loss = distance_loss(words, torch.tensor([[[0, 1, 2], [1, 0, 1], [2, 1, 0]]]), torch.tensor([3]))
    >>> loss.sum().backward()
    >>> round(loss.item(), 4), (words.grad.ravel() * 9).round().tolist()  # 2 (0 + 7 + 3) / 9
    (2.2222, [-12.0, -8.0, 20.0])

    Source: Hewitt and Manning 2019, section 2.
    """
    if projected.ndim != 4 or projected.shape[3] == 0 or projected.dtype not in FLOATS:
        raise ArrayError(
            f"projected has shape {tuple(projected.shape)} and type {projected.dtype}; "
            "expected (layers, batch, n, rank), a rank of at least 1, in float32 or float64"
        )
    _, batch, n, _ = projected.shape
    for name, array, shape in (("gold", gold, (batch, n, n)), ("lengths", lengths, (batch,))):
        if tuple(array.shape) != shape:
            raise ArrayError(f"{name} has shape {tuple(array.shape)}; expected {shape}, to go with projected")
    if lengths.is_floating_point():
        raise ArrayError(f"lengths has type {lengths.dtype}; expected whole numbers")
    if gold.device != projected.device:
        raise ArrayError(
            f"projected is on {projected.device} and gold on {gold.device}; move gold to the device of projected"
        )
    if lengths.device.type == "cpu":
        # Lengths on a GPU are not checked: reading them would synchronise with it.
        wrong = (lengths < 0) | (lengths > n)
        if wrong.any():
            sentence = int(wrong.int().argmax())
            raise ArrayError(f"sentence {sentence} has length {int(lengths[sentence])}; expected 0 to {n}")
    losses: torch.Tensor = _DistanceLoss.apply(projected, gold, lengths, backend)
    return losses
