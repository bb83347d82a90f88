"""What a task must give so that `bertft.tasks.training` can train it: records, a head, features, a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertft.checkpoints.checkpoint import Checkpoint

R = TypeVar("R")

Prediction = tuple[NDArray[Any], ...]
"""What the model says of one row: its outputs but the loss, as arrays without the batch axis."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: every number that the result depends on, besides the data and the seed.

    warmup: the share of the steps over which the learning rate rises.  clip: the largest norm of all gradients.
    bias_correction: whether Adam's moments are divided by the weight they have gathered.  decay_from: `start`, the
    linear decay runs over all steps, so that the rate peaks below `learning_rate`; `warmup`, it runs over the rest.
    head_rate: times the learning rate is that of the head, all outside the body.
    max_length: the most tokens of an input.  steps, every: so many steps instead of epochs, and a judgement and a
    checkpoint after every so many of them.  extras: what one task alone knows.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    max_length: int
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    clip: float = 1.0
    bias_correction: bool = True
    decay_from: str = "warmup"
    head_rate: float = 1.0
    steps: int | None = None
    every: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Records(Generic[R]):
    """The labelled records of one source, in its order; `notes` say in sentences what was left out and why."""

    name: str
    items: tuple[R, ...]
    content_hash: str
    notes: tuple[str, ...] = ()

    def limited(self, limit: int | None, seed: int) -> Records[R]:
        """At most `limit` of the records, drawn, in their order.

        >>> Records("four", ("a", "b", "c", "d"), "0f").limited(2, seed=0).items
        ('c', 'd')
        """
        if limit is None or limit >= len(self.items):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.items), limit, replace=False))
        return replace(self, items=tuple(self.items[place] for place in chosen))


@dataclass(frozen=True)
class Features:
    """The rows a model reads, one or more a record; `notes` say in sentences what was cut.

    Of a row's entries the model gets those that its `forward` names; the others are for `Task.evaluate`.
    """

    rows: Sequence[Mapping[str, Any]]
    notes: tuple[str, ...] = ()


class Trainable(Protocol[R]):
    """What `bertft.tasks.training` must know of a task: how records become rows, and how predictions are judged."""

    name: str
    metric: str
    """Of those that `evaluate` gives, the one by which the best checkpoint is chosen: the highest, or the lowest where
    the name ends in "loss"."""

    def encode(
        self,
        records: Records[R],
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """The rows of the records, at most `recipe.max_length` tokens each; without `training`, those to predict.

        labels: the number of each label, as the config of the model has it that `build` gave.
        """

    def collator(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Callable[[list[Any]], dict[str, Any]]:
        """What makes a batch of tensors of some rows."""

    def evaluate(self, predictions: Sequence[Prediction], features: Features, records: Records[R]) -> dict[str, float]:
        """The metrics of predictions, one a row, as shares of 1."""


class Task(Trainable[R], Protocol[R]):
    """One task of fine-tuning: `mnli`, `squad` and `dependency` hold one each, as `TASK`."""

    recipes: Mapping[str, Recipe]
    """By preset: `paper` and `today`."""

    def read(self, source: str) -> Records[R]:
        """The records of a local file in the published format, or of a data set through `datasets`.

        Raises `DataError` naming file and line of a record that is malformed.
        """

    def check(self, train: Records[R]) -> None:
        """Raise `DataError` where nothing can be learned from the training records."""

    def build(self, checkpoint: Checkpoint, train: Records[R]) -> PreTrainedModel:
        """A new model with the checkpoint's body, and a head drawn from torch's generator; see `models.with_head`."""

    def baselines(self, train: Records[R], dev: Records[R], *, seed: int) -> dict[str, dict[str, float]]:
        """What a metric must beat: by name of the baseline, the metrics on `dev` of guesses that no model made."""
