"""The optimiser of probes trained side by side: Adam, plateau decay and early stopping, each of them per probe.

Probes of one shape are one set of parameters with a leading axis, (probes, ...). One step of `Optimiser` moves them
all, each at its own learning rate. After a validation, `Optimiser.validated` judges each probe by its own loss. A probe
whose training has ended is removed from the parameters, so it costs nothing more.

Probes trained together give the same result as probes trained alone, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """How the learning rate of a probe falls, and when its training ends.

    A validation counts as progress if its loss is below the lowest loss that counted before, by more than the share
    `decay_threshold` of it (`relative`) or by more than the amount `decay_threshold`. After more than `decay_patience`
    validations in a row without progress, the learning rate is multiplied by `decay`. It stays as it is if the change
    would be `least_change` or less.

    The parameters kept are those of the last validation whose loss was below the previous best by more than
    `improvement`. Training ends `patience` validations after it, or when the learning rate is below `least_rate`.
    """

    learning_rate: float
    decay: float
    decay_threshold: float
    patience: int
    decay_patience: int = 0
    relative: bool = True
    improvement: float = 0.0
    least_rate: float = 0.0
    least_change: float = 0.0

    @classmethod
    def of(cls, recipe: Any, **others: Any) -> Schedule:
        """Return the schedule of a recipe: its fields of the same names, and `others` for the rest."""
        named = {each.name: getattr(recipe, each.name) for each in fields(cls) if hasattr(recipe, each.name)}
        return cls(**{**named, **others})


class Monitor:
    """The learning rate of one probe, its best validation, and whether its training has ended.

    >>> monitor = Monitor(Schedule(learning_rate=0.1, decay=0.5, decay_threshold=0.0, patience=2))
    >>> [monitor.improved(loss) for loss in (3.0, 2.0, 2.5)]
    [True, True, False]
    >>> monitor.best, monitor.learning_rate, monitor.ended
    (1, 0.05, False)
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.learning_rate = schedule.learning_rate
        self.validations = 0
        self.best = -1
        """The index of the validation whose parameters are kept, -1 before the first."""
        self._best_loss = math.inf
        self._plateau = math.inf  # the loss that the next one is compared with to decide on the learning rate
        self._waited = 0  # validations without progress since the learning rate last fell

    def improved(self, loss: float) -> bool:
        """Take the loss of a validation. Return whether the parameters are the best so far, and are to be kept."""
        schedule = self.schedule
        wanted = (
            self._plateau * (1 - schedule.decay_threshold)
            if schedule.relative
            else (self._plateau - schedule.decay_threshold)
        )
        if loss < wanted:
            self._plateau, self._waited = loss, 0
        else:
            self._waited += 1
            if self._waited > schedule.decay_patience:
                self._waited = 0
                if self.learning_rate * (1 - schedule.decay) > schedule.least_change:
                    self.learning_rate *= schedule.decay
        better = loss < self._best_loss - schedule.improvement
        if better:
            self._best_loss, self.best = loss, self.validations
        self.validations += 1
        return better

    @property
    def ended(self) -> bool:
        """Whether the probe is to be trained no further."""
        waited = self.validations - 1 - self.best
        return waited >= self.schedule.patience or self.learning_rate < self.schedule.least_rate


class Optimiser:
    """Adam, or AMSGrad, for probes trained side by side.

    parameters: tensors (probes, ...), which the optimiser changes in place. Those that require gradients still do so
    after probes have left.

    Source: Kingma and Ba 2015; Reddi et al. 2018 for AMSGrad.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        schedule: Schedule,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        amsgrad: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        """The parameters of the probes still trained, (active, ...)."""
        self.best = [values.detach().clone() for values in parameters]
        """The best parameters of all probes, (probes, ...)."""
        self.monitors = [Monitor(schedule) for _ in parameters[0]]
        self.active = list(range(len(self.monitors)))
        """The indices of the probes still trained, in the order of `parameters`."""
        self.steps = 0
        self.betas, self.epsilon = betas, epsilon
        # The mean gradient, the mean square, and for AMSGrad the largest mean square so far.
        self._moments = [[torch.zeros_like(values) for values in self.best] for _ in range(3 if amsgrad else 2)]
        self._set_rates()

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters of all active probes, each probe at its own learning rate."""
        (beta, beta_square), self.steps = self.betas, self.steps + 1
        sizes = self._rates / (1 - beta**self.steps)
        correction = math.sqrt(1 - beta_square**self.steps)
        for values, gradient, first, second, *largest in zip(self.parameters, gradients, *self._moments, strict=True):
            first.lerp_(gradient, 1 - beta)
            second.mul_(beta_square).addcmul_(gradient, gradient, value=1 - beta_square)
            if largest:
                torch.maximum(largest[0], second, out=largest[0])
            scale = (largest[0] if largest else second).sqrt().div_(correction).add_(self.epsilon)
            values.sub_(torch.div(first, scale, out=scale).mul_(sizes.view(-1, *[1] * (values.ndim - 1))))

    def validated(self, losses: Sequence[float], *, last: bool = False) -> bool:
        """Take the losses of a validation, one for each active probe. Return whether some of them left.

        The best parameters and the learning rates are updated. Probes leave where their training has ended, or all of
        them where this validation is the `last`.
        """
        going = []
        for row, (probe, loss) in enumerate(zip(self.active, losses, strict=True)):
            monitor = self.monitors[probe]
            if monitor.improved(loss):
                for kept, values in zip(self.best, self.parameters, strict=True):
                    kept[probe] = values[row].detach()
            if not (last or monitor.ended):
                going.append(row)
        left = len(going) < len(self.active)
        if left:
            self.active = [self.active[row] for row in going]
            self.parameters = [v.detach()[going].requires_grad_(v.requires_grad) for v in self.parameters]
            self._moments = [[values[going] for values in part] for part in self._moments]
        self._set_rates()
        return left

    def _set_rates(self) -> None:
        rates = [self.monitors[probe].learning_rate for probe in self.active]
        self._rates = torch.tensor(rates, dtype=self.best[0].dtype, device=self.best[0].device)
