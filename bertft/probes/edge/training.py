"""Training of edge probes: many tasks, inputs and seeds in one pass an epoch over the hidden states.

Probes of one shape on the same targets are one set of parameters with a leading axis. Each has its own learning rate,
dropout, early stopping and best parameters. The order of sentences depends only on its own seed, and the initial
parameters and the dropout of a probe only on the probe's seed. Groups of probes are trained in parallel, each in one
thread.

Probes trained together give the same result as probes trained alone, up to rounding. The products round differently: a
library may choose its code by the number of matrices that it multiplies and by their addresses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bertft.errors import ArrayError, DataError, OptionError
from bertft.probes.edge import model as edge_model
from bertft.probes.edge.feed import Feed, Reader, Window, cut
from bertft.probes.edge.model import BatchTensors, Dropout, Input, Loss, Shape
from bertft.probes.edge.recipe import RECIPES, Recipe
from bertft.probes.edge.targets import IndexedTask, Indices, SubwordStates, SubwordTask
from bertft.probes.side_by_side import Optimiser
from bertft.probes.threads import one_thread
from bertft.progress import PhaseProgress

EVALUATION_SENTENCES = 64
"""Sentences of an evaluation batch."""


@dataclass(frozen=True, eq=False)
class EdgeJob:
    """A probe to train: its training and development targets, its input, seed and recipe."""

    train: SubwordTask
    dev: SubwordTask
    input: str = "mix"
    seed: int = 0
    recipe: Recipe = RECIPES["paper"]


@dataclass(frozen=True, eq=False)
class EdgeProbe:
    """A trained probe: its best parameters, on the CPU, and the scores, losses and learning rates by validation."""

    task: str
    labels: tuple[str, ...]
    input: Input
    seed: int
    loss: Loss
    parameters: dict[str, Tensor]
    steps: int
    best: int
    """The index of the validation whose parameters were kept."""
    dev_f1: tuple[float, ...]
    dev_losses: tuple[float, ...]
    train_losses: tuple[float, ...]
    """The mean loss over the steps since the previous validation."""
    learning_rates: tuple[float, ...]

    @property
    def mix_weights(self) -> tuple[float, ...]:
        """The weight of each layer of a mix, which sum to 1; empty for other inputs."""
        if "mix" not in self.parameters:
            return ()
        return tuple(torch.softmax(self.parameters["mix"].double(), dim=0).tolist())


def train_edge_probes(
    jobs: Sequence[EdgeJob],
    states: SubwordStates,
    *,
    order_seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: PhaseProgress | None = None,
) -> list[EdgeProbe]:
    """Train one probe for each job, all of them together, and return them in the order of the jobs.

    The result is that of training each probe alone, up to rounding.

    states: the hidden states of the sentences of all tasks. order_seed: determines the order of sentences in each
    epoch, which all jobs share. The seed of a job determines its initial parameters and its dropout. progress: called
    now and then as progress(done, total), in steps of all probes. The total is the largest possible number; early
    stopping usually ends before it.

    Raises `OptionError` for an unknown input and for a recipe out of range. Raises `DataError` for targets that do not
    fit the states, and for targets without exactly one label if the loss is `softmax`. Raises `ArrayError` if a loss is
    not finite.

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
            run.stopped = True  # threads end early if this one was interrupted
    found = {id(job): probe for group in run.groups for job, probe in group.probes()}
    return [found[id(job)] for job in jobs]


@dataclass
class _Run:
    """All groups, and the readers of their hidden states. `stopped` is shared between threads."""

    groups: list[_Group]
    train: Reader
    dev: Reader
    progress: PhaseProgress | None
    stopped: bool = False

    @property
    def active(self) -> list[_Group]:
        """The groups still in training, those with most work first, so that no long one is left for the end."""
        return sorted((group for group in self.groups if group.active), key=lambda group: -group.work)

    def epoch(self, order: Indices, pool: ThreadPoolExecutor) -> None:
        """Pass once over the training sentences of all active groups. `order` is that of all sentences."""
        groups = self.active
        for group in groups:
            group.begin_epoch(order)
        wanted = np.zeros(len(order), dtype=np.bool_)
        for group in groups:
            wanted[group.train.sentences] = True
        for window in self.train.windows(order[wanted[order]], _layers(groups)):
            going = groups
            while going:
                self._in_parallel(pool, [(group.learn, window) for group in going])
                going = [group for group in going if group.due]
                self._validate(going, pool)

    def _validate(self, groups: list[_Group], pool: ThreadPoolExecutor) -> None:
        """Score the development sets of some groups in one pass."""
        if not groups:
            return
        for group in groups:
            group.begin_validation()
        sentences = np.unique(np.concatenate([group.dev_sentences for group in groups]))
        for window in self.dev.windows(sentences, _layers(groups)):
            self._in_parallel(pool, [(group.score, window) for group in groups])
        for group in groups:
            group.end_validation()

    def _in_parallel(
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
    jobs: Sequence[EdgeJob], states: SubwordStates, workers: int, device: str | torch.device, dtype: torch.dtype
) -> list[_Group]:
    """Group the jobs of one shape, recipe and targets, and divide each group among the workers."""
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
        raise DataError(f"{name}: the training and development targets differ in their labels or number of spans")
    if recipe.loss == "softmax":
        for task in (job.train, job.dev):
            if (wrong := task.gold.sum(axis=1) != 1).any():
                target = int(np.argmax(wrong))
                raise DataError(
                    f"{name}: target {target} has {task.gold[target].sum()} labels, and the loss softmax wants one; "
                    "use the loss sigmoid"
                )


@dataclass
class _Member:
    """One probe of a group, and its scores, losses and learning rates so far."""

    job: EdgeJob
    source: Input
    random: torch.Generator
    steps: int = 0
    dev_f1: list[float] = field(default_factory=list)
    dev_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)


class _Group:
    """Probes of one shape on the same targets.

    The parameters of each active probe are concatenated to one row of `flat`, (active, n). `parameters` are its views.
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
            self.members.append(_Member(job, source, random))
        self.optimiser = Optimiser(
            [torch.stack(drawn).to(device, dtype)],
            recipe.schedule,
            betas=recipe.betas,
            epsilon=recipe.epsilon,
            amsgrad=recipe.amsgrad,
        )
        self._set_active()

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
    def steps(self) -> int:
        """Steps taken."""
        return self.optimiser.steps

    @property
    def work(self) -> int:
        return len(self.active) * int(self.train.lengths[self.train.sentences].sum())

    @property
    def total(self) -> int:
        """The largest possible number of steps of all its probes."""
        return len(self.members) * self.most_steps

    @property
    def done(self) -> int:
        """Steps of all its probes. Those that have stopped count as if they had taken all their steps."""
        return (len(self.members) - len(self.active)) * self.most_steps + len(self.active) * self.steps

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that its active probes read."""
        return edge_model.read_by(self.shape.kind, [member.source for member in self.active])

    def begin_epoch(self, order: Indices) -> None:
        """Cut the batches of an epoch from the order of all sentences."""
        self.feed = Feed(self.train, self.layers, cut(order[self._own[order]], self.recipe.batch), self.dtype)

    def learn(self, window: Window, run: _Run) -> None:
        """Train on the batches that are complete with this window, up to the next validation."""
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
        """Take one step with all active probes."""
        recipe = self.recipe
        drop = [Dropout(self.randoms, rate) for rate in (recipe.input_dropout, recipe.dropout)]
        found = edge_model.logits(self.parameters, self._input(vectors), batch, *drop)
        losses = self._mean_losses(found, batch)
        parts = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        gradient = torch.cat([part.flatten(1) for part in parts], dim=1)
        self.train_sums += losses.detach()
        self.train_count += 1

        length = gradient.square().sum(dim=1, keepdim=True).sqrt_()
        gradient.mul_((recipe.clip / (length + 1e-6)).clamp_(max=1))
        self.optimiser.step([gradient])

    def begin_validation(self) -> None:
        """Reset the counts of the development set."""
        self.dev_feed = Feed(self.dev, self.layers, cut(self.dev_sentences, EVALUATION_SENTENCES), self.dtype)
        self.counts = torch.zeros((3, len(self.active)), dtype=torch.int64)  # right, predicted, gold
        self.dev_sums, self.dev_count = torch.zeros(len(self.active), dtype=torch.float64), 0

    @torch.no_grad()
    def score(self, window: Window, run: _Run) -> None:
        """Score the development batches that are complete with this window."""
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
        """Record scores and losses, and drop the probes that have stopped."""
        self.due = False
        right, predicted, gold = self.counts.tolist()
        dev_losses = (self.dev_sums / self.dev_count).tolist()
        train_losses = (self.train_sums / max(1, self.train_count)).tolist()
        scores = [2 * r / max(1, p + g) for r, p, g in zip(right, predicted, gold, strict=True)]
        for probe, train_loss, dev_loss, f1 in zip(
            self.optimiser.active, train_losses, dev_losses, scores, strict=True
        ):
            member = self.members[probe]
            if not (math.isfinite(train_loss) and math.isfinite(dev_loss)):
                raise ArrayError(
                    f"the probe of {member.job.train.name} on {member.source.name} has losses of {train_loss} and "
                    f"{dev_loss} after {self.steps} steps; the vectors are too large, or not finite"
                )
            member.train_losses.append(train_loss)
            member.dev_losses.append(dev_loss)
            member.dev_f1.append(f1)
            member.learning_rates.append(self.optimiser.monitors[probe].learning_rate)
            member.steps = self.steps
        judged = [-f1 for f1 in scores] if self.recipe.select == "f1" else dev_losses
        if self.optimiser.validated(judged, last=self.steps >= self.most_steps):
            self._set_active()
            if self.active:
                self.feed.layers = self.layers
        self._start_sums()

    def probes(self) -> Iterable[tuple[EdgeJob, EdgeProbe]]:
        """Yield the trained probes, each with its job."""
        (kept,) = self.optimiser.best
        for member, row, monitor in zip(self.members, kept, self.optimiser.monitors, strict=True):
            best = row.clone().cpu()
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
                    best=monitor.best,
                    dev_f1=tuple(member.dev_f1),
                    dev_losses=tuple(member.dev_losses),
                    train_losses=tuple(member.train_losses),
                    learning_rates=tuple(member.learning_rates),
                ),
            )

    def _set_active(self) -> None:
        """Take the active probes and their parameters from the optimiser."""
        (self.flat,) = self.optimiser.parameters
        self.parameters = {
            name: self.flat[:, place].view(len(self.flat), *size).detach().requires_grad_()
            for name, place, size in self.shape.places
        }
        self.active = [self.members[probe] for probe in self.optimiser.active]
        self.randoms = [member.random for member in self.active]

    def _start_sums(self) -> None:
        self.train_sums = torch.zeros(len(self.active), dtype=torch.float64, device=self.flat.device)
        self.train_count = 0

    def _input(self, vectors: Tensor) -> Tensor:
        return edge_model.arranged(self.shape.kind, [member.source for member in self.active], vectors)

    def _mean_losses(self, found: Tensor, batch: BatchTensors) -> Tensor:
        """Return the mean loss of each probe over targets, and for the loss `sigmoid` over labels too."""
        losses = edge_model.target_losses(found, batch.gold, self.recipe.loss).mean(dim=1)
        return losses / batch.gold.shape[1] if self.recipe.loss == "sigmoid" else losses
