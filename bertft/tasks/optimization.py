"""The optimiser and the learning-rate schedule of a recipe: those that Devlin et al. published, or those of today."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from bertft.errors import OptionError
from bertft.tasks.task import TrainingRecipe

DECAYS = ("start", "warmup")


class UncorrectedAdamW(torch.optim.AdamW):
    """AdamW without bias correction: every step is lr · m / (√v + ε), whatever its number.

    torch always divides m by c₁ = 1 - β₁ᵗ and v by c₂ = 1 - β₂ᵗ. Both corrections cancel if lr is replaced by
    lr · c₁ / √c₂ and ε by ε / √c₂. Weight decay, which torch multiplies by lr, is divided by c₁ / √c₂.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = UncorrectedAdamW([weight], lr=1.0, eps=0.0, weight_decay=0.0)
    >>> weight.grad = torch.ones(1)
    >>> optimizer.step()
    >>> round(weight.item(), 4)  # 0.1 / √0.001, where the corrected step is 1
    -3.1623

    Source: Devlin et al. 2019, `optimization.py`; Zhang et al. 2021 on the purpose of the correction.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step. All parameters of a group must have taken part in all previous steps."""
        given = [(group["lr"], group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            steps = {int(self.state[p]["step"]) for p in group["params"] if self.state.get(p)}
            step = max(steps, default=0) + 1
            c1, c2 = (1 - beta**step for beta in group["betas"])
            factor = c1 / math.sqrt(c2)
            group["lr"] *= factor
            group["eps"] /= math.sqrt(c2)
            group["weight_decay"] /= factor
        try:
            return super().step(closure)
        finally:
            for group, (lr, eps, weight_decay) in zip(self.param_groups, given, strict=True):
                group.update(lr=lr, eps=eps, weight_decay=weight_decay)


def optimizer_of(recipe: TrainingRecipe) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the class of the optimiser and its arguments; the Trainer creates the groups with and without decay."""
    kind = torch.optim.AdamW if recipe.bias_correction else UncorrectedAdamW
    return kind, {"lr": recipe.learning_rate, "betas": recipe.betas, "eps": recipe.epsilon}


def raise_head_rate(optimizer: torch.optim.Optimizer, model: Any, times: float) -> None:
    """Multiply the learning rate of all parameters outside the encoder of a model; call it before the first step."""
    if times == 1:
        return
    # A model of peft wraps the adapted model, and the adapters are among the parameters of its encoder.
    adapted = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = {id(parameter) for parameter in adapted.base_model.parameters()}
    for group in list(optimizer.param_groups):
        head = [parameter for parameter in group["params"] if id(parameter) not in body]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) in body]
        if head:
            optimizer.add_param_group({**group, "params": head, "lr": times * group["lr"]})


def learning_rate_factor(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step, counted from 0, out of `steps`; raises `OptionError`.

    >>> recipe = TrainingRecipe(1, 5e-5, 32, 128, warmup=0.1, decay_from="start")
    >>> [round(learning_rate_factor(recipe, step, 100), 3) for step in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 0.9, 0.45, 0.0]
    """
    if recipe.decay_from not in DECAYS:
        raise OptionError(f"the decay begins at {recipe.decay_from!r}; choose one of {', '.join(DECAYS)}")
    rising = int(steps * recipe.warmup)
    if step < rising:
        return step / rising
    first = 0 if recipe.decay_from == "start" else rising
    return max(0.0, (steps - step) / max(1, steps - first))


def schedule_of(recipe: TrainingRecipe, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Return the learning-rate schedule of a recipe over `steps` steps."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step, steps))
