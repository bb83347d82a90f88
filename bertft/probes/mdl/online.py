"""Description length: how many bits the labels of a corpus take where probes code them, by the online code.

The sentences are shuffled once and cut into blocks.  The labels of the first block are sent by the uniform code; those
of every later block by a probe trained, from fresh weights, on the sentences before it.  An easy task is one whose
labels take few bits: the code counts how soon a probe learns as well as how well, which accuracy does not.

Everything is in bits.  The code released with the paper adds a first block in bits to cross-entropies in nats, divides
by 1024 and prints the sum as kbits; `released_kbits` and `released_compression` are those numbers, for comparison.

The uniform code of a target with exactly one of K labels (softmax) takes log2 K bits.  That of a target with any set of
K labels (sigmoid) takes K bits, one for each label, as if each were tossed with a fair coin.

Probes stop early by sentences held out, which both sides must know.  Either they are the last of those already sent, so
that their bits are in the code anyway; or they are a development set, which is left out of the code, as in the
released one, or sent first by the uniform code.
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
"""Per cent of the sentences sent when each block ends, as in Voita and Titov's code."""

INSIDE_SHARE = 0.1
"""The share of the sentences already sent that is held out where there is no development set."""

RELEASED_KBIT = 1024
"""What the released code divides by."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A block and what the probes that code it may see, all sentences by number."""

    block: NDArray[np.int64]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


class Fit(Protocol):
    """Trains probes and codes with them: the nats of every stage's block, (stages,) or (stages, probes).

    Those of a stage begin with fresh weights and see its `train` and `held_out` alone.
    """

    def __call__(self, stages: Sequence[Stage], seed: int) -> ArrayLike: ...


@dataclass(frozen=True, eq=False)
class Plan:
    """The blocks in the order they are sent: the first, by the uniform code, and the stages after it."""

    first: NDArray[np.int64]
    stages: tuple[Stage, ...]
    percent: tuple[float, ...]
    """The portion with which each block ends, the first included."""
    notes: tuple[str, ...]

    @property
    def blocks(self) -> list[NDArray[np.int64]]:
        """The sentences of each block, the first included."""
        return [self.first, *(stage.block for stage in self.stages)]


@dataclass(frozen=True)
class OnlineCode:
    """The code of one probe's labels: the targets of each block, and the nats of each but the first.

    >>> code = OnlineCode(percent=(50, 100), targets=(2, 2), nats=(math.log(4),), uniform_bits_per_target=3.0)
    >>> code.codelength_bits, code.uniform_bits, code.compression
    (8.0, 12.0, 1.5)
    """

    percent: tuple[float, ...]
    """Per cent of the sentences sent when each block ends."""
    targets: tuple[int, ...]
    nats: tuple[float, ...]
    uniform_bits_per_target: float
    dev_targets: int = 0
    """Those of a development set that is counted: sent first, by the uniform code."""
    notes: tuple[str, ...] = ()

    @property
    def n_targets(self) -> int:
        """All targets that the code holds."""
        return self.dev_targets + sum(self.targets)

    @property
    def block_bits(self) -> tuple[float, ...]:
        """The bits of each block, the first by the uniform code; a development set is in none."""
        return (self.targets[0] * self.uniform_bits_per_target, *(nats / math.log(2) for nats in self.nats))

    @property
    def bits_per_target(self) -> tuple[float, ...]:
        """The online curve: what a target of each block takes."""
        return tuple(bits / count for bits, count in zip(self.block_bits, self.targets, strict=True))

    @property
    def codelength_bits(self) -> float:
        """The description length of all labels."""
        return self.dev_targets * self.uniform_bits_per_target + math.fsum(self.block_bits)

    @property
    def uniform_bits(self) -> float:
        """The length of the same labels by the uniform code."""
        return self.n_targets * self.uniform_bits_per_target

    @property
    def compression(self) -> float:
        """How many times shorter the code is than the uniform one; below 1 where it is longer."""
        return ratio(self.uniform_bits, self.codelength_bits)

    @property
    def released_kbits(self) -> float:
        """What the released code calls the code length in kbits: bits of the first block plus nats, over 1024."""
        return self._released / RELEASED_KBIT

    @property
    def released_compression(self) -> float:
        """What the released code calls compression: bits of the uniform code over that sum."""
        return ratio(self.uniform_bits, self._released)

    @property
    def _released(self) -> float:
        return (self.dev_targets + self.targets[0]) * self.uniform_bits_per_target + math.fsum(self.nats)


def uniform_bits(n_labels: int, *, several: bool) -> float:
    """Bits of a target by the uniform code: log2 K for one label of K, K for any set of K labels (`several`).

    Raises `OptionError` for one label of one, which takes no bits and leaves nothing to compress.

    >>> uniform_bits(32, several=False), uniform_bits(18, several=True)
    (5.0, 18.0)
    """
    least = 1 if several else 2
    if n_labels < least:
        raise OptionError(f"{n_labels} labels leave nothing to say; a task needs at least {least}")
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

    targets: how many each sentence has, (n,).  sentences: those to code, by default all that are not in `dev`.
    dev: those by which probes stop; without them a tenth of the sentences already sent, at least one, is held out.
    portions: ascending per cent of the sentences, the last 100.

    Portions that end at the same sentence are merged; so are the first ones until there is something to train on (two
    sentences where one must be held out).  The notes say so.

    Raises `OptionError` for portions that do not ascend to 100, `DataError` for fewer than two sentences of targets.

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
        raise DataError(f"{len(shared)} sentences, such as {shared[0]}, are to be coded and in the development set too")
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
    """The online code of each probe that `fit` trains, side by side on the same blocks.

    targets, sentences, dev, portions: see `plan_online`.  uniform_bits_per_target: see `uniform_bits`.
    fit: called once with all stages, so that it may train their probes together.
    count_dev: whether the development set is part of what is sent, first and by the uniform code; where the sentences
        held out are inside, their bits are in the code in any case.

    Raises `ArrayError` where a probe gives a label no probability, for no code holds it, or less than no bits.

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
    """A ratio, infinite where nothing is below: a code of no bits at all."""
    return above / below if below else math.inf


def _check(nats: NDArray[np.float64], plan: Plan) -> None:
    """Raise `ArrayError` where nats (stages, probes) are no code lengths."""
    if nats.ndim != 2 or len(nats) != len(plan.stages):
        raise ArrayError(f"got nats of shape {nats.shape}; (stages, probes) was wanted, of {len(plan.stages)} stages")
    wrong = ~(np.isfinite(nats) & (nats >= 0))
    if not wrong.any():
        return
    number, probe = np.argwhere(wrong)[0].tolist()
    value = nats[number, probe]
    what = "a label of probability zero has no code" if value == math.inf else "which is no code length"
    raise ArrayError(
        f"probe {probe} needs {value} nats for the block that ends at {plan.percent[number + 1]:g} %, after training "
        f"on {len(plan.stages[number].train)} sentences: {what}; a softmax or sigmoid of finite scores gives every "
        "label some"
    )
