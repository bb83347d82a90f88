"""Structural probes: linear maps under which squared distances and norms of word vectors are those of syntax trees.

A *distance probe* B predicts the path length between words i and j as |B^T (h_i - h_j)|^2, a *depth probe* the depth of
word i as |B^T h_i|^2.  `train_probes` trains both kinds, on all layers and at several ranks, in one pass over the
vectors: the probes of a kind are one parameter (probes, hidden, rank), with columns of zeros, which stay zeros, beside
those of lower rank.  Each probe has its own learning rate, decay and early stopping, by a scaled step, and so becomes
what it would have become by itself, up to rounding; those that have stopped are computed no more.

Memory is that of one batch of vectors of all layers, and the gold distances, 2 bytes a pair of words of a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from bertft import kernels
from bertft.data.treebank import Tree
from bertft.errors import ArrayError, DataError, OptionError
from bertft.probes.punctuation import check_preset, keep_masks
from bertft.probes.structural_evaluation import DepthEvaluation as DepthEvaluation
from bertft.probes.structural_evaluation import DistanceEvaluation as DistanceEvaluation
from bertft.probes.structural_evaluation import evaluate_depths as evaluate_depths
from bertft.probes.structural_evaluation import evaluate_distances as evaluate_distances
from bertft.probes.structural_losses import depth_loss, distance_loss, squared_distances, tree_loss
from bertft.probes.threads import one_thread

Kind = Literal["distance", "depth"]
KINDS: tuple[Kind, ...] = ("distance", "depth")
Evaluation = DistanceEvaluation | DepthEvaluation
Progress = Callable[[int, int], None]

EVALUATION_WORDS = 2000
"""Words of a batch, padding included, where nothing is learned and the size of batches is free."""


class Vectors(Protocol):
    """Word vectors of sentences by layer, as `bertft.activations.cache.CachedVectors` has them."""

    @property
    def kept(self) -> NDArray[np.int64]:
        """The sentences that have vectors."""

    def padded(
        self, sentences: NDArray[np.int64], layers: Sequence[int] | None = None, *, dtype: DTypeLike = "f4"
    ) -> NDArray[Any]:
        """The vectors of some sentences, (layers, sentences, n, d), zeros after the end of each."""


@dataclass(frozen=True)
class Recipe:
    """How probes are trained; the defaults are those of Hewitt and Manning's code.

    Adam; after an epoch whose loss on the development set is not below the best by the share `decay_threshold`, the
    learning rate is multiplied by `decay`; the weights kept are those of the last epoch that was better by
    `improvement`; a probe stops `patience` epochs after it.  `tree_loss` adds the perceptron's loss to the distances'.
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
    """Weights begin uniform between plus and minus this."""
    tree_loss: bool = False


RECIPES = {"paper": Recipe(), "today": Recipe(tree_loss=True)}
"""paper: Hewitt and Manning 2019.  today: with the loss of Hall Maudslay et al. 2020 beside theirs."""


@dataclass(frozen=True)
class GoldBatch:
    """The trees of a batch, padded with zeros: lengths (s,), distances (s, n, n), depths (s, n), heads (s, n).

    All are NumPy arrays, but for distances and depths on the device of the predictions that they are compared with.
    """

    trees: tuple[Tree, ...]
    lengths: NDArray[np.int64]
    distances: Any
    depths: Any
    heads: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Trees and the vectors of their words; sentence i of one is sentence i of the other, and some have no vectors."""

    trees: tuple[Tree, ...]
    vectors: Vectors
    lengths: NDArray[np.int64] = field(init=False)
    _distances: list[NDArray[np.int16]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.vectors.kept):
            raise DataError("no sentence has vectors; give at least one")
        object.__setattr__(self, "lengths", np.array([len(tree) for tree in self.trees], dtype=np.int64))
        object.__setattr__(self, "_distances", [tree.distances() for tree in self.trees])

    def gold(self, sentences: NDArray[np.int64]) -> GoldBatch:
        """The trees of some sentences."""
        return pad_trees(
            [self.trees[sentence] for sentence in sentences], [self._distances[sentence] for sentence in sentences]
        )

    def shuffled(self, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Batches of `size` sentences of like length, in random order; which of a length come together is random."""
        kept = self.vectors.kept
        by_length = kept[np.lexsort((rng.random(len(kept)), self.lengths[kept]))]
        batches = [by_length[first : first + size] for first in range(0, len(kept), size)]
        return [batches[place] for place in rng.permutation(len(batches))]

    def in_order(self, words: int = EVALUATION_WORDS) -> list[NDArray[np.int64]]:
        """Batches of at most `words` words, padding included, shortest sentences first."""
        kept = self.vectors.kept
        kept = kept[np.argsort(self.lengths[kept], kind="stable")]
        batches, first = [], 0
        while first < len(kept):
            end = first + 1
            while end < len(kept) and (end + 1 - first) * self.lengths[kept[end]] <= words:
                end += 1
            batches.append(kept[first:end])
            first = end
        return batches


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
        """The loss on the development set of the weights kept."""
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
    progress: Progress | None = None,
) -> list[Probe]:
    """Train a probe of each kind on each layer at each rank, all in one pass an epoch over the vectors.

    Equal to training each by itself with the same batches, up to rounding.  A probe's first weights depend on the seed
    and on its kind, layer and rank alone, and the batches on the seed alone.  progress: called as progress(done,
    total) now and then, in batches; the total is that of all epochs, which early stopping rarely needs.

    On the CPU as many layers are trained side by side as torch has threads, each in one.

    Raises `OptionError` for a rank out of range, no layer or no kind, and `ArrayError` where a loss is not finite.

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
            [_Trainer.begun(kind, layers[first::workers], ranks, width, recipe, seed, device, dtype) for kind in kinds]
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
    """The batches of every epoch, and how far the workers have come; done and stopped are shared between threads."""

    def __init__(self, train: Examples, recipe: Recipe, seed: int) -> None:
        self.train = train
        self.recipe = recipe
        self.seed = seed
        self.steps = math.ceil(len(train.vectors.kept) / recipe.batch)
        self.total = recipe.epochs * self.steps
        self.done = 0
        self.stopped = False

    def of_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The same batches for every worker."""
        return self.train.shuffled(self.recipe.batch, np.random.default_rng([self.seed, epoch]))


def _train(
    trainers: Sequence[_Trainer],
    train: Examples,
    dev: Examples,
    plans: _Plans,
    device: str | torch.device,
    dtype: torch.dtype,
) -> None:
    """Train the probes of some layers to their end."""
    for epoch in range(plans.recipe.epochs):
        layers = _active_layers(trainers)
        if not layers:
            return
        for step, (of_layer, gold) in enumerate(_batches(train, plans.of_epoch(epoch), layers, device, dtype)):
            for trainer in trainers:
                trainer.learn(of_layer, gold)
            if plans.stopped:
                return
            plans.done = max(plans.done, epoch * plans.steps + step + 1)
        for of_layer, gold in _batches(dev, dev.in_order(), layers, device, dtype):
            for trainer in trainers:
                trainer.try_on_dev(of_layer, gold)
        for trainer in trainers:
            trainer.end_epoch(epoch)


def predict(
    probes: Sequence[Probe],
    examples: Examples,
    sentences: Sequence[NDArray[np.int64]] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[GoldBatch, list[NDArray[np.float32]]]]:
    """What each probe predicts, batch by batch: distances (s, n, n) or depths (s, n), with the gold trees.

    `sentences` are the batches to read, by default all that have vectors.
    """
    for gold, predicted in _predicted(probes, examples, sentences, device):
        yield gold.batch, [values.cpu().numpy() for values in predicted]


def evaluate_probes(
    probes: Sequence[Probe], examples: Examples, preset: str = "paper", *, device: str | torch.device = "cpu"
) -> list[Evaluation]:
    """The measures of each probe over all sentences that have vectors; see `evaluate_distances`, `evaluate_depths`."""
    results: list[Evaluation | None] = [None] * len(probes)
    with one_thread():
        for on_device, predicted in _predicted(probes, examples, None, device):
            # Predictions of a GPU stay there, beside the gold values, for as long as that is faster.
            gold = replace(on_device.batch, distances=on_device.distances, depths=on_device.depths)
            for place, (probe, values) in enumerate(zip(probes, predicted, strict=True)):
                found, so_far = evaluate_batch(probe.kind, values, gold, preset), results[place]
                results[place] = found if so_far is None else so_far.merge(found)  # type: ignore[arg-type]
    return [result for result in results if result is not None]


def evaluate_batch(kind: Kind, predicted: Any, gold: GoldBatch, preset: str) -> Evaluation:
    """The measures of one kind of prediction on one batch, with the preset's punctuation and gold edges.

    The predictions and the gold values lie on one device, as NumPy arrays or as tensors.
    """
    keep = _keep(gold, preset)
    if kind == "depth":
        return evaluate_depths(predicted, gold.depths, gold.lengths, keep, preset)
    heads = gold.heads if preset == "today" else None
    return evaluate_distances(predicted, gold.distances, gold.lengths, keep, preset, heads)


def pad_trees(trees: Sequence[Tree], distances: Sequence[NDArray[np.int16]] | None = None) -> GoldBatch:
    """A batch of trees, whose distances are computed where they are not given."""
    between = [tree.distances() for tree in trees] if distances is None else distances
    lengths = np.array([len(tree) for tree in trees], dtype=np.int64)
    cells = (len(trees), int(lengths.max()))
    batch = GoldBatch(
        tuple(trees), lengths, np.zeros((*cells, cells[1]), "f4"), np.zeros(cells, "f4"), np.zeros(cells, np.int64)
    )
    for row, (tree, own) in enumerate(zip(trees, between, strict=True)):
        batch.distances[row, : len(tree), : len(tree)] = own
        batch.depths[row, : len(tree)] = own[tree.heads.index(0)]
        batch.heads[row, : len(tree)] = tree.heads
    return batch


def spanning_edges(distances: NDArray[np.float32], gold: GoldBatch, preset: str) -> list[tuple[tuple[int, int], ...]]:
    """The edges of the tree predicted for each sentence, between words that the preset counts, numbered from 0."""
    parents = kernels.select("cpu").spanning_trees(distances, gold.lengths, _keep(gold, preset))
    return [tuple((word, int(parent)) for word, parent in enumerate(row) if parent >= 0) for row in parents]


def _keep(gold: GoldBatch, preset: str) -> NDArray[np.bool_]:
    return keep_masks([tree.xpos if check_preset(preset) == "paper" else tree.upos for tree in gold.trees], preset)


@dataclass(frozen=True)
class _OnDevice:
    """A batch of trees with its tensors where the probes are."""

    batch: GoldBatch
    lengths: Tensor
    distances: Tensor
    depths: Tensor
    heads: Tensor


@dataclass(frozen=True)
class _LayerVectors:
    """The vectors of some layers, (layers, sentences, n, d)."""

    layers: tuple[int, ...]
    vectors: Tensor

    def padded(self, layer: int) -> Tensor:
        return self.vectors[self.layers.index(layer)]

    def rows(self, layers: tuple[int, ...]) -> Tensor:
        """The words of some layers, (layers, sentences · n, d); copied only where it is not all of them in order."""
        rows = self.vectors.flatten(1, 2)
        return rows if layers == self.layers else rows[[self.layers.index(layer) for layer in layers]]


def _batches(
    examples: Examples,
    plan: Sequence[NDArray[np.int64]],
    layers: Sequence[int],
    device: str | torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[_LayerVectors, _OnDevice]]:
    """The batches of a plan, the next one read while the last is in use."""
    chosen = tuple(layers)
    on_disk = getattr(examples.vectors, "dtype", np.dtype(np.float32))

    def read(sentences: NDArray[np.int64]) -> tuple[NDArray[Any], GoldBatch]:
        return examples.vectors.padded(sentences, chosen, dtype=on_disk), examples.gold(sentences)

    with ThreadPoolExecutor(max_workers=1) as reader:
        pending: list[Future[tuple[NDArray[Any], GoldBatch]]] = [reader.submit(read, plan[0])]
        for following in [*plan[1:], None]:
            vectors, gold = pending.pop().result()
            if following is not None:
                pending.append(reader.submit(read, following))
            values = (torch.from_numpy(part).to(device) for part in (gold.distances, gold.depths))
            distances, depths = (part.to(dtype) for part in values)
            lengths, heads = (torch.from_numpy(part).to(device) for part in (gold.lengths, gold.heads))
            # A copy even where the type is right: memory of torch's own begins alike in every run.
            of_layer = _LayerVectors(chosen, torch.from_numpy(vectors).to(device).to(dtype, copy=True))
            yield of_layer, _OnDevice(gold, lengths, distances, depths, heads)


def _predicted(
    probes: Sequence[Probe],
    examples: Examples,
    sentences: Sequence[NDArray[np.int64]] | None,
    device: str | torch.device,
) -> Iterator[tuple[_OnDevice, list[Tensor]]]:
    """What `predict` gives, on the device."""
    plan = examples.in_order() if sentences is None else sentences
    layers = sorted({probe.layer for probe in probes})
    weights = [probe.weights.to(device, torch.float32) for probe in probes]
    for of_layer, gold in _batches(examples, plan, layers, device, torch.float32):
        predicted = []
        for probe, weight in zip(probes, weights, strict=True):
            projected = of_layer.padded(probe.layer) @ weight
            predicted.append(
                squared_distances(projected) if probe.kind == "distance" else projected.square().sum(dim=-1)
            )
        yield gold, predicted


def _active_layers(trainers: Sequence[_Trainer]) -> list[int]:
    return sorted({run.layer for trainer in trainers for run in trainer.active})


@dataclass
class _Run:
    """One probe on its way."""

    layer: int
    rank: int
    best: Tensor
    best_epoch: int = -1
    best_loss: float = math.inf
    plateau: float = math.inf
    """The loss that the next must be below by a share for the learning rate to stay."""
    learning_rate: float = 0.0
    dev_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)


class _Trainer:
    """All probes of one kind: those still active side by side in one parameter, with Adam's two moments."""

    def __init__(self, kind: Kind, recipe: Recipe, runs: list[_Run], weights: Tensor) -> None:
        self.kind = kind
        self.recipe = recipe
        self.runs = runs
        self.active = list(runs)
        self.weights = weights
        self.first, self.second = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = 0
        self._start_epoch()

    @classmethod
    def begun(
        cls,
        kind: Kind,
        layers: Sequence[int],
        ranks: Sequence[int],
        width: int,
        recipe: Recipe,
        seed: int,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> _Trainer:
        runs: list[_Run] = []
        weights = torch.zeros((len(ranks) * len(layers), width, max(ranks)), dtype=dtype)
        for rank in ranks:
            for layer in layers:
                rng = np.random.default_rng([seed, KINDS.index(kind), layer, rank])
                drawn = rng.uniform(-recipe.initial, recipe.initial, (width, rank))
                weights[len(runs), :, :rank] = torch.from_numpy(drawn)
                runs.append(_Run(layer, rank, torch.empty(0), learning_rate=recipe.learning_rate))
        return cls(kind, recipe, runs, weights.to(device))

    def _start_epoch(self) -> None:
        rates = [run.learning_rate for run in self.active]
        self.rates = torch.tensor(rates, dtype=self.weights.dtype, device=self.weights.device)[:, None, None]
        self.train_sums, self.dev_sums = (
            torch.zeros(len(self.active), dtype=torch.float64, device=self.weights.device) for _ in range(2)
        )
        self.train_count = self.dev_count = 0

    def _projected(self, of_layer: _LayerVectors) -> tuple[Tensor, Tensor]:
        """The words (probes, words, d), and what the probes make of them (probes, sentences, n, rank)."""
        rows = of_layer.rows(tuple(run.layer for run in self.active))
        sentences, n = of_layer.vectors.shape[1:3]
        return rows, torch.bmm(rows, self.weights).view(len(self.active), sentences, n, -1)

    def _loss(self, projected: Tensor, gold: _OnDevice) -> tuple[Tensor, Tensor]:
        if self.kind == "depth":
            return depth_loss(projected, gold.depths, gold.lengths)
        loss, gradient = distance_loss(projected, gold.distances, gold.lengths)
        if self.recipe.tree_loss:
            more, further = tree_loss(projected, gold.heads, gold.lengths)
            loss, gradient = loss + more, gradient.add_(further)
        return loss, gradient

    def learn(self, of_layer: _LayerVectors, gold: _OnDevice) -> None:
        """One step of Adam for every active probe, at its own learning rate."""
        if not self.active:
            return
        rows, projected = self._projected(of_layer)
        loss, gradient = self._loss(projected, gold)
        self.train_sums += loss * len(gold.lengths)
        self.train_count += len(gold.lengths)
        slope = torch.bmm(rows.transpose(1, 2), gradient.flatten(1, 2))
        (beta, beta_square), self.steps = self.recipe.betas, self.steps + 1
        self.first.lerp_(slope, 1 - beta)
        self.second.mul_(beta_square).addcmul_(slope, slope, value=1 - beta_square)
        scale = self.second.sqrt().div_(math.sqrt(1 - beta_square**self.steps)).add_(self.recipe.epsilon)
        self.weights.sub_(torch.div(self.first, scale, out=scale).mul_(self.rates / (1 - beta**self.steps)))

    def try_on_dev(self, of_layer: _LayerVectors, gold: _OnDevice) -> None:
        """Count the loss of one batch of the development set."""
        if self.active:
            loss, _ = self._loss(self._projected(of_layer)[1], gold)
            self.dev_sums += loss * len(gold.lengths)
            self.dev_count += len(gold.lengths)

    def end_epoch(self, epoch: int) -> None:
        """Keep better weights, lower learning rates, and let go of the probes that have stopped."""
        if not self.active:
            return
        going = []
        losses = zip(
            (self.train_sums / self.train_count).tolist(), (self.dev_sums / self.dev_count).tolist(), strict=True
        )
        for place, (run, (train_loss, dev_loss)) in enumerate(zip(self.active, losses, strict=True)):
            if not math.isfinite(dev_loss):
                raise ArrayError(
                    f"the {self.kind} probe of layer {run.layer} has a loss of {dev_loss} in epoch {epoch + 1}; "
                    "the vectors are too large, or not finite"
                )
            run.train_losses.append(train_loss)
            run.dev_losses.append(dev_loss)
            run.learning_rates.append(run.learning_rate)
            if dev_loss < run.plateau * (1 - self.recipe.decay_threshold):
                run.plateau = dev_loss
            elif run.learning_rate * (1 - self.recipe.decay) > 1e-8:  # as torch's scheduler: no change below its eps
                run.learning_rate *= self.recipe.decay
            if dev_loss < run.best_loss - self.recipe.improvement:
                run.best_loss, run.best_epoch = dev_loss, epoch
                run.best = self.weights[place, :, : run.rank].clone()
            if epoch - run.best_epoch < self.recipe.patience:
                going.append(place)
        if len(going) < len(self.active):
            self.active = [self.active[place] for place in going]
            self.weights, self.first, self.second = (t[going] for t in (self.weights, self.first, self.second))
        self._start_epoch()

    def probes(self) -> Iterator[Probe]:
        for run in self.runs:
            yield Probe(
                kind=self.kind,
                layer=run.layer,
                rank=run.rank,
                weights=run.best.cpu(),
                best_epoch=run.best_epoch,
                dev_losses=tuple(run.dev_losses),
                train_losses=tuple(run.train_losses),
                learning_rates=tuple(run.learning_rates),
            )
