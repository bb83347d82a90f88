"""Training of structural probes: linear maps under which word vectors have the distances and depths of syntax trees.

A *distance probe* B predicts the path length between words i and j as |B^T (h_i - h_j)|^2. A *depth probe* predicts
the depth of word i as |B^T h_i|^2. `train_probes` trains both kinds, on all layers and at several ranks, in one pass
over the vectors. The probes of a kind are one parameter (probes, hidden, rank). Probes of a lower rank are padded with
columns of zeros, whose gradient is zero.

Probes trained together give the same result as probes trained alone, up to rounding.

Memory: one batch of vectors of all layers, and the gold distances, 2 bytes for each pair of words of a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.errors import ArrayError, OptionError
from bertft.probes.side_by_side import Optimiser, Schedule
from bertft.probes.structural.evaluation import DepthEvaluation as DepthEvaluation
from bertft.probes.structural.evaluation import DistanceEvaluation as DistanceEvaluation
from bertft.probes.structural.examples import Examples, GoldTensors, LayerVectors, read_batches
from bertft.probes.structural.losses import depth_loss, distance_loss, tree_loss
from bertft.probes.threads import one_thread
from bertft.progress import PhaseProgress

Kind = Literal["distance", "depth"]
KINDS: tuple[Kind, ...] = ("distance", "depth")
Evaluation = DistanceEvaluation | DepthEvaluation


@dataclass(frozen=True)
class Recipe:
    """How probes are trained. The defaults are those of Hewitt and Manning's code.

    The optimiser is Adam. After each epoch the loss on the development set is computed. The learning rate is multiplied
    by `decay` if the loss is not below the best by the share `decay_threshold`. The weights kept are those of the last
    epoch whose loss was lower by `improvement`, and training ends `patience` epochs after it.
    """

    epochs: int = 40
    batch: int = 20
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.1
    decay_threshold: float = 1e-4
    improvement: float = 1e-4
    patience: int = 5
    initial: float = 0.05
    """Weights are initialised uniformly between plus and minus this."""
    tree_loss: bool = False
    """Add the structured perceptron's loss to that of the distances."""

    @property
    def schedule(self) -> Schedule:
        """The decay of the learning rate and the early stopping."""
        return Schedule.of(self, least_change=1e-8)  # as torch's ReduceLROnPlateau, which the reference uses


RECIPES = {"paper": Recipe(), "today": Recipe(tree_loss=True)}
"""paper: Hewitt and Manning 2019. today: the same, plus the loss of Hall Maudslay et al. 2020."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A trained probe: its best weights (hidden, rank) on the CPU, and the losses and learning rates of all epochs."""

    kind: Kind
    layer: int
    rank: int
    weights: Tensor
    best_epoch: int
    dev_losses: tuple[float, ...]
    train_losses: tuple[float, ...]
    learning_rates: tuple[float, ...]

    @property
    def dev_loss(self) -> float:
        """The loss of the weights kept, on the development set."""
        return self.dev_losses[self.best_epoch]


def train_probes(
    train: Examples,
    dev: Examples,
    layers: Sequence[int],
    *,
    ranks: Sequence[int] = (64,),
    kinds: Sequence[Kind] = KINDS,
    recipe: Recipe = RECIPES["paper"],
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: PhaseProgress | None = None,
) -> list[Probe]:
    """Train a probe of each kind on each layer at each rank, in one pass an epoch over the vectors.

    The result is that of training each probe alone on the same batches, up to rounding. The initial weights of a probe
    depend only on the seed and on its kind, layer and rank. The batches depend only on the seed.

    On the CPU, the layers are divided among as many workers as torch has threads, each of one thread.

    progress: called now and then as progress(done, total), in batches. The total is that of all epochs; early stopping
    usually ends before it.

    Raises `OptionError` for a rank out of range, no layer or no kind, and `ArrayError` if a loss is not finite.

    >>> probes = train_probes(train, dev, layers=range(13))  # doctest: +SKIP
    >>> min(probes, key=lambda probe: probe.dev_loss).layer  # doctest: +SKIP
    7

    Source: Hewitt and Manning 2019.
    """
    if not layers or not kinds or recipe.epochs < 1 or recipe.batch < 1:
        raise OptionError(
            f"{len(layers)} layers, {len(kinds)} kinds of probe, {recipe.epochs} epochs, batches of {recipe.batch}; "
            "each must be at least 1"
        )
    width = int(dev.vectors.padded(dev.vectors.kept[:1], layers[:1]).shape[-1])
    for rank in ranks:
        if not 1 <= rank <= width:
            raise OptionError(f"rank is {rank}; give a whole number from 1 to {width}, the width of the vectors")
    plans = _Plans(train, recipe, seed)
    workers = min(torch.get_num_threads(), len(layers)) if torch.device(device).type == "cpu" else 1
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        shards = [
            [_Trainer(kind, layers[first::workers], ranks, width, recipe, seed, device, dtype) for kind in kinds]
            for first in range(workers)
        ]
        futures = [pool.submit(_train, trainers, train, dev, plans, device, dtype) for trainers in shards]
        try:
            while wait(futures, timeout=0.1, return_when=FIRST_EXCEPTION).not_done:
                if progress is not None:
                    progress(min(plans.done, plans.total), plans.total)
                if any(future.done() and future.exception() for future in futures):
                    break
        finally:
            plans.stopped = True
        for future in futures:
            future.result()
    found = {(p.kind, p.layer, p.rank): p for trainers in shards for trainer in trainers for p in trainer.probes()}
    return [found[kind, layer, rank] for kind in kinds for rank in ranks for layer in layers]


class _Plans:
    """The batches of each epoch, and the progress of the workers, who share `done` and `stopped` between threads."""

    def __init__(self, train: Examples, recipe: Recipe, seed: int) -> None:
        self.train = train
        self.recipe = recipe
        self.seed = seed
        self.steps = math.ceil(len(train.vectors.kept) / recipe.batch)
        self.total = recipe.epochs * self.steps
        self.done = 0
        self.stopped = False

    def of_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the batches of an epoch, the same for every worker."""
        return self.train.shuffled(self.recipe.batch, np.random.default_rng([self.seed, epoch]))


def _train(
    trainers: Sequence[_Trainer],
    train: Examples,
    dev: Examples,
    plans: _Plans,
    device: str | torch.device,
    dtype: torch.dtype,
) -> None:
    """Train the probes of some layers until all of them have stopped."""
    for epoch in range(plans.recipe.epochs):
        layers = _active_layers(trainers)
        if not layers:
            return
        for step, (of_layer, gold) in enumerate(read_batches(train, plans.of_epoch(epoch), layers, device, dtype)):
            for trainer in trainers:
                trainer.learn(of_layer, gold)
            if plans.stopped:
                return
            plans.done = max(plans.done, epoch * plans.steps + step + 1)
        for of_layer, gold in read_batches(dev, dev.in_order(), layers, device, dtype):
            for trainer in trainers:
                trainer.try_on_dev(of_layer, gold)
        for trainer in trainers:
            trainer.end_epoch(epoch)


def _active_layers(trainers: Sequence[_Trainer]) -> list[int]:
    return sorted({history.layer for trainer in trainers for history in trainer.active})


@dataclass
class _History:
    """One probe, and its losses and learning rates so far."""

    layer: int
    rank: int
    dev_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)


class _Trainer:
    """All probes of one kind: the weights of those still active are one parameter (active, hidden, rank)."""

    def __init__(
        self,
        kind: Kind,
        layers: Sequence[int],
        ranks: Sequence[int],
        width: int,
        recipe: Recipe,
        seed: int,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.kind = kind
        self.recipe = recipe
        self.histories: list[_History] = []
        weights = torch.zeros((len(ranks) * len(layers), width, max(ranks)), dtype=dtype)
        for rank in ranks:
            for layer in layers:
                rng = np.random.default_rng([seed, KINDS.index(kind), layer, rank])
                drawn = rng.uniform(-recipe.initial, recipe.initial, (width, rank))
                weights[len(self.histories), :, :rank] = torch.from_numpy(drawn)
                self.histories.append(_History(layer, rank))
        self.optimiser = Optimiser([weights.to(device)], recipe.schedule, betas=recipe.betas, epsilon=recipe.epsilon)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.active = [self.histories[probe] for probe in self.optimiser.active]
        (self.weights,) = self.optimiser.parameters
        self.train_sums, self.dev_sums = (
            torch.zeros(len(self.active), dtype=torch.float64, device=self.weights.device) for _ in range(2)
        )
        self.train_count = self.dev_count = 0

    def _projected(self, of_layer: LayerVectors) -> tuple[Tensor, Tensor]:
        """Return the words (probes, words, d), and their projections by the probes (probes, sentences, n, rank)."""
        rows = of_layer.rows(tuple(history.layer for history in self.active))
        sentences, n = of_layer.vectors.shape[1:3]
        return rows, torch.bmm(rows, self.weights).view(len(self.active), sentences, n, -1)

    def _loss(self, projected: Tensor, gold: GoldTensors) -> tuple[Tensor, Tensor]:
        """Return the loss of each probe, and the gradient by the projections."""
        if self.kind == "depth":
            return depth_loss(projected, gold.depths, gold.lengths)
        loss, gradient = distance_loss(projected, gold.distances, gold.lengths)
        if self.recipe.tree_loss:
            more, further = tree_loss(projected, gold.heads, gold.lengths)
            loss, gradient = loss + more, gradient.add_(further)
        return loss, gradient

    def learn(self, of_layer: LayerVectors, gold: GoldTensors) -> None:
        """Take one step with all active probes."""
        if not self.active:
            return
        rows, projected = self._projected(of_layer)
        loss, gradient = self._loss(projected, gold)
        self.train_sums += loss * len(gold.lengths)
        self.train_count += len(gold.lengths)
        self.optimiser.step([torch.bmm(rows.transpose(1, 2), gradient.flatten(1, 2))])

    def try_on_dev(self, of_layer: LayerVectors, gold: GoldTensors) -> None:
        """Add the loss of one batch of the development set."""
        if self.active:
            loss, _ = self._loss(self._projected(of_layer)[1], gold)
            self.dev_sums += loss * len(gold.lengths)
            self.dev_count += len(gold.lengths)

    def end_epoch(self, epoch: int) -> None:
        """Record the losses of the epoch, and drop the probes that have stopped."""
        if not self.active:
            return
        train_losses = (self.train_sums / self.train_count).tolist()
        dev_losses = (self.dev_sums / self.dev_count).tolist()
        for probe, train_loss, dev_loss in zip(self.optimiser.active, train_losses, dev_losses, strict=True):
            history = self.histories[probe]
            if not math.isfinite(dev_loss):
                raise ArrayError(
                    f"the {self.kind} probe of layer {history.layer} has a loss of {dev_loss} in epoch {epoch + 1}; "
                    "the vectors are too large, or not finite"
                )
            history.train_losses.append(train_loss)
            history.dev_losses.append(dev_loss)
            history.learning_rates.append(self.optimiser.monitors[probe].learning_rate)
        self.optimiser.validated(dev_losses)
        self._start_epoch()

    def probes(self) -> Iterator[Probe]:
        """Yield the trained probes."""
        (best,) = self.optimiser.best
        for history, weights, monitor in zip(self.histories, best, self.optimiser.monitors, strict=True):
            yield Probe(
                kind=self.kind,
                layer=history.layer,
                rank=history.rank,
                weights=weights[:, : history.rank].clone().cpu(),
                best_epoch=monitor.best,
                dev_losses=tuple(history.dev_losses),
                train_losses=tuple(history.train_losses),
                learning_rates=tuple(history.learning_rates),
            )
