"""Multilayer perceptrons over the vectors of targets: the probe of Voita and Titov's online code.

One probe for each input of the vectors, a layer say, all trained side by side: parameters (probes, ...), the same
first weights and batches for all, and for each a learning rate, decay and early stopping of its own, so that each
becomes what it would have become by itself, up to rounding.  Those that have stopped are computed no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.errors import ArrayError, OptionError
from bertft.probes.description_length import Stage
from bertft.probes.edge_model import target_losses
from bertft.probes.labelled import LabelledVectors, batches_in_order, read_batch, shuffled_batches

Parameters = list[Tensor]
"""Weights (probes, in, out) and biases (probes, 1, out), one layer after the other."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PerceptronRecipe:
    """How perceptrons are shaped and trained; the defaults are those of Voita and Titov's code.

    Adam on the loss of a sentence; after an epoch whose loss on what is held out is not below the best by the share
    `decay_threshold`, the learning rate is multiplied by `decay`; the weights kept are those of the last epoch that was
    better by `improvement` nats a sentence; a probe stops `patience` epochs after it.
    """

    hidden: int = 1000
    hidden_layers: int = 2
    epochs: int = 40
    batch: int = 20
    """Sentences."""
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.5
    decay_threshold: float = 1e-4
    improvement: float = 1e-3
    patience: int = 5


@dataclass(frozen=True, eq=False)
class PerceptronFit:
    """Trains perceptrons for the online code: a `Fit` of `bertft.probes.description_length`.

    >>> fit = PerceptronFit(vectors, PerceptronRecipe(hidden=200))  # doctest: +SKIP
    >>> codes = online_codes(vectors.targets, uniform_bits(45, several=False), fit)  # doctest: +SKIP
    """

    vectors: LabelledVectors
    recipe: PerceptronRecipe = PerceptronRecipe()
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    progress: Progress | None = None
    """Called as progress(done, total), in epochs of all stages; the total is the most they may take."""

    def __call__(self, stages: Sequence[Stage], seed: int) -> NDArray[np.float64]:
        """Train from fresh weights at every stage, one after the other; raises as `train_perceptrons` does."""
        found = np.empty((len(stages), self.vectors.inputs))
        for number, stage in enumerate(stages):
            parameters = train_perceptrons(
                self.vectors,
                stage.train,
                stage.held_out,
                recipe=self.recipe,
                seed=seed + number,
                device=self.device,
                dtype=self.dtype,
                progress=self._of_stage(number, len(stages)),
            )
            found[number] = nats(parameters, self.vectors, stage.block)
        return found

    def _of_stage(self, number: int, stages: int) -> Progress | None:
        told = self.progress
        return None if told is None else lambda done, total: told(number * total + done, stages * total)


def train_perceptrons(
    vectors: LabelledVectors,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    recipe: PerceptronRecipe | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Parameters:
    """Train a perceptron on each input of the vectors and return their best parameters.

    train, held_out: sentences by number.  progress: called as progress(done, total), in epochs.

    Raises `OptionError` for a recipe out of range or no sentences, `ArrayError` where a loss is not finite.

    Source: Voita and Titov 2020.
    """
    how = PerceptronRecipe() if recipe is None else recipe
    _check(how, train, held_out)
    best = _drawn(vectors, how, seed, device, dtype)
    watch = _Watch(how, vectors.inputs)
    parameters = [values.clone().requires_grad_() for values in best]
    adam = _Adam(how, parameters)
    active = list(range(vectors.inputs))
    for epoch in range(how.epochs):
        if progress is not None:
            progress(epoch, how.epochs)
        rates = torch.tensor([watch.rates[probe] for probe in active], dtype=dtype, device=device)
        for part in shuffled_batches(train, how.batch, np.random.default_rng([seed, epoch])):
            read, gold = read_batch(vectors, part, active, device, dtype)
            loss = target_losses(scores(parameters, read), gold, vectors.loss).sum() / len(part)
            adam.step(parameters, torch.autograd.grad(loss, parameters), rates)
        losses = nats(parameters, vectors, held_out, active) / len(held_out)
        if not np.isfinite(losses).all():
            raise ArrayError(
                f"input {active[int(np.flatnonzero(~np.isfinite(losses))[0])]} has a loss of nan or infinity in epoch "
                f"{epoch + 1}; the vectors are too large, or not finite"
            )
        going = []
        for place, (probe, value) in enumerate(zip(active, losses.tolist(), strict=True)):
            if watch.better(probe, epoch, value):
                for kept, own in zip(best, parameters, strict=True):
                    kept[probe] = own[place].detach()
            if not watch.done(probe, epoch):
                going.append(place)
        if len(going) < len(active):
            active = [active[place] for place in going]
            parameters = [values.detach()[going].requires_grad_() for values in parameters]
            adam.keep(going)
        if not active:
            break
    if progress is not None:
        progress(how.epochs, how.epochs)
    return best


def scores(parameters: Sequence[Tensor], vectors: Tensor) -> Tensor:
    """The scores (probes, targets, labels) of vectors (probes, targets, width)."""
    found = vectors
    for place, (weights, biases) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        found = torch.baddbmm(biases, torch.relu(found) if place else found, weights)
    return found


@torch.no_grad()
def nats(
    parameters: Sequence[Tensor],
    vectors: LabelledVectors,
    sentences: NDArray[np.int64],
    inputs: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """The nats of the labels of some sentences, (probes,), each probe on its input."""
    chosen = range(vectors.inputs) if inputs is None else inputs
    weights = parameters[0]
    total = torch.zeros(len(weights), dtype=torch.float64, device=weights.device)
    for part in batches_in_order(vectors, sentences):
        read, gold = read_batch(vectors, part, chosen, weights.device, weights.dtype)
        total += target_losses(scores(parameters, read), gold, vectors.loss).sum(dim=1)
    found: NDArray[np.float64] = total.cpu().numpy()
    return found


class _Watch:
    """Of every probe the learning rate, and when it was best."""

    def __init__(self, recipe: PerceptronRecipe, probes: int) -> None:
        self.recipe = recipe
        self.rates = [recipe.learning_rate] * probes
        self.plateau = [math.inf] * probes
        self.best = [math.inf] * probes
        self.best_epoch = [-1] * probes

    def better(self, probe: int, epoch: int, loss: float) -> bool:
        """Whether the weights of this epoch are to be kept; lowers the learning rate where need be."""
        if loss < self.plateau[probe] * (1 - self.recipe.decay_threshold):
            self.plateau[probe] = loss
        else:
            self.rates[probe] *= self.recipe.decay
        if loss < self.best[probe] - self.recipe.improvement:
            self.best[probe], self.best_epoch[probe] = loss, epoch
            return True
        return False

    def done(self, probe: int, epoch: int) -> bool:
        """Whether it is time to stop."""
        return epoch - self.best_epoch[probe] >= self.recipe.patience


class _Adam:
    """Adam, with a learning rate for each probe."""

    def __init__(self, recipe: PerceptronRecipe, parameters: Iterable[Tensor]) -> None:
        self.recipe = recipe
        self.moments = [(torch.zeros_like(values), torch.zeros_like(values)) for values in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, parameters: Sequence[Tensor], slopes: Sequence[Tensor], rates: Tensor) -> None:
        """One step at `rates` (probes,)."""
        (beta, beta_square), self.steps = self.recipe.betas, self.steps + 1
        sizes = (rates / (1 - beta**self.steps))[:, None, None]
        correction = math.sqrt(1 - beta_square**self.steps)
        for values, slope, (first, second) in zip(parameters, slopes, self.moments, strict=True):
            first.lerp_(slope, 1 - beta)
            second.mul_(beta_square).addcmul_(slope, slope, value=1 - beta_square)
            scale = second.sqrt().div_(correction).add_(self.recipe.epsilon)
            values.sub_(torch.div(first, scale, out=scale).mul_(sizes))

    def keep(self, going: Sequence[int]) -> None:
        """Let go of the other probes."""
        self.moments = [(first[going], second[going]) for first, second in self.moments]


def _drawn(
    vectors: LabelledVectors, recipe: PerceptronRecipe, seed: int, device: str | torch.device, dtype: torch.dtype
) -> Parameters:
    """First parameters: uniform within 1/√inputs, as torch begins linear layers, the same for every probe."""
    rng = np.random.default_rng(seed)
    drawn = []
    for before, after in itertools.pairwise([vectors.width, *[recipe.hidden] * recipe.hidden_layers, vectors.n_labels]):
        bound = 1 / math.sqrt(before)
        for shape in ((before, after), (1, after)):
            values = torch.from_numpy(rng.uniform(-bound, bound, shape)).to(device=device, dtype=dtype)
            drawn.append(values.expand(vectors.inputs, *shape).clone())
    return drawn


def _check(recipe: PerceptronRecipe, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> None:
    """Raise `OptionError` for what cannot be trained."""
    if not recipe.learning_rate > 0:
        raise OptionError(f"the learning rate is {recipe.learning_rate:g}; it must be above 0")
    if recipe.hidden < 1 or recipe.hidden_layers < 0 or recipe.epochs < 1 or recipe.batch < 1:
        raise OptionError(
            f"{recipe.hidden_layers} hidden layers of {recipe.hidden}, {recipe.epochs} epochs, batches of "
            f"{recipe.batch}; all but the number of hidden layers must be at least 1"
        )
    if not len(train) or not len(held_out):
        raise OptionError(f"{len(train)} sentences to train on and {len(held_out)} held out; give at least one of each")
