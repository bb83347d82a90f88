"""Description length by the variational code: the bits of a probe's weights and of the labels given the weights.

The probe is a multilayer perceptron whose weights are random: the input i of a layer is multiplied by a scale z_i,
normal with a mean and a variance that are learned, and every weight and bias is normal too.  What the weights cost is
the divergence of these posteriors from priors: the improper normal-Jeffreys prior p(z) ~ 1/|z| for the scales, by the
approximation of Molchanov et al., and N(0, 1) for weights and biases.  Training minimises that cost plus the
cross-entropy of the labels; the code length is their sum at the end, with the labels coded by the posterior means.

An input whose scale is mostly noise, alpha = var z / (mean z)^2 large, costs next to nothing and can be left out, which
says how large a probe the labels need.

Probes of several inputs (layers, say) are one parameter each, (probes, ...), and are trained side by side on the same
batches, first weights and noise: each becomes what it would have become by itself, up to rounding.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bertft.errors import ArrayError, DataError, OptionError, PrecisionWarning
from bertft.probes.description_length import RELEASED_KBIT, ratio
from bertft.probes.edge_model import target_losses
from bertft.probes.labelled import LabelledVectors, batches_in_order, read_batch, shuffled_batches

MOLCHANOV = (0.63576, 1.87320, 1.48695)
"""k1, k2, k3 of the approximation of the divergence from the log-uniform prior, equation 14 of Molchanov et al."""

FIRST_LOG_VARIANCE = -9.0
FIRST_SPREAD = 0.01
"""Standard deviation around which scales and log-variances begin."""

_TINY = 1e-8
"""Keeps log alpha finite where the mean of a scale crosses zero."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class VariationalRecipe:
    """How the probe is shaped and trained; the defaults are those of Voita and Titov's code.

    Adam at a constant rate, no dropout and no early stopping.  `variance_clip` bounds the variances of the first
    layer's weights and biases after every step.  Their code has a bound of 0.04 that its training loop does not apply:
    with it no weight of that layer costs less than 1.63 bits, in all more than the whole code that they print.
    `thresholds`, one a layer, are of log alpha: inputs at or above them are pruned.
    """

    hidden: int = 1000
    hidden_layers: int = 2
    epochs: int = 200
    batch: int = 20
    """Sentences."""
    learning_rate: float = 1e-3
    variance_clip: float | None = None
    thresholds: tuple[float, ...] | None = None


@dataclass(frozen=True)
class VariationalCode:
    """The code of one probe's weights and labels.

    >>> code = VariationalCode(2 * math.log(2), 6 * math.log(2), targets=8, uniform_bits_per_target=2.0)
    >>> round(code.codelength_bits, 9), code.uniform_bits, round(code.compression, 9)
    (8.0, 16.0, 2.0)
    """

    weight_nats: float
    """The divergence of the posteriors from the priors."""
    label_nats: float
    """The cross-entropy of the labels under the posterior means."""
    targets: int
    uniform_bits_per_target: float
    kept: tuple[int, ...] = ()
    """Where thresholds were given, the inputs of each layer that are left."""
    loss_nats: tuple[float, ...] = ()
    """Weights plus labels, with sampled weights, by epoch."""

    @property
    def weight_bits(self) -> float:
        """What the weights take."""
        return self.weight_nats / math.log(2)

    @property
    def label_bits(self) -> float:
        """What the labels take given the weights."""
        return self.label_nats / math.log(2)

    @property
    def codelength_bits(self) -> float:
        """The description length of all labels."""
        return self.weight_bits + self.label_bits

    @property
    def uniform_bits(self) -> float:
        """The length of the same labels by the uniform code."""
        return self.targets * self.uniform_bits_per_target

    @property
    def compression(self) -> float:
        """How many times shorter the code is than the uniform one."""
        return ratio(self.uniform_bits, self.codelength_bits)

    @property
    def released_kbits(self) -> float:
        """What the released code calls the code length in kbits: nats over 1024."""
        return (self.weight_nats + self.label_nats) / RELEASED_KBIT

    @property
    def released_compression(self) -> float:
        """What the released code calls compression: bits of the uniform code over nats."""
        return ratio(self.uniform_bits, self.weight_nats + self.label_nats)


def scale_divergence(log_alpha: Tensor) -> Tensor:
    """The nats that a normal scale takes under the normal-Jeffreys prior, by the ratio alpha of its variance to mean².

    An approximation whose error is below 0.009 nats; 0 where the scale is all noise.

    >>> [round(nats, 3) for nats in scale_divergence(torch.tensor([-9.0, 30.0])).tolist()]
    [5.136, 0.0]

    Source: Molchanov et al. 2017, equation 14.
    """
    k1, k2, k3 = MOLCHANOV
    # k1 (1 - sigmoid(t)) = k1 sigmoid(-t) keeps its digits where both are near 1.
    return k1 * torch.sigmoid(-k2 - k3 * log_alpha) - 0.5 * functional.logsigmoid(log_alpha)


def normal_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The nats that normals take under N(0, 1).

    >>> normal_divergence(torch.tensor(1.0), torch.tensor(0.0)).item()
    0.5
    """
    # expm1: near variance 1 the sum would cancel.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)


class BayesianLinear(nn.Module):
    """Linear layers of several probes whose inputs are scaled at random and whose weights are normal.

    Source: Louizos et al. 2017, the group normal-Jeffreys prior.
    """

    def __init__(
        self,
        probes: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        *,
        variance_clip: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.log_clip = None if variance_clip is None else math.log(variance_clip)

        def drawn(mean: float, deviation: float, *shape: int) -> nn.Parameter:
            # Drawn once, on the CPU and in double: every probe begins alike, whatever the device and the type.
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            return nn.Parameter((mean + deviation * noise).to(dtype).expand(probes, *shape).clone())

        self.scale_mean = drawn(1.0, FIRST_SPREAD, inputs)
        self.scale_log_variance = drawn(FIRST_LOG_VARIANCE, FIRST_SPREAD, inputs)
        self.weight_mean = drawn(0.0, 1 / math.sqrt(inputs), inputs, outputs)
        self.weight_log_variance = drawn(FIRST_LOG_VARIANCE, FIRST_SPREAD, inputs, outputs)
        self.bias_mean = drawn(0.0, 0.0, outputs)
        self.bias_log_variance = drawn(FIRST_LOG_VARIANCE, FIRST_SPREAD, outputs)

    def forward(self, vectors: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """(probes, n, inputs) to (probes, n, outputs), by the posterior means or, with `noise`, by sampled weights.

        Samples differ from row to row: of each output only mean and variance are computed, and the output is drawn.
        """
        if noise is None:
            return torch.baddbmm(self.bias_mean.unsqueeze(1), vectors * self.scale_mean.unsqueeze(1), self.weight_mean)
        deviations = torch.exp(0.5 * self.scale_log_variance).unsqueeze(1)
        scaled = vectors * (self.scale_mean.unsqueeze(1) + deviations * _noise(vectors, noise))
        mean = torch.baddbmm(self.bias_mean.unsqueeze(1), scaled, self.weight_mean)
        variance = torch.baddbmm(
            self.bias_log_variance.exp().unsqueeze(1), scaled.square(), self.weight_log_variance.exp()
        )
        return mean + variance.sqrt() * _noise(mean, noise)

    def log_alpha(self) -> Tensor:
        """The log of variance over squared mean of each input's scale, (probes, inputs)."""
        return self.scale_log_variance - torch.log(self.scale_mean.square() + _TINY)

    def divergence(self) -> Tensor:
        """The nats of scales, weights and biases, (probes,)."""
        return (
            scale_divergence(self.log_alpha()).sum(dim=1)
            + normal_divergence(self.weight_mean, self.weight_log_variance).sum(dim=(1, 2))
            + normal_divergence(self.bias_mean, self.bias_log_variance).sum(dim=1)
        )

    @torch.no_grad()
    def clip_variances(self) -> None:
        """Bring the variances of weights and biases back below the bound, after a step."""
        if self.log_clip is not None:
            self.weight_log_variance.clamp_(max=self.log_clip)
            self.bias_log_variance.clamp_(max=self.log_clip)


class BayesianPerceptron(nn.Module):
    """Multilayer perceptrons of Bayesian layers, several side by side: linear, ReLU, ..., linear."""

    def __init__(
        self,
        probes: int,
        width: int,
        n_labels: int,
        recipe: VariationalRecipe,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes = [width, *[recipe.hidden] * recipe.hidden_layers, n_labels]
        self.layers = nn.ModuleList(
            BayesianLinear(
                probes, before, after, generator, variance_clip=None if place else recipe.variance_clip, dtype=dtype
            )
            for place, (before, after) in enumerate(itertools.pairwise(sizes))
        )

    def forward(self, vectors: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Scores (probes, n, labels) of vectors (probes, n, width)."""
        scores = vectors
        for place, layer in enumerate(self.layers):
            scores = layer(torch.relu(scores) if place else scores, noise)
        return scores

    def divergence(self) -> Tensor:
        """The nats of all weights, (probes,)."""
        found: Tensor = torch.stack([layer.divergence() for layer in self.bayesian]).sum(dim=0)
        return found

    def clip_variances(self) -> None:
        """Bring variances back below their bounds."""
        for layer in self.bayesian:
            layer.clip_variances()

    def kept(self, thresholds: Sequence[float]) -> list[tuple[int, ...]]:
        """Of each probe the number of inputs of each layer whose log alpha is below the layer's threshold."""
        alphas = zip(self.bayesian, thresholds, strict=True)
        counts = [(layer.log_alpha() < threshold).sum(dim=1).tolist() for layer, threshold in alphas]
        return list(zip(*counts, strict=True))

    @property
    def bayesian(self) -> list[BayesianLinear]:
        """The layers, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, BayesianLinear)]


def variational_codes(
    vectors: LabelledVectors,
    uniform_bits_per_target: float,
    sentences: NDArray[np.int64] | None = None,
    *,
    recipe: VariationalRecipe | None = None,
    seed: int = 1234,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> list[VariationalCode]:
    """Train a Bayesian perceptron on each input of the vectors, and return the code of the labels with each.

    sentences: those to code, by default all that have targets.  progress: called as progress(done, total), in epochs.

    Raises `OptionError` for a recipe out of range, `DataError` where there are no targets, `ArrayError` where a loss
    is not finite.  Warns, with a `PrecisionWarning`, where there are too few steps for what the weights cost to come
    down: a step of Adam moves a log-variance by about the learning rate, and they have to rise from -9.

    >>> codes = variational_codes(vectors, uniform_bits(45, several=False))  # doctest: +SKIP
    >>> [round(code.compression, 2) for code in codes]  # doctest: +SKIP
    [3.51, 4.02]

    Source: Voita and Titov 2020; Louizos et al. 2017.
    """
    how = VariationalRecipe() if recipe is None else recipe
    _check(how)
    chosen = np.arange(len(vectors.targets)) if sentences is None else np.asarray(sentences, dtype=np.int64)
    chosen = chosen[vectors.targets[chosen] > 0]
    targets = int(vectors.targets[chosen].sum())
    if not targets:
        raise DataError("no sentence has targets; give at least one that has")
    steps = how.epochs * math.ceil(len(chosen) / how.batch)
    if steps * how.learning_rate < -FIRST_LOG_VARIANCE:
        warnings.warn(
            f"{steps:,} steps at a learning rate of {how.learning_rate:g} are too few for the weights of the "
            f"variational code, whose log-variances begin at {FIRST_LOG_VARIANCE:g}: what they cost is too much; give "
            "more epochs, or a higher rate",
            PrecisionWarning,
            stacklevel=2,
        )
    model = BayesianPerceptron(vectors.inputs, vectors.width, vectors.n_labels, how, _seeded(seed), dtype=dtype)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=how.learning_rate)
    noise = _seeded(seed, device)
    every = range(vectors.inputs)
    losses: list[list[float]] = []
    for epoch in range(how.epochs):
        if progress is not None:
            progress(epoch, how.epochs)
        labels = torch.zeros(vectors.inputs, dtype=torch.float64, device=device)
        for part in shuffled_batches(chosen, how.batch, np.random.default_rng([seed, epoch])):
            read, gold = read_batch(vectors, part, every, device, dtype)
            nats = target_losses(model(read, noise), gold, vectors.loss).sum(dim=1)
            loss = nats + model.divergence() * (read.shape[1] / targets)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            model.clip_variances()
            labels += nats.detach()
        with torch.no_grad():
            losses.append((labels + model.divergence()).tolist())
        if not np.isfinite(losses[-1]).all():
            raise ArrayError(
                f"the loss is {losses[-1]} in epoch {epoch + 1}; the vectors are too large, or not finite, or the "
                f"learning rate, {how.learning_rate:g}, is too high"
            )
    with torch.no_grad():
        labels = torch.zeros(vectors.inputs, dtype=torch.float64, device=device)
        for part in batches_in_order(vectors, chosen):
            read, gold = read_batch(vectors, part, every, device, dtype)
            labels += target_losses(model(read), gold, vectors.loss).sum(dim=1)
        weights = model.double().divergence().tolist()
        kept = [()] * vectors.inputs if how.thresholds is None else model.kept(how.thresholds)
    if progress is not None:
        progress(how.epochs, how.epochs)
    return [
        VariationalCode(
            weight_nats=weights[probe],
            label_nats=nats,
            targets=targets,
            uniform_bits_per_target=uniform_bits_per_target,
            kept=kept[probe],
            loss_nats=tuple(of_epoch[probe] for of_epoch in losses),
        )
        for probe, nats in enumerate(labels.tolist())
    ]


def _check(recipe: VariationalRecipe) -> None:
    """Raise `OptionError` for a recipe that cannot be followed."""
    if not recipe.learning_rate > 0:
        raise OptionError(f"the learning rate is {recipe.learning_rate:g}; it must be above 0")
    if recipe.hidden < 1 or recipe.hidden_layers < 0 or recipe.epochs < 1 or recipe.batch < 1:
        raise OptionError(
            f"{recipe.hidden_layers} hidden layers of {recipe.hidden}, {recipe.epochs} epochs, batches of "
            f"{recipe.batch}; all but the number of hidden layers must be at least 1"
        )
    if recipe.thresholds is not None and len(recipe.thresholds) != recipe.hidden_layers + 1:
        raise OptionError(
            f"{len(recipe.thresholds)} thresholds for {recipe.hidden_layers + 1} layers; give one for each"
        )


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal rows, (1, n, width), the same for every probe."""
    return torch.randn((1, *like.shape[1:]), generator=generator, dtype=like.dtype, device=like.device)


def _seeded(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
