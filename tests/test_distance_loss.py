"""The loss of distance probes and its gradient: every backend against torch's autograd in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_cases import serving

from bertft.errors import ArrayError, BackendError
from bertft.kernels import reference
from bertft.probes.structural.distance_loss import distance_loss


@pytest.fixture(params=["cpu", "reference", "gpu", "gpu-small"])
def backend(request, monkeypatch):
    """Return each backend that has the loss. Names with -small use tiles so small that the inputs cross their edges."""
    return serving(request.param, monkeypatch)


def random_batch(seed, layers, lengths, rank, n=None, spread=1.0):
    """Return words far from the origin with an outlier, and gold distances on both sides of the predicted ones."""
    rng = np.random.default_rng(seed)
    n = n or max(lengths)
    projected = rng.standard_normal((layers, len(lengths), n, rank)) * spread * 2 / rank**0.5
    projected += rng.standard_normal((layers, 1, 1, rank))
    projected[..., 0] += 5
    gold = rng.integers(1, 9, (len(lengths), n, n))
    gold = np.minimum(gold, gold.transpose(0, 2, 1))
    gold[:, range(n), range(n)] = 0
    for sentence, length in enumerate(lengths):
        if length > 3:
            projected[:, sentence, 3] = projected[:, sentence, 0]  # equal words
        projected[:, sentence, length:] = np.nan
        gold[sentence, length:] = gold[sentence, :, length:] = -1
    return projected.astype(np.float32), gold, np.array(lengths)


def straightforward(projected, gold, lengths, slopes):
    """Return losses and gradient in float64, all differences stored, and the distance of the nearest pair to a tie."""
    words = torch.tensor(projected, dtype=torch.float64, requires_grad=True)
    losses, nearest = [], np.inf
    for sentence, n in enumerate(lengths):
        differences = words[:, sentence, :n, None] - words[:, sentence, None, :n]
        apart = differences.square().sum(-1) - torch.as_tensor(gold[sentence, :n, :n])
        nearest = min([nearest, *apart.detach().abs()[:, ~torch.eye(n, dtype=torch.bool)].ravel().tolist()])
        losses.append(apart.abs().sum((1, 2)) / n**2)
    losses = torch.stack(losses, 1)
    (losses * slopes).sum().backward()
    return losses.detach().numpy(), words.grad.numpy(), nearest


@pytest.mark.parametrize(
    ("seed", "layers", "lengths", "rank", "n"),
    [
        (0, 2, [1, 2, 5, 40, 33, 7], 64, None),
        (1, 1, [17, 1, 16, 15], 1, None),
        (2, 3, [9, 12], 70, 31),
        (3, 2, [32, 31], 17, None),
        (4, 1, [66, 3], 5, None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_against_autograd(backend, seed, layers, lengths, rank, n, dtype):
    projected, gold, lengths = random_batch(seed, layers, lengths, rank, n)
    slopes = torch.as_tensor(np.random.default_rng(seed).standard_normal((layers, len(lengths))))
    losses, gradient, nearest = straightforward(projected, gold, lengths, slopes)
    # Closer to a tie than the rounding error, the sign is undetermined.
    assert nearest > 1e-5
    device = backend.device
    words = torch.tensor(projected, device=device, requires_grad=True)
    found = distance_loss(
        words, torch.as_tensor(gold, dtype=dtype, device=device), torch.as_tensor(lengths), backend=backend.name
    )
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().cpu().numpy(), losses, rtol=1e-6, atol=0)
    (found * slopes.to(device)).sum().backward()
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(words.grad.cpu().numpy(), gradient, rtol=0, atol=1e-6 * largest)
    for sentence, length in enumerate(lengths):
        assert (words.grad[:, sentence, length:] == 0).all()


def test_padding_never_matters(backend):
    projected, gold, lengths = random_batch(5, 2, [7, 20, 1], 12, n=37)
    ops, device = backend.ops, backend.device

    def both(words, distances):
        arrays = torch.as_tensor(words, device=device), torch.as_tensor(distances, device=device).float()
        arrays = [array.contiguous() if ops.arrays == "torch" else array.numpy() for array in arrays]
        return [np.asarray(torch.as_tensor(part).cpu()) for part in ops.distance_loss(*arrays, lengths)]

    losses, gradient = both(projected, gold)
    beyond = np.where(gold < 0, 1e30, gold)
    again, same = both(np.nan_to_num(projected, nan=-7.0), beyond)
    np.testing.assert_allclose(again, losses, rtol=1e-6)
    np.testing.assert_allclose(same, gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
    if backend.name != "gpu":  # there the padding determines the tile, and so the order of sums
        narrow, small = both(projected[:, :, :20], beyond[:, :20, :20])
        np.testing.assert_allclose(narrow, losses, rtol=1e-6)
        np.testing.assert_allclose(small, gradient[:, :, :20], rtol=0, atol=1e-6 * np.abs(gradient).max())


def test_where_both_agree_the_slope_is_zero(backend):
    # Small whole numbers have exact distances. All are equal except one pair of the first sentence, in one direction.
    rng = np.random.default_rng(6)
    words = rng.integers(-20, 20, (1, 2, 35, 9)).astype(np.float32)
    words[0, :, 4] = words[0, :, 30]
    exact = words[0].astype(np.float64)
    gold = np.square(exact[:, :, None] - exact[:, None]).sum(-1)
    gold[0, 2, 34] += 3
    device = backend.device
    projected = torch.tensor(words, device=device, requires_grad=True)
    losses = distance_loss(
        projected, torch.as_tensor(gold, device=device).float(), torch.tensor([35, 35]), backend=backend.name
    )
    losses.sum().backward()
    found, expected = projected.grad[0].cpu().numpy(), np.zeros((2, 35, 9))
    expected[0, 2] = -2 * (exact[0, 2] - exact[0, 34]) / 35**2
    expected[0, 34] = -expected[0, 2]
    assert losses.tolist() == [[pytest.approx(3 / 35**2, rel=1e-6), 0.0]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert (found[1] == 0).all()


@pytest.mark.parametrize("spread", [1e-12, 1e-3, 1e4])
def test_words_of_any_magnitude(backend, spread):
    rng = np.random.default_rng(7)
    words = (rng.standard_normal((1, 1, 12, 20)) * spread).astype(np.float32)
    gold = np.zeros((1, 12, 12))
    losses, gradient = reference.distance_loss(words, gold, [12])
    device = backend.device
    projected = torch.tensor(words, device=device, requires_grad=True)
    gold = torch.as_tensor(gold, device=device).float()
    found = distance_loss(projected, gold, torch.tensor([12]), backend=backend.name)
    found.sum().backward()
    np.testing.assert_allclose(found.detach().cpu().numpy(), losses, rtol=2e-6)
    np.testing.assert_allclose(projected.grad.cpu().numpy(), gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_float64_and_second_use(name):
    projected, gold, lengths = random_batch(8, 2, [6, 9], 4)
    words = torch.tensor(np.nan_to_num(projected), dtype=torch.float64, requires_grad=True)
    given = torch.as_tensor(gold), torch.as_tensor(lengths)
    assert torch.autograd.gradcheck(lambda p: distance_loss(p, *given, backend=name), words)
    # The gradient is constant in the graph: its own gradient is an error, not zero.
    (slope,) = torch.autograd.grad(distance_loss(words, *given, backend=name).square().sum(), words, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # as NumPy computes
def test_what_overflowed_shows(backend):
    words = np.ones((1, 2, 5, 3), dtype=np.float32)
    words[0, 1, 2] = np.inf
    ops = backend.ops
    arrays = words, np.zeros((2, 5, 5), dtype=np.float32)
    if ops.arrays == "torch":
        arrays = [torch.as_tensor(array, device=backend.device) for array in arrays]
    losses = torch.as_tensor(ops.distance_loss(*arrays, np.array([5, 5]))[0])
    assert losses[0, 0] == 0
    assert not losses[0, 1].isfinite()


def test_bad_input_is_refused():
    words, gold, lengths = torch.zeros(1, 2, 3, 4), torch.zeros(2, 3, 3), torch.tensor([3, 2])
    for changed, message in [
        ((words[0], gold, lengths), r"projected has shape \(2, 3, 4\).*expected \(layers, batch, n, rank\)"),
        ((words.half(), gold, lengths), "type torch.float16; expected .* float32 or float64"),
        ((words, gold[:1], lengths), r"gold has shape \(1, 3, 3\); expected \(2, 3, 3\)"),
        ((words, gold, lengths[:1]), r"lengths has shape \(1,\); expected \(2,\)"),
        ((words, gold, lengths.float()), "lengths has type torch.float32; expected whole numbers"),
        ((words, gold, lengths + 1), "sentence 0 has length 4; expected 0 to 3"),
        ((words, gold.to("meta"), lengths), "projected is on cpu and gold on meta"),
    ]:
        with pytest.raises(ArrayError, match=message):
            distance_loss(*changed)


@pytest.mark.usefixtures("needs_triton")
def test_a_gpu_refuses_float64(monkeypatch):
    words, gold, lengths = torch.zeros(1, 2, 3, 4), torch.zeros(2, 3, 3), torch.tensor([3, 2])
    with pytest.raises(ArrayError, match=r"float64; on a GPU .* convert it with .float\(\)"):
        serving("gpu", monkeypatch).ops.distance_loss(words.double(), gold, lengths)


@pytest.mark.usefixtures("needs_triton")
def test_a_backend_that_cannot_serve_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"'gpu' cannot serve: the arrays are on the CPU"):
        distance_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2), torch.tensor([2]), backend="gpu")
