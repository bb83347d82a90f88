"""Training of edge probes: many tasks, inputs and seeds in one pass an epoch over the encoder's states.

Probes of one shape on the same targets are one set of parameters with a leading axis.  Each has its own learning rate,
dropout, early stopping and best parameters, and becomes what it would have become alone, up to rounding: the order of
sentences depends on the seed of the order, first parameters and dropout on the probe's own, and neither on the company.
What rounds otherwise in company are the products: a library may choose its code by how many matrices it multiplies and
by where in memory they begin.  Groups of probes run beside one another, each in one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bertft.errors import ArrayError, DataError, OptionError
from bertft.probes import edge_model
from bertft.probes.edge_feed import Feed, Reader, Window, cut
from bertft.probes.edge_model import BatchTensors, Dropout, Input, Loss, Shape
from bertft.probes.edge_task import EdgeTask, IndexedTask, Indices, PieceStates
from bertft.probes.threads import one_thread

Progress = Callable[[int, int], None]

EVALUATION_SENTENCES = 64
"""Sentences of a batch where nothing is learned."""


@dataclass(frozen=True)
class Recipe:
    """How edge probes are trained; the defaults are those of jiant 1 for its large tasks.

    Adam with AMSGrad.  After every `validate_every` steps, or `validations_per_epoch` times an epoch where that is
    given, the development set is scored: the learning rate is multiplied by `decay` once more than `decay_patience`
    validations have passed without a score that beats the best by `decay_threshold`; the parameters kept are those of
    the best score; training ends once more than `patience` validations have passed since it, when the learning rate has
    fallen below `least_rate`, or after `max_steps` steps or `max_epochs` epochs.
    """

    loss: Loss = "sigmoid"
    """`sigmoid`: a binary decision for each label.  `softmax`: one label a target."""
    select: Literal["f1", "loss"] = "f1"
    """The score of a validation: micro-F1, or the mean loss (less is better)."""
    batch: int = 32
    """Sentences of a batch."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    amsgrad: bool = True
    clip: float = 5.0
    """The longest gradient of a probe; longer ones are shortened to it."""
    projected: int = 256
    hidden: int = 256
    input_dropout: float = 0.2
    """Of the encoder's output."""
    dropout: float = 0.3
    """Before the last layer of the classifier."""
    max_steps: int = 250_000
    max_epochs: int | None = None
    validate_every: int = 1000
    validations_per_epoch: int | None = None
    dev_sentences: int | None = 5000
    """How many sentences of the development set are scored, the first."""
    decay: float = 0.5
    decay_patience: int = 5
    decay_threshold: float = 1e-4
    patience: int = 20
    least_rate: float = 1e-6


RECIPES = {
    "paper": Recipe(),
    "paper-small": Recipe(max_steps=10_000, validate_every=100),
    "today": Recipe(
        learning_rate=1e-3,
        input_dropout=0.0,
        max_epochs=20,
        validations_per_epoch=1,
        dev_sentences=None,
        decay_patience=1,
        patience=4,
        least_rate=1e-5,
    ),
}
"""paper: jiant 1 as Tenney et al. 2019 ran it, 250,000 steps at most.  paper-small: the same for proto-roles and
relations, 10,000 steps.  today: ten times the learning rate and a validation an epoch, which on training sets of some
thousand sentences comes as far in a hundredth of the steps, and no dropout on what is probed, so that a probe sees the
states as they are (Hewitt and Liang 2019 find that dropout does not make probes more selective)."""

SMALL_TASKS = frozenset({"spr", "spr1", "spr2", "rel", "dpr"})
"""Tasks with some thousand targets, for which the reference has the shorter schedule."""


def recipe_of(preset: str, task: str) -> Recipe:
    """The preset's recipe for a task.  Raises `OptionError` for an unknown preset.

    >>> recipe_of("paper", "spr").max_steps
    10000
    """
    if preset not in ("paper", "today"):
        raise OptionError(f"unknown preset {preset!r}; choose one of paper, today")
    return RECIPES["paper-small" if preset == "paper" and task in SMALL_TASKS else preset]


@dataclass(frozen=True, eq=False)
class EdgeJob:
    """A probe to train: on which targets, validated on which, from which input."""

    train: EdgeTask
    dev: EdgeTask
    input: str = "mix"
    seed: int = 0
    recipe: Recipe = RECIPES["paper"]


@dataclass(frozen=True, eq=False)
class EdgeProbe:
    """A trained probe: its best parameters on the CPU, and the scores, losses and learning rates of all validations."""

    task: str
    labels: tuple[str, ...]
    input: Input
    seed: int
    loss: Loss
    parameters: dict[str, Tensor]
    steps: int
    best: int
    """The validation whose parameters were kept, counted from 0."""
    dev_f1: tuple[float, ...]
    dev_losses: tuple[float, ...]
    train_losses: tuple[float, ...]
    """The mean over the steps since the last validation."""
    learning_rates: tuple[float, ...]

    @property
    def mix_weights(self) -> tuple[float, ...]:
        """The weight of each layer that is mixed, summing to 1; empty where none are."""
        if "mix" not in self.parameters:
            return ()
        return tuple(torch.softmax(self.parameters["mix"].double(), dim=0).tolist())


def train_edge_probes(
    jobs: Sequence[EdgeJob],
    states: PieceStates,
    *,
    order_seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> list[EdgeProbe]:
    """Train all probes together, on states that hold the sentences of all tasks; one for each job, in order.

    Equal to training each by itself, up to rounding.  `order_seed` decides the order of sentences in every epoch, which
    all jobs share, a job's own seed its first parameters and its dropout.  progress: called as progress(done, total)
    now and then, in steps of all probes; the total is the most they may take, which early stopping rarely lets them.

    Raises `OptionError` for an unknown input and a recipe out of range, `DataError` for targets that do not fit the
    states or, with the loss `softmax`, have not one label each, and `ArrayError` where a loss is not finite.

    >>> jobs = [EdgeJob(train, dev, "mix"), EdgeJob(train, dev, "top")]  # doctest: +SKIP
    >>> [max(probe.dev_f1) for probe in train_edge_probes(jobs, states)]  # doctest: +SKIP
    [0.94, 0.92]

    Source: Tenney et al. 2019.
    """
    if not jobs:
        raise OptionError("no jobs; give at least one probe to train")
    workers = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    run = _Run(_grouped(jobs, states, workers, device, dtype), Reader(states, device), Reader(states, device), progress)
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            epoch = 0
            while run.active:
                run.epoch(np.random.default_rng([order_seed, epoch]).permutation(len(states.lengths)), pool)
                epoch += 1
        finally:
            run.stopped = True  # so that threads end where this one was interrupted
    found = {id(job): probe for group in run.groups for job, probe in group.probes()}
    return [found[id(job)] for job in jobs]


@dataclass
class _Run:
    """All groups, and what they read; `stopped` is shared between threads."""

    groups: list[_Group]
    train: Reader
    dev: Reader
    progress: Progress | None
    stopped: bool = False

    @property
    def active(self) -> list[_Group]:
        """Those with most to do first, so that none is begun when the others are done."""
        return sorted((group for group in self.groups if group.active), key=lambda group: -group.work)

    def epoch(self, order: Indices, pool: ThreadPoolExecutor) -> None:
        """One pass over the training sentences of all that are active, in the given order of all sentences."""
        groups = self.active
        for group in groups:
            group.begin_epoch(order)
        wanted = np.zeros(len(order), dtype=np.bool_)
        for group in groups:
            wanted[group.train.sentences] = True
        for window in self.train.windows(order[wanted[order]], _layers(groups)):
            going = groups
            while going:
                self._beside_one_another(pool, [(group.learn, window) for group in going])
                going = [group for group in going if group.due]
                self._validate(going, pool)

    def _validate(self, groups: list[_Group], pool: ThreadPoolExecutor) -> None:
        """Score the development sets of some groups, all in one pass."""
        if not groups:
            return
        for group in groups:
            group.begin_validation()
        sentences = np.unique(np.concatenate([group.dev_sentences for group in groups]))
        for window in self.dev.windows(sentences, _layers(groups)):
            self._beside_one_another(pool, [(group.score, window) for group in groups])
        for group in groups:
            group.end_validation()

    def _beside_one_another(
        self, pool: ThreadPoolExecutor, calls: list[tuple[Callable[[Window, _Run], None], Window]]
    ) -> None:
        futures = [pool.submit(function, window, self) for function, window in calls]
        going = True
        while going:
            going = bool(wait(futures, timeout=0.1, return_when=FIRST_EXCEPTION).not_done)
            if self.progress is not None:
                self.progress(sum(group.done for group in self.groups), sum(group.total for group in self.groups))
            if any(future.done() and future.exception() for future in futures):
                self.stopped = True
        for future in futures:
            future.result()


def _layers(groups: Iterable[_Group]) -> list[int]:
    return sorted({layer for group in groups for layer in group.layers})


def _grouped(
    jobs: Sequence[EdgeJob], states: PieceStates, workers: int, device: str | torch.device, dtype: torch.dtype
) -> list[_Group]:
    """Jobs of one shape, recipe and targets together, each such set in as many parts as there are workers."""
    lengths = np.asarray(states.lengths, dtype=np.int64)
    indexed: dict[int, IndexedTask] = {}
    alike: dict[tuple[int, int, Shape, Recipe], list[tuple[EdgeJob, Input]]] = {}
    for job in jobs:
        _check(job)
        for task in (job.train, job.dev):
            if id(task) not in indexed:
                indexed[id(task)] = IndexedTask(task, lengths)
        source = Input.parse(job.input, states.layers)
        shape = Shape.of(source, states.width, job.train, job.recipe.projected, job.recipe.hidden)
        alike.setdefault((id(job.train), id(job.dev), shape, job.recipe), []).append((job, source))
    return [
        _Group(shape, recipe, indexed[train], indexed[dev], members[first::workers], device, dtype)
        for (train, dev, shape, recipe), members in alike.items()
        for first in range(min(workers, len(members)))
    ]


def _check(job: EdgeJob) -> None:
    recipe, name = job.recipe, job.train.name
    steps = (recipe.max_steps, recipe.batch, recipe.validate_every, recipe.max_epochs, recipe.validations_per_epoch)
    if any(number is not None and number < 1 for number in steps):
        raise OptionError(
            f"{name}: {recipe.max_steps} steps, {recipe.max_epochs} epochs, batches of {recipe.batch}, a validation "
            f"after {recipe.validate_every} steps or {recipe.validations_per_epoch} an epoch; each must be at least 1"
        )
    if job.train.labels != job.dev.labels or len(job.train.spans) != len(job.dev.spans):
        raise DataError(f"{name}: the targets to train on and to validate on differ in their labels or number of spans")
    if recipe.loss == "softmax":
        for task in (job.train, job.dev):
            if (wrong := task.gold.sum(axis=1) != 1).any():
                target = int(np.argmax(wrong))
                raise DataError(
                    f"{name}: target {target} has {task.gold[target].sum()} labels, and the loss softmax wants one; "
                    "take the loss sigmoid"
                )


@dataclass
class _Member:
    """One probe on its way."""

    job: EdgeJob
    source: Input
    random: torch.Generator
    learning_rate: float
    plateau: float = -math.inf
    """The best score that a later one must beat by the threshold for the learning rate to stay."""
    waited: int = 0
    """Validations since the score last beat the plateau or the learning rate fell."""
    best: int = -1
    best_score: float = -math.inf
    best_parameters: Tensor = field(default_factory=lambda: torch.empty(0))
    steps: int = 0
    dev_f1: list[float] = field(default_factory=list)
    dev_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)


class _Group:
    """Probes of one shape on the same targets: those still active side by side in one (probes, n), with Adam's moments.

    Its parameters are views of that.
    """

    def __init__(
        self,
        shape: Shape,
        recipe: Recipe,
        train: IndexedTask,
        dev: IndexedTask,
        jobs: Sequence[tuple[EdgeJob, Input]],
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape, self.recipe = shape, recipe
        self.train, self.dev = train, dev
        self.dev_sentences = dev.sentences[: recipe.dev_sentences]
        self.dtype = dtype
        self.members: list[_Member] = []
        drawn = []
        for job, source in jobs:
            rng = edge_model.generator(job.seed, job.train.name, source.name)
            drawn.append(torch.cat([part.flatten() for part in shape.drawn(rng).values()]))
            random = torch.Generator().manual_seed(int(rng.integers(2**63)))
            self.members.append(_Member(job, source, random, recipe.learning_rate))
        self.active = list(self.members)
        self.flat = torch.stack(drawn).to(device, dtype)
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.largest = torch.zeros_like(self.flat)
        self._make_views()

        self.steps = 0
        per_epoch = math.ceil(len(train.sentences) / recipe.batch)
        self.every = recipe.validate_every
        if recipe.validations_per_epoch is not None:
            self.every = max(1, round(per_epoch / recipe.validations_per_epoch))
        self.most_steps = recipe.max_steps
        if recipe.max_epochs is not None:
            self.most_steps = min(self.most_steps, recipe.max_epochs * per_epoch)
        self.due = False
        self.feed: Feed
        self._own = np.zeros(len(train.lengths), dtype=np.bool_)
        self._own[train.sentences] = True
        self._start_sums()

    @property
    def work(self) -> int:
        return len(self.active) * int(self.train.lengths[self.train.sentences].sum())

    @property
    def total(self) -> int:
        """The most steps that all its probes may take."""
        return len(self.members) * self.most_steps

    @property
    def done(self) -> int:
        """Steps taken, and those that probes which have stopped were spared."""
        return (len(self.members) - len(self.active)) * self.most_steps + len(self.active) * self.steps

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that its active probes read."""
        return edge_model.read_by(self.shape.kind, [member.source for member in self.active])

    def begin_epoch(self, order: Indices) -> None:
        """Take the batches of an epoch from the order of all sentences."""
        self.feed = Feed(self.train, self.layers, cut(order[self._own[order]], self.recipe.batch), self.dtype)

    def learn(self, window: Window, run: _Run) -> None:
        """Take the steps for which the window has the vectors, up to the next validation."""
        if not self.active:
            return
        for vectors, batch in self.feed.take(window):
            self._step(vectors, batch)
            if self.steps % self.every == 0 or self.steps == self.most_steps:
                self.due = True
                return
            if run.stopped:
                return

    def _step(self, vectors: Tensor, batch: BatchTensors) -> None:
        """One step of Adam for every active probe, at its own learning rate."""
        recipe = self.recipe
        drop = [Dropout(self.randoms, rate) for rate in (recipe.input_dropout, recipe.dropout)]
        found = edge_model.logits(self.parameters, self._input(vectors), batch, *drop)
        losses = self._mean_losses(found, batch)
        parts = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        gradient = torch.cat([part.flatten(1) for part in parts], dim=1)
        self.train_sums += losses.detach()
        self.train_count += 1

        (beta, beta_square), self.steps = recipe.betas, self.steps + 1
        length = gradient.square().sum(dim=1, keepdim=True).sqrt_()
        gradient.mul_((recipe.clip / (length + 1e-6)).clamp_(max=1))
        self.first.lerp_(gradient, 1 - beta)
        self.second.mul_(beta_square).addcmul_(gradient, gradient, value=1 - beta_square)
        if recipe.amsgrad:
            torch.maximum(self.largest, self.second, out=self.largest)
        scale = (self.largest if recipe.amsgrad else self.second).sqrt()
        scale.div_(math.sqrt(1 - beta_square**self.steps)).add_(recipe.epsilon)
        with torch.no_grad():
            self.flat.sub_(torch.div(self.first, scale, out=scale).mul_(self.rates / (1 - beta**self.steps)))

    def begin_validation(self) -> None:
        """Set all counts of the development set to 0."""
        self.dev_feed = Feed(self.dev, self.layers, cut(self.dev_sentences, EVALUATION_SENTENCES), self.dtype)
        self.counts = torch.zeros((3, len(self.active)), dtype=torch.int64)  # right, predicted, gold
        self.dev_sums, self.dev_count = torch.zeros(len(self.active), dtype=torch.float64), 0

    @torch.no_grad()
    def score(self, window: Window, run: _Run) -> None:
        """Count the development set's targets for which the window has the vectors."""
        for vectors, batch in self.dev_feed.take(window):
            found = edge_model.logits(self.parameters, self._input(vectors), batch)
            predicted, gold = edge_model.decide(found, self.recipe.loss), batch.gold.bool()
            counted = torch.stack([(predicted & gold).sum(dim=(1, 2)), predicted.sum(dim=(1, 2))]).cpu()
            self.counts[:2] += counted
            self.counts[2] += gold.sum().cpu()
            self.dev_sums += self._mean_losses(found, batch).double().cpu() * len(batch.gold)
            self.dev_count += len(batch.gold)
            if run.stopped:
                return

    def end_validation(self) -> None:
        """Keep better parameters, lower learning rates, and let go of the probes that have stopped."""
        self.due = False
        right, predicted, gold = self.counts.tolist()
        dev_losses = (self.dev_sums / self.dev_count).tolist()
        train_losses = (self.train_sums / max(1, self.train_count)).tolist()
        going = []
        for place, member in enumerate(self.active):
            losses = (train_losses[place], dev_losses[place])
            if not all(map(math.isfinite, losses)):
                raise ArrayError(
                    f"the probe of {member.job.train.name} on {member.source.name} has losses of {losses[0]} and "
                    f"{losses[1]} after {self.steps} steps; the vectors are too large, or not finite"
                )
            f1 = 2 * right[place] / max(1, predicted[place] + gold[place])
            member.train_losses.append(losses[0])
            member.dev_losses.append(losses[1])
            member.dev_f1.append(f1)
            member.learning_rates.append(member.learning_rate)
            member.steps = self.steps
            if self._goes_on(member, f1 if self.recipe.select == "f1" else -losses[1], self.flat[place]):
                going.append(place)
        if len(going) < len(self.active):
            self.active = [self.active[place] for place in going]
            self.flat, self.first, self.second, self.largest = (
                part[going] for part in (self.flat, self.first, self.second, self.largest)
            )
            if self.active:
                self._make_views()
                self.feed.layers = self.layers
        self._start_sums()

    def _goes_on(self, member: _Member, score: float, parameters: Tensor) -> bool:
        """Judge a probe by its last score."""
        recipe, validation = self.recipe, len(member.dev_f1) - 1
        if score > member.best_score:
            member.best_score, member.best = score, validation
            member.best_parameters = parameters.clone()
        member.waited = 0 if score > member.plateau + recipe.decay_threshold else member.waited + 1
        if member.waited == 0:
            member.plateau = score
        elif member.waited > recipe.decay_patience:
            member.learning_rate *= recipe.decay
            member.waited = 0
        return (
            self.steps < self.most_steps
            and validation - member.best <= recipe.patience
            and member.learning_rate >= recipe.least_rate
        )

    def probes(self) -> Iterable[tuple[EdgeJob, EdgeProbe]]:
        """The trained probes, each with its job."""
        for member in self.members:
            best = member.best_parameters.cpu()
            yield (
                member.job,
                EdgeProbe(
                    task=member.job.train.name,
                    labels=member.job.train.labels,
                    input=member.source,
                    seed=member.job.seed,
                    loss=self.recipe.loss,
                    parameters={name: best[place].view(size) for name, place, size in self.shape.places},
                    steps=member.steps,
                    best=member.best,
                    dev_f1=tuple(member.dev_f1),
                    dev_losses=tuple(member.dev_losses),
                    train_losses=tuple(member.train_losses),
                    learning_rates=tuple(member.learning_rates),
                ),
            )

    def _make_views(self) -> None:
        self.parameters = {
            name: self.flat[:, place].view(len(self.flat), *size).detach().requires_grad_()
            for name, place, size in self.shape.places
        }
        self.randoms = [member.random for member in self.active]

    def _start_sums(self) -> None:
        rates = [member.learning_rate for member in self.active]
        self.rates = torch.tensor(rates, dtype=self.dtype, device=self.flat.device).unsqueeze(1)
        self.train_sums = torch.zeros(len(self.active), dtype=torch.float64, device=self.flat.device)
        self.train_count = 0

    def _input(self, vectors: Tensor) -> Tensor:
        return edge_model.arranged(self.shape.kind, [member.source for member in self.active], vectors)

    def _mean_losses(self, found: Tensor, batch: BatchTensors) -> Tensor:
        """The mean loss of each probe, over targets and, for sigmoids, labels."""
        losses = edge_model.target_losses(found, batch.gold, self.recipe.loss).mean(dim=1)
        return losses / batch.gold.shape[1] if self.recipe.loss == "sigmoid" else losses
