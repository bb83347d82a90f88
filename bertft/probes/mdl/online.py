"""Description length by the online code: the bits of the labels of a corpus, coded by probes trained on those before.

The sentences are shuffled once and cut into blocks. The labels of the first block are sent by the uniform code. Those
of each later block are coded by a probe trained, from new initial weights, on the sentences before it. Unlike accuracy,
the code length measures how fast a probe learns as well as how well.

The uniform code of a target with exactly one of K labels (softmax) takes log2 K bits. That of a target with any set of
K labels (sigmoid) takes K bits, one for each label, as if each were decided by a fair coin.

Early stopping needs held-out sentences that sender and receiver both know. They are either the last of those already
sent, whose bits are in the code in any case, or a development set. A development set is left out of the code, as in the
released code, or sent first by the uniform code.

All lengths are in bits. The code released with the paper adds the bits of the first block to cross-entropies in nats,
divides the sum by 1024 and prints it as kbits. `released_kbits` and `released_compression` are these numbers, for
comparison.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bertft.errors import ArrayError, DataError, OptionError

PORTIONS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25.0, 50.0, 100.0)
"""The end of each block, in per cent of the sentences, as in Voita and Titov's code."""

INSIDE_SHARE = 0.1
"""The share of the sentences already sent that is held out if there is no development set."""

RELEASED_KBIT = 1024
"""The divisor of the released code."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A block, and the sentences on which the probes that code it are trained and stopped, all as indices."""

    block: NDArray[np.int64]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


class Fit(Protocol):
    """Train probes and return the cost of each stage's block in nats, (stages,) or (stages, probes).

    The probes of a stage start from new initial weights and read only its `train` and `held_out`.
    """

    def __call__(self, stages: Sequence[Stage], seed: int) -> ArrayLike: ...


@dataclass(frozen=True, eq=False)
class Plan:
    """The blocks in the order they are sent: the first, by the uniform code, and the stages."""

    first: NDArray[np.int64]
    stages: tuple[Stage, ...]
    percent: tuple[float, ...]
    """The end of each block, the first included, in per cent of the sentences."""
    notes: tuple[str, ...]

    @property
    def blocks(self) -> list[NDArray[np.int64]]:
        """The sentences of each block, the first included."""
        return [self.first, *(stage.block for stage in self.stages)]


@dataclass(frozen=True)
class OnlineCode:
    """The code of the labels by one probe: the targets of each block, and the nats of each but the first.

    >>> code = OnlineCode(percent=(50, 100), targets=(2, 2), nats=(math.log(4),), uniform_bits_per_target=3.0)
    >>> code.codelength_bits, code.uniform_bits, code.compression
    (8.0, 12.0, 1.5)
    """

    percent: tuple[float, ...]
    """The end of each block, in per cent of the sentences."""
    targets: tuple[int, ...]
    nats: tuple[float, ...]
    uniform_bits_per_target: float
    dev_targets: int = 0
    """Targets of a development set that is part of the code: sent first, by the uniform code."""
    notes: tuple[str, ...] = ()

    @property
    def n_targets(self) -> int:
        """The number of targets in the code."""
        return self.dev_targets + sum(self.targets)

    @property
    def block_bits(self) -> tuple[float, ...]:
        """The bits of each block, the first by the uniform code. A development set is in no block."""
        return (self.targets[0] * self.uniform_bits_per_target, *(nats / math.log(2) for nats in self.nats))

    @property
    def bits_per_target(self) -> tuple[float, ...]:
        """The online curve: the mean bits of a target of each block."""
        return tuple(bits / count for bits, count in zip(self.block_bits, self.targets, strict=True))

    @property
    def codelength_bits(self) -> float:
        """The description length of all labels, in bits."""
        return self.dev_targets * self.uniform_bits_per_target + math.fsum(self.block_bits)

    @property
    def uniform_bits(self) -> float:
        """The bits of the same labels by the uniform code."""
        return self.n_targets * self.uniform_bits_per_target

    @property
    def compression(self) -> float:
        """The ratio of the uniform code's length to this code's; below 1 if this code is longer."""
        return ratio(self.uniform_bits, self.codelength_bits)

    @property
    def released_kbits(self) -> float:
        """The code length that the released code prints in kbits: bits of the first block plus nats, over 1024."""
        return self._released / RELEASED_KBIT

    @property
    def released_compression(self) -> float:
        """The compression that the released code prints: bits of the uniform code over that sum."""
        return ratio(self.uniform_bits, self._released)

    @property
    def _released(self) -> float:
        return (self.dev_targets + self.targets[0]) * self.uniform_bits_per_target + math.fsum(self.nats)


def uniform_bits(n_labels: int, *, several: bool) -> float:
    """Return the bits of a target by the uniform code: log2 K for one of K labels, K for a set of them (`several`).

    Raises `OptionError` for one label of one, which takes no bits and cannot be compressed.

    >>> uniform_bits(32, several=False), uniform_bits(18, several=True)
    (5.0, 18.0)
    """
    least = 1 if several else 2
    if n_labels < least:
        raise OptionError(f"{n_labels} labels cannot be coded; a task needs at least {least}")
    return float(n_labels) if several else math.log2(n_labels)


def plan_online(
    targets: NDArray[np.int64],
    sentences: NDArray[np.int64] | None = None,
    *,
    dev: NDArray[np.int64] | None = None,
    portions: Sequence[float] = PORTIONS,
    seed: int = 1234,
) -> Plan:
    """Shuffle the sentences that have targets and cut them into blocks.

    targets: the number of targets of each sentence, (n,).
    sentences: those to code, by default all that are not in `dev`.
    dev: the development set for early stopping. Without it, a tenth of the sentences already sent, at least one, is
        held out.
    portions: the ends of the blocks in ascending per cent of the sentences, the last 100.

    Portions that end at the same sentence are merged. So are the first ones, until they have enough sentences to train
    on: one, or two if one must be held out. A note of the plan reports this.

    Raises `OptionError` for portions that do not ascend to 100, and `DataError` for too few sentences with targets.

    >>> plan = plan_online(np.ones(8, dtype=np.int64), portions=(25, 50, 100))
    >>> [len(block) for block in plan.blocks], [len(stage.train) for stage in plan.stages]
    ([2, 2, 4], [1, 3])
    """
    if not portions or portions[-1] != 100 or any(low >= high for low, high in itertools.pairwise((0, *portions))):
        raise OptionError(f"portions are {tuple(portions)}; they must ascend from above 0 and end with 100")
    counts = np.asarray(targets, dtype=np.int64)
    held = np.zeros(0, dtype=np.int64) if dev is None else np.asarray(dev, dtype=np.int64)
    held = held[counts[held] > 0]
    if dev is not None and not len(held):
        raise DataError("no sentence of the development set has a target; give one that has, or hold out inside")
    coded = np.setdiff1d(np.arange(len(counts)), held) if sentences is None else np.asarray(sentences, dtype=np.int64)
    coded = coded[counts[coded] > 0]
    if (shared := np.intersect1d(coded, held)).size:
        raise DataError(
            f"{len(shared)} sentences, such as {shared[0]}, are both to be coded and in the development set"
        )
    least = 1 if len(held) else 2
    if len(coded) <= least:
        raise DataError(
            f"{len(coded)} sentences have targets, and the online code needs at least {least + 1}; give more"
        )
    order = np.random.default_rng(seed).permutation(coded)
    ends: list[int] = []
    percent: list[float] = []
    for portion in portions:
        end = round(len(order) * portion / 100)
        if ends and end == ends[-1]:
            percent[-1] = float(portion)
        elif end >= least:
            ends.append(end)
            percent.append(float(portion))
    stages = []
    for start, end in itertools.pairwise(ends):
        seen = order[:start]
        inside = 0 if len(held) else max(1, round(INSIDE_SHARE * start))
        stages.append(Stage(order[start:end], seen[: start - inside], held if len(held) else seen[start - inside :]))
    notes = []
    if len(ends) < len(portions):
        notes.append(
            f"{len(order)} sentences are too few for {len(portions)} portions; those that end at the same sentence, "
            f"or begin with too few, were merged, which leaves {len(ends)} blocks"
        )
    return Plan(order[: ends[0]], tuple(stages), tuple(percent), tuple(notes))


def online_codes(
    targets: NDArray[np.int64],
    uniform_bits_per_target: float,
    fit: Fit,
    sentences: NDArray[np.int64] | None = None,
    *,
    dev: NDArray[np.int64] | None = None,
    count_dev: bool = False,
    portions: Sequence[float] = PORTIONS,
    seed: int = 1234,
) -> list[OnlineCode]:
    """Return the online code by each probe that `fit` trains, all on the same blocks.

    targets, sentences, dev, portions: see `plan_online`. uniform_bits_per_target: see `uniform_bits`.
    fit: called once with all stages, so that it may train their probes together.
    count_dev: whether the development set is part of the code: sent first, by the uniform code. Sentences held out of
        those already sent are in the code in any case.

    Raises `ArrayError` if a cost is infinite, since a label of probability 0 has no code, or negative.

    >>> def fair(stages, seed):
    ...     return [len(stage.block) * math.log(2) for stage in stages]
    >>> code, = online_codes(np.ones(100, dtype=np.int64), uniform_bits(4, several=False), fair)
    >>> round(code.codelength_bits), code.uniform_bits
    (102, 200.0)

    Source: Voita and Titov 2020.
    """
    counts = np.asarray(targets, dtype=np.int64)
    plan = plan_online(counts, sentences, dev=dev, portions=portions, seed=seed)
    nats = np.asarray(fit(plan.stages, seed), dtype=np.float64)
    nats = nats[:, None] if nats.ndim == 1 else nats
    _check(nats, plan)
    return [
        OnlineCode(
            percent=plan.percent,
            targets=tuple(int(counts[block].sum()) for block in plan.blocks),
            nats=tuple(of_probe),
            uniform_bits_per_target=uniform_bits_per_target,
            dev_targets=0 if dev is None or not count_dev else int(counts[dev].sum()),
            notes=plan.notes,
        )
        for of_probe in nats.T.tolist()
    ]


def ratio(above: float, below: float) -> float:
    """Return above / below, or infinity if below is 0: a code of no bits."""
    return above / below if below else math.inf


def _check(nats: NDArray[np.float64], plan: Plan) -> None:
    """Raise `ArrayError` if nats (stages, probes) are not code lengths."""
    if nats.ndim != 2 or len(nats) != len(plan.stages):
        raise ArrayError(f"nats have shape {nats.shape}; expected (stages, probes) with {len(plan.stages)} stages")
    wrong = ~(np.isfinite(nats) & (nats >= 0))
    if not wrong.any():
        return
    number, probe = np.argwhere(wrong)[0].tolist()
    value = nats[number, probe]
    what = "a label of probability zero has no code" if value == math.inf else "this is not a code length"
    raise ArrayError(
        f"probe {probe} needs {value} nats for the block that ends at {plan.percent[number + 1]:g} %, after training "
        f"on {len(plan.stages[number].train)} sentences: {what}; a softmax or sigmoid of finite scores gives every "
        "label a probability above zero"
    )
