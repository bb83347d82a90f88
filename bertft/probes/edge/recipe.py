"""How edge probes are trained: the recipes of the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bertft.errors import OptionError
from bertft.probes.edge.model import Loss
from bertft.probes.side_by_side import Schedule


@dataclass(frozen=True)
class Recipe:
    """How edge probes are trained. The defaults are those of jiant 1 for its large tasks.

    The optimiser is Adam with AMSGrad. The development set is scored every `validate_every` steps, or
    `validations_per_epoch` times an epoch if that is given. The learning rate is multiplied by `decay` after more than
    `decay_patience` validations in a row whose score does not exceed the best by `decay_threshold`. The parameters kept
    are those of the best score.

    Training ends after more than `patience` validations without a better score, when the learning rate is below
    `least_rate`, or after `max_steps` steps or `max_epochs` epochs.
    """

    loss: Loss = "sigmoid"
    """`sigmoid`: a binary decision for each label. `softmax`: exactly one label a target."""
    select: Literal["f1", "loss"] = "f1"
    """The score of a validation: micro-averaged F1, or minus the mean loss."""
    batch: int = 32
    """Sentences of a batch."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    amsgrad: bool = True
    clip: float = 5.0
    """The maximum norm of the gradient of each probe."""
    projected: int = 256
    hidden: int = 256
    input_dropout: float = 0.2
    """Dropout rate of the hidden states that are read."""
    dropout: float = 0.3
    """Dropout rate before the last layer of the classifier."""
    max_steps: int = 250_000
    max_epochs: int | None = None
    validate_every: int = 1000
    validations_per_epoch: int | None = None
    dev_sentences: int | None = 5000
    """How many sentences of the development set are scored, from the first; None for all."""
    decay: float = 0.5
    decay_patience: int = 5
    decay_threshold: float = 1e-4
    patience: int = 20
    least_rate: float = 1e-6

    @property
    def schedule(self) -> Schedule:
        """The decay of the learning rate and the early stopping, by the loss or by minus F1."""
        return Schedule.of(self, relative=False, patience=self.patience + 1)


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
"""paper: jiant 1 as Tenney et al. 2019 ran it, at most 250,000 steps. paper-small: the same with 10,000 steps, for
proto-roles and relations. today: ten times the learning rate and one validation an epoch. On training sets of some
thousand sentences this reaches the same scores in a hundredth of the steps. There is no dropout of the hidden states,
so that probes read them unchanged (Hewitt and Liang 2019 find that dropout does not make probes more selective)."""

SMALL_TASKS = frozenset({"spr", "spr1", "spr2", "rel", "dpr"})
"""Tasks with some thousand targets, for which the reference uses the shorter schedule."""


def recipe_of(preset: str, task: str) -> Recipe:
    """Return the recipe of a preset for a task. Raises `OptionError` for an unknown preset.

    >>> recipe_of("paper", "spr").max_steps
    10000
    """
    if preset not in ("paper", "today"):
        raise OptionError(f"unknown preset {preset!r}; choose one of paper, today")
    return RECIPES["paper-small" if preset == "paper" and task in SMALL_TASKS else preset]
