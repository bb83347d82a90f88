"""Multilayer perceptrons over the vectors of targets: the probes of Voita and Titov's online code.

There is one probe for each input of the vectors, for instance a layer. All are trained side by side, as parameters
(probes, ...), from the same initial weights and on the same batches. Each has its own learning rate and early stopping.

Probes trained together give the same result as probes trained alone, up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.errors import ArrayError, OptionError
from bertft.probes.edge.model import target_losses
from bertft.probes.mdl.labelled import LabelledVectors, batches_in_order, read_batch, shuffled_batches
from bertft.probes.mdl.online import Stage
from bertft.probes.side_by_side import Optimiser, Schedule
from bertft.progress import PhaseProgress

Parameters = list[Tensor]
"""Weights (probes, in, out) and biases (probes, 1, out) of each layer in turn."""


@dataclass(frozen=True)
class PerceptronRecipe:
    """The shape and training of perceptrons. The defaults are those of Voita and Titov's code.

    The optimiser is Adam, on the mean loss of a sentence. After each epoch the loss of the held-out sentences is
    computed. The learning rate is multiplied by `decay` if the loss is not below the best by the share
    `decay_threshold`. The weights kept are those of the last epoch whose loss was lower by `improvement` nats a
    sentence, and training ends `patience` epochs after it.
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

    @property
    def schedule(self) -> Schedule:
        """The decay of the learning rate and the early stopping."""
        return Schedule.of(self)


@dataclass(frozen=True, eq=False)
class PerceptronFit:
    """Train perceptrons for the online code. This is a `Fit` of `bertft.probes.mdl.online`.

    >>> fit = PerceptronFit(vectors, PerceptronRecipe(hidden=200))  # doctest: +SKIP
    >>> codes = online_codes(vectors.targets, uniform_bits(45, several=False), fit)  # doctest: +SKIP
    """

    vectors: LabelledVectors
    recipe: PerceptronRecipe = PerceptronRecipe()
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    progress: PhaseProgress | None = None
    """Called as progress(done, total), in epochs of all stages. The total is the largest possible number."""

    def __call__(self, stages: Sequence[Stage], seed: int) -> NDArray[np.float64]:
        """Train from new initial weights at each stage, one stage after the other. Raises as `train_perceptrons`."""
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

    def _of_stage(self, number: int, stages: int) -> PhaseProgress | None:
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
    progress: PhaseProgress | None = None,
) -> Parameters:
    """Train a perceptron on each input of the vectors. Return the best parameters of all.

    train, held_out: indices of sentences. progress: called as progress(done, total), in epochs.

    Raises `OptionError` for a recipe out of range and for no sentences, and `ArrayError` if a loss is not finite.

    Source: Voita and Titov 2020.
    """
    how = PerceptronRecipe() if recipe is None else recipe
    _check(how, train, held_out)
    drawn = [values.requires_grad_() for values in _drawn(vectors, how, seed, device, dtype)]
    optimiser = Optimiser(drawn, how.schedule, betas=how.betas, epsilon=how.epsilon)
    for epoch in range(how.epochs):
        if progress is not None:
            progress(epoch, how.epochs)
        for part in shuffled_batches(train, how.batch, np.random.default_rng([seed, epoch])):
            read, gold = read_batch(vectors, part, optimiser.active, device, dtype)
            parameters = optimiser.parameters
            loss = target_losses(scores(parameters, read), gold, vectors.loss).sum() / len(part)
            optimiser.step(torch.autograd.grad(loss, parameters))
        losses = nats(optimiser.parameters, vectors, held_out, optimiser.active) / len(held_out)
        if not np.isfinite(losses).all():
            wrong = optimiser.active[int(np.flatnonzero(~np.isfinite(losses))[0])]
            raise ArrayError(
                f"input {wrong} has a loss of nan or infinity in epoch {epoch + 1}; the vectors are too large, or not "
                "finite"
            )
        optimiser.validated(losses.tolist())
        if not optimiser.active:
            break
    if progress is not None:
        progress(how.epochs, how.epochs)
    return optimiser.best


def scores(parameters: Sequence[Tensor], vectors: Tensor) -> Tensor:
    """Return the scores (probes, targets, labels) of vectors (probes, targets, width)."""
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
    """Return the cost of the labels of some sentences in nats, (probes,), each probe on its own input."""
    chosen = range(vectors.inputs) if inputs is None else inputs
    weights = parameters[0]
    total = torch.zeros(len(weights), dtype=torch.float64, device=weights.device)
    for part in batches_in_order(vectors, sentences):
        read, gold = read_batch(vectors, part, chosen, weights.device, weights.dtype)
        total += target_losses(scores(parameters, read), gold, vectors.loss).sum(dim=1)
    found: NDArray[np.float64] = total.cpu().numpy()
    return found


def _drawn(
    vectors: LabelledVectors, recipe: PerceptronRecipe, seed: int, device: str | torch.device, dtype: torch.dtype
) -> Parameters:
    """Return initial parameters, the same for every probe: uniform within 1/√inputs, as torch's linear layers."""
    rng = np.random.default_rng(seed)
    drawn = []
    for before, after in itertools.pairwise([vectors.width, *[recipe.hidden] * recipe.hidden_layers, vectors.n_labels]):
        bound = 1 / math.sqrt(before)
        for shape in ((before, after), (1, after)):
            values = torch.from_numpy(rng.uniform(-bound, bound, shape)).to(device=device, dtype=dtype)
            drawn.append(values.expand(vectors.inputs, *shape).clone())
    return drawn


def _check(recipe: PerceptronRecipe, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> None:
    """Raise `OptionError` for a recipe out of range and for empty sets of sentences."""
    if not recipe.learning_rate > 0:
        raise OptionError(f"the learning rate is {recipe.learning_rate:g}; it must be above 0")
    if recipe.hidden < 1 or recipe.hidden_layers < 0 or recipe.epochs < 1 or recipe.batch < 1:
        raise OptionError(
            f"{recipe.hidden_layers} hidden layers of {recipe.hidden}, {recipe.epochs} epochs, batches of "
            f"{recipe.batch}; all but the number of hidden layers must be at least 1"
        )
    if not len(train) or not len(held_out):
        raise OptionError(f"{len(train)} sentences to train on and {len(held_out)} held out; give at least one of each")
