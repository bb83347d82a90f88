"""Description length of edge-probing tasks: the sentences to code, and the probes that code them.

`EdgeFit` codes with the probes of Tenney et al. It trains the probes of all inputs and stages together. `SpanMeans`
gives the mean vector of each span's subwords, two spans side by side, to the perceptrons of Voita and Titov and to the
variational code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.errors import OptionError
from bertft.probes.edge import EdgeJob, Input, Recipe, SubwordStates, SubwordTask, target_nats, train_edge_probes
from bertft.probes.edge.model import Loss
from bertft.probes.edge.targets import Indices, ranges
from bertft.probes.mdl.online import Stage, uniform_bits
from bertft.progress import PhaseProgress

LEAST_STEPS = 5
"""The fewest steps between two validations. An epoch of the first stages has only one or two."""

VALIDATIONS = 20
"""The largest number of validations of a stage."""


@dataclass(frozen=True, eq=False)
class CodedTask:
    """A task as units to code. A unit is a sentence: first those to code, then those of the development set.

    A sentence that is in both is two units, each with its own targets.
    """

    train: SubwordTask
    dev: SubwordTask | None = None

    @cached_property
    def sentences(self) -> Indices:
        """The index of each unit's sentence in the states, (units,)."""
        return np.concatenate([part.sentences for part in self._parts])

    @cached_property
    def targets(self) -> Indices:
        """The number of targets of each unit, (units,)."""
        return np.concatenate([np.unique(part.sentence, return_counts=True)[1] for part in self._parts])

    @property
    def train_units(self) -> Indices:
        """The indices of the units to code."""
        return np.arange(len(self.train.sentences))

    @property
    def dev_units(self) -> Indices | None:
        """The indices of the units of the development set, None without one."""
        return None if self.dev is None else np.arange(len(self.train.sentences), len(self.sentences))

    @cached_property
    def loss(self) -> Loss:
        """`softmax` if every target has exactly one label, `sigmoid` otherwise."""
        return "softmax" if all((part.gold.sum(axis=1) == 1).all() for part in self._parts) else "sigmoid"

    @property
    def uniform_bits_per_target(self) -> float:
        """The bits of a target by the uniform code: see `uniform_bits`."""
        return uniform_bits(len(self.train.labels), several=self.loss == "sigmoid")

    def at(self, units: Indices) -> SubwordTask:
        """Return the targets of some units, either all to code or all of the development set."""
        first = len(self.train.sentences)
        if self.dev is not None and len(units) and units[0] >= first:
            return self.dev.at(self.sentences[units])
        return self.train.at(self.sentences[units])

    @property
    def _parts(self) -> list[SubwordTask]:
        return [part for part in (self.train, self.dev) if part is not None]


@dataclass(frozen=True, eq=False)
class EdgeFit:
    """Code with edge probes, one for each input. This is a `Fit` of `bertft.probes.mdl.online`.

    The loss depends on the task, and validations are scored by it. Learning rate, sizes, dropout and patience are those
    of the recipe. A stage is validated at most `VALIDATIONS` times: after every epoch, or after `LEAST_STEPS` steps if
    an epoch has fewer.
    """

    task: CodedTask
    states: SubwordStates
    inputs: tuple[str, ...]
    recipe: Recipe
    device: str | torch.device = "cpu"
    progress: PhaseProgress | None = None
    """Called as progress(done, total), in steps of all probes. The total is the largest possible number."""

    def __call__(self, stages: Sequence[Stage], seed: int) -> NDArray[np.float64]:
        """Train the probes of all stages together. Raises as `train_edge_probes`."""
        held_out: dict[int, SubwordTask] = {}
        jobs = []
        for number, stage in enumerate(stages):
            train = self.task.at(stage.train)
            dev = held_out.setdefault(id(stage.held_out), self.task.at(stage.held_out))
            recipe = self._recipe(len(stage.train))
            jobs += [EdgeJob(train, dev, source, seed + number, recipe) for source in self.inputs]
        probes = train_edge_probes(jobs, self.states, order_seed=seed, device=self.device, progress=self.progress)
        found = np.empty((len(stages), len(self.inputs)))
        for number, stage in enumerate(stages):
            own = probes[number * len(self.inputs) : (number + 1) * len(self.inputs)]
            found[number] = target_nats(own, self.task.at(stage.block), self.states, device=self.device).sum(axis=1)
        return found

    def _recipe(self, sentences: int) -> Recipe:
        every = max(LEAST_STEPS, math.ceil(sentences / self.recipe.batch))
        return replace(
            self.recipe,
            loss=self.task.loss,
            select="loss",
            max_epochs=None,
            validations_per_epoch=None,
            validate_every=every,
            max_steps=VALIDATIONS * every,
            dev_sentences=None,
        )


@dataclass(frozen=True, eq=False)
class SpanMeans:
    """The mean vector of each span's subwords in several layers. These are `LabelledVectors` of a task.

    Means are computed batch by batch, so memory is that of one batch. Raises `OptionError` for an input that is not one
    layer.
    """

    task: CodedTask
    states: SubwordStates
    names: tuple[str, ...]
    """The inputs: `layer:K`, `top` or `lexical`."""
    _layers: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_layers", [layer_of(name, self.states.layers) for name in self.names])

    @property
    def inputs(self) -> int:
        """The number of layers."""
        return len(self.names)

    @property
    def width(self) -> int:
        """The width of the states times the number of spans of a target."""
        return self.states.width * len(self.task.train.spans)

    @property
    def n_labels(self) -> int:
        """The number of labels of the task."""
        return len(self.task.train.labels)

    @property
    def loss(self) -> Loss:
        """The loss of the task."""
        return self.task.loss

    @property
    def targets(self) -> Indices:
        """The number of targets of each unit."""
        return self.task.targets

    def batch(self, sentences: Indices, inputs: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return vectors and labels of some units of the task, see `LabelledVectors.batch`."""
        own = self.task.at(sentences)
        layers = [self._layers[place] for place in inputs]
        padded = torch.from_numpy(self.states.padded(own.sentences, layers))
        subwords = padded.flatten(1, 2).transpose(0, 1)  # [sentences * n, layers, d]
        first = np.searchsorted(own.sentences, own.sentence) * padded.shape[2]
        means = []
        for spans in own.spans:
            lengths = spans[:, 1] - spans[:, 0]
            rows = subwords[torch.from_numpy(ranges(first + spans[:, 0], lengths))]
            means.append(torch.segment_reduce(rows, "mean", lengths=torch.from_numpy(lengths), unsafe=True))
        return torch.cat(means, dim=2).transpose(0, 1), torch.from_numpy(own.gold)


def layer_of(name: str, layers: Sequence[int]) -> int:
    """Return the layer of an input that reads exactly one.

    Raises `OptionError` for an unknown input, and for one of several layers.

    >>> layer_of("top", range(7))
    6
    """
    source = Input.parse(name, layers)
    if source.kind != "layer":
        raise OptionError(
            f"input {name!r} combines several layers in an edge probe, and a perceptron reads one; give layer:K, top "
            "or lexical"
        )
    return source.layers[0]
