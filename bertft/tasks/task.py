"""The interface of a task that `bertft.tasks.training` can train: records, a head, features and metrics."""

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
"""The outputs of the model for one row, without the loss, as arrays without the batch axis."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained: all numbers that the result depends on, except for the data and the seed.

    max_length: the most tokens of an input.
    warmup: the share of the steps during which the learning rate rises.
    clip: the largest norm of the gradient.
    bias_correction: whether Adam corrects the bias of its moments.
    decay_from: with `start`, the linear decay spans all steps, so that the rate peaks below `learning_rate`; with
        `warmup`, it spans the steps after the warm-up.
    head_rate: the factor of the learning rate for the head, which is everything outside the encoder.
    steps: train for so many steps instead of `epochs`.  every: then evaluate and save after so many steps.
    extras: further numbers of one task.
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
    """The labelled records of one source, in its order; `notes` say what was left out and why."""

    name: str
    items: tuple[R, ...]
    content_hash: str
    notes: tuple[str, ...] = ()

    def limited(self, limit: int | None, seed: int) -> Records[R]:
        """Return at most `limit` random records, in their order.

        >>> Records("four", ("a", "b", "c", "d"), "0f").limited(2, seed=0).items
        ('c', 'd')
        """
        if limit is None or limit >= len(self.items):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.items), limit, replace=False))
        return replace(self, items=tuple(self.items[index] for index in chosen))


@dataclass(frozen=True)
class Features:
    """The rows that a model reads, one or more for each record; `notes` say what was cut.

    The model receives those entries of a row that its `forward` names; the others are for `Task.evaluate`.
    """

    rows: Sequence[Mapping[str, Any]]
    notes: tuple[str, ...] = ()


class Trainable(Protocol[R]):
    """What can be trained: how records become rows, and how predictions are evaluated."""

    name: str
    metric: str
    """The metric of `evaluate` that chooses the best checkpoint: its highest value, or its lowest if the name ends in
    "loss"."""

    def encode(
        self,
        records: Records[R],
        tokenizer: PreTrainedTokenizerBase,
        recipe: TrainingRecipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """Return the rows of the records, of at most `recipe.max_length` tokens each.

        labels: the index of each label in the config of the model.
        training: whether the rows are to train on; otherwise they are to evaluate on.
        """

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, recipe: TrainingRecipe
    ) -> Callable[[list[Any]], dict[str, Any]]:
        """Return a function that makes a batch of tensors from some rows."""

    def evaluate(self, predictions: Sequence[Prediction], features: Features, records: Records[R]) -> dict[str, float]:
        """Return the metrics of the predictions for all rows, as shares of 1."""


class Task(Trainable[R], Protocol[R]):
    """A task of fine-tuning; `mnli`, `squad` and `dependency` each define one as `TASK`."""

    recipes: Mapping[str, TrainingRecipe]
    """The recipes of the presets `paper` and `today`."""

    def read(self, source: str) -> Records[R]:
        """Read records from a local file in the published format, or from a data set of the hub.

        Raises `DataError` naming the file and line of a malformed record.
        """

    def check(self, train: Records[R]) -> None:
        """Raise `DataError` if nothing can be learned from the training records."""

    def build(self, checkpoint: Checkpoint, train: Records[R]) -> PreTrainedModel:
        """Return a new model with the encoder of a checkpoint and a head drawn from torch's generator."""

    def baselines(self, train: Records[R], dev: Records[R], *, seed: int) -> dict[str, dict[str, float]]:
        """Return the metrics on `dev` of predictions that use no model, by the name of the baseline."""
