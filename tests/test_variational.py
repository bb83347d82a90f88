"""The layers of the variational code: divergences against integrals and samples, outputs against the textbook."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from bertft.probes.mdl.variational import (
    FIRST_LOG_VARIANCE,
    BayesianLinear,
    BayesianPerceptron,
    VariationalRecipe,
    normal_divergence,
    scale_divergence,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(probes: int = 2, inputs: int = 5, outputs: int = 3, **more: Any) -> BayesianLinear:
    """Return a layer in float64 whose probes differ and whose variances are not negligible."""
    found = BayesianLinear(probes, inputs, outputs, seeded(), dtype=torch.float64, **more)
    with torch.no_grad():
        for values in found.parameters():
            values += torch.randn(values.shape, generator=seeded(1), dtype=torch.float64)
        for values in (found.scale_log_variance, found.weight_log_variance, found.bias_log_variance):
            values += 7
    return found


def log_uniform_divergence(log_alpha: float) -> float:
    """Return KL(N(1, alpha) || 1/|z|) by quadrature, with the constant by which it tends to 0 for large alpha.

    E log|1 + s e| - log s for standard normal e and s = sqrt alpha, against E log|e|.
    """
    s = math.exp(log_alpha / 2)

    def inside(e: float) -> float:
        return math.exp(-0.5 * e * e) / math.sqrt(2 * math.pi) * math.log(abs(1 / s + e))

    zero = -1 / s
    parts = [(-40.0, 0.0), (0.0, 40.0)] if abs(zero) > 39 else [(-40.0, zero), (zero, zero + 1e-3), (zero + 1e-3, 40.0)]
    expected = sum(integrate.quad(inside, *part, limit=400)[0] for part in parts)
    limit = -(np.euler_gamma + math.log(2)) / 2
    return expected - limit


@pytest.mark.parametrize("log_alpha", [-12.0, -9.0, -6.0, -4.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_the_divergence_of_scales_is_that_of_the_integral(log_alpha: float) -> None:
    """The tolerance is the accuracy that the authors state, 0.009."""
    found = scale_divergence(torch.tensor(log_alpha, dtype=torch.float64)).item()
    assert found == pytest.approx(log_uniform_divergence(log_alpha), abs=0.009)


def test_the_divergence_of_scales_by_samples() -> None:
    alpha = 0.3
    draws = np.random.default_rng(0).standard_normal(1_000_000)
    noise = np.log(np.abs(draws)).mean()
    sampled = np.log(np.abs(1 + math.sqrt(alpha) * draws)).mean() - math.log(math.sqrt(alpha)) - noise
    found = scale_divergence(torch.tensor(math.log(alpha), dtype=torch.float64)).item()
    assert found == pytest.approx(sampled, abs=0.009 + 0.004)


def test_the_divergence_of_scales_never_falls_below_zero_and_keeps_its_digits() -> None:
    log_alpha = torch.linspace(-30, 60, 500, dtype=torch.float64)
    found = scale_divergence(log_alpha)
    assert (found >= 0).all()
    assert (found.diff() < 0).all()
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    textbook = -(k1 * torch.sigmoid(k2 + k3 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha)) - k1)
    torch.testing.assert_close(found, textbook, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.7, 0.04), (-2.0, 3.0), (0.1, math.exp(-9))])
def test_the_divergence_of_normals_is_the_integral(mean: float, variance: float) -> None:
    deviation = math.sqrt(variance)

    def inside(e: float) -> float:
        """Return log q - log p at mean + deviation * e, times the density of q."""
        x = mean + deviation * e
        ratio = -0.5 * e * e - math.log(deviation) + 0.5 * x * x
        return math.exp(-0.5 * e * e) / math.sqrt(2 * math.pi) * ratio

    wanted, _ = integrate.quad(inside, -12, 12)
    found = normal_divergence(*torch.tensor([mean, math.log(variance)], dtype=torch.float64))
    assert found.item() == pytest.approx(wanted, abs=1e-9)
    of_torch = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), deviation),
        torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0),
    )
    assert found.item() == pytest.approx(of_torch.item(), abs=1e-12)


def textbook_divergence(own: dict[str, Tensor]) -> Tensor:
    """Return the divergence of one probe, summed over its scales, weights and biases."""
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    total = torch.zeros((), dtype=torch.float64)
    for mean, log_variance in zip(own["scale_mean"], own["scale_log_variance"], strict=True):
        log_alpha = log_variance - torch.log(mean**2 + 1e-8)
        total = total - k1 * torch.sigmoid(k2 + k3 * log_alpha) + 0.5 * torch.log(1 + torch.exp(-log_alpha)) + k1
    for name in ("weight", "bias"):
        means, log_variances = own[f"{name}_mean"].flatten(), own[f"{name}_log_variance"].flatten()
        for mean, log_variance in zip(means, log_variances, strict=True):
            total = total - 0.5 * log_variance + 0.5 * (torch.exp(log_variance) + mean**2) - 0.5
    return total


def textbook_outputs(own: dict[str, Tensor], vectors: Tensor, noise: torch.Generator) -> Tensor:
    """Return the outputs row by row: sampled scales, then outputs sampled by mean and variance (local
    reparametrisation)."""
    scale_noise = torch.randn((1, *vectors.shape), generator=noise, dtype=torch.float64)[0]
    output_noise = torch.randn((1, len(vectors), own["bias_mean"].shape[-1]), generator=noise, dtype=torch.float64)[0]
    rows = []
    for row, of_scales, of_outputs in zip(vectors, scale_noise, output_noise, strict=True):
        scales = own["scale_mean"] + torch.sqrt(torch.exp(own["scale_log_variance"])) * of_scales
        scaled = row * scales
        mean = own["bias_mean"] + sum(x * w for x, w in zip(scaled, own["weight_mean"], strict=True))
        spread = torch.exp(own["bias_log_variance"]) + sum(
            x**2 * torch.exp(v) for x, v in zip(scaled, own["weight_log_variance"], strict=True)
        )
        rows.append(mean + torch.sqrt(spread) * of_outputs)
    return torch.stack(rows)


def test_outputs_divergence_and_gradients_are_the_textbook_s() -> None:
    bayesian = layer()
    vectors = torch.randn((2, 4, 5), generator=seeded(2), dtype=torch.float64)
    weights = torch.randn((2, 4, 3), generator=seeded(3), dtype=torch.float64)
    found = bayesian(vectors, seeded(4))
    divergence = bayesian.divergence()
    ((found * weights).sum() + 0.3 * divergence.sum()).backward()
    for probe in range(2):
        own = {name: p.detach()[probe].clone().requires_grad_() for name, p in bayesian.named_parameters()}
        outputs, nats = textbook_outputs(own, vectors[probe], seeded(4)), textbook_divergence(own)
        torch.testing.assert_close(found[probe], outputs, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(divergence[probe], nats, rtol=1e-10, atol=1e-10)
        ((outputs * weights[probe]).sum() + 0.3 * nats).backward()
        for name, parameter in bayesian.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad[probe], own[name].grad, rtol=1e-9, atol=1e-9)


def test_samples_have_the_mean_and_variance_of_the_posterior() -> None:
    bayesian = layer(probes=1)
    row = torch.randn((1, 1, 5), generator=seeded(2), dtype=torch.float64)
    with torch.no_grad():
        drawn = bayesian(row.expand(1, 200_000, 5), seeded(3))[0]
        scale, scale_variance = bayesian.scale_mean[0], bayesian.scale_log_variance[0].exp()
        weight, weight_variance = bayesian.weight_mean[0], bayesian.weight_log_variance[0].exp()
        # Var(z w) = (z² + var z) var w + var z w² of independent z and w; the inputs are independent of each other.
        of_products = (scale.square() + scale_variance)[:, None] * weight_variance
        of_products += scale_variance[:, None] * weight.square()
        variance = bayesian.bias_log_variance[0].exp() + row[0, 0].square() @ of_products
        mean = bayesian(row)[0, 0]
        np.testing.assert_allclose(mean, bayesian.bias_mean[0] + (row[0, 0] * scale) @ weight, rtol=1e-12)
        error = (variance / len(drawn)).sqrt()
        assert ((drawn.mean(dim=0) - mean).abs() < 5 * error).all()
        torch.testing.assert_close(drawn.var(dim=0), variance, rtol=0.05, atol=0)


def test_first_parameters_are_those_of_the_reference_and_the_same_for_all_probes() -> None:
    bayesian = BayesianLinear(3, 400, 50, seeded())
    assert bayesian.scale_mean.mean().item() == pytest.approx(1, abs=0.002)
    assert bayesian.weight_mean.std().item() == pytest.approx(1 / 20, rel=0.05)
    assert not bayesian.bias_mean.any()
    for values in (bayesian.scale_log_variance, bayesian.weight_log_variance, bayesian.bias_log_variance):
        assert values.mean().item() == pytest.approx(FIRST_LOG_VARIANCE, abs=0.01)
    for parameter in bayesian.parameters():
        assert (parameter == parameter[0]).all()


def test_variances_of_the_first_layer_alone_are_clipped() -> None:
    recipe = VariationalRecipe(hidden=4, hidden_layers=2, variance_clip=0.04)
    model = BayesianPerceptron(2, 5, 3, recipe, seeded())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
    model.clip_variances()
    first, *others = model.bayesian
    assert len(others) == 2
    assert first.weight_log_variance.exp().max().item() == pytest.approx(0.04)
    assert first.bias_log_variance.exp().max().item() == pytest.approx(0.04)
    assert (first.scale_log_variance == 2).all()
    cheapest = normal_divergence(torch.tensor(0.0), first.weight_log_variance.detach().max()).item() / math.log(2)
    assert cheapest == pytest.approx(1.63, abs=0.005)
    assert all((other.weight_log_variance == 2).all() for other in others)


def test_the_perceptron_is_its_layers() -> None:
    recipe = VariationalRecipe(hidden=4, hidden_layers=2)
    model = BayesianPerceptron(2, 5, 3, recipe, seeded(), dtype=torch.float64)
    vectors = torch.randn((2, 6, 5), generator=seeded(1), dtype=torch.float64)
    first, second, third = model.bayesian
    torch.testing.assert_close(model(vectors), third(second(first(vectors).relu()).relu()))
    torch.testing.assert_close(model.divergence(), first.divergence() + second.divergence() + third.divergence())
    with torch.no_grad():
        second.scale_log_variance[1, :3] = 5.0
    assert model.kept((0.0, 0.0, 0.0)) == [(5, 4, 4), (5, 1, 4)]
