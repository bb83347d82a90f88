"""The optimiser of probes trained side by side: against one torch optimiser and scheduler for each probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertft.probes.side_by_side import Monitor, Optimiser, Schedule


def losses_of(probes: int, validations: int, seed: int = 0) -> list[list[float]]:
    """Losses that fall, then rise and fall at random, (validations, probes)."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(-0.02, 0.1, (validations, probes)).cumsum(axis=0)
    return (2 + steps).round(3).tolist()


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("decay_patience", [0, 2])
def test_learning_rates_are_those_of_the_scheduler(relative: bool, decay_patience: int) -> None:
    schedule = Schedule(0.1, 0.3, 0.01, 10**6, decay_patience=decay_patience, relative=relative, least_change=1e-8)
    for probe in range(20):
        monitor = Monitor(schedule)
        adam = torch.optim.Adam([torch.zeros(1)], lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            adam,
            factor=0.3,
            patience=decay_patience,
            threshold=0.01,
            threshold_mode="rel" if relative else "abs",
        )
        rates = []
        for (loss,) in losses_of(1, 60, probe):
            monitor.improved(loss)
            scheduler.step(loss)
            rates.append(monitor.learning_rate)
            assert monitor.learning_rate == pytest.approx(adam.param_groups[0]["lr"], rel=1e-12)
        assert min(rates) < 0.01


def test_training_ends_after_the_patience_and_at_the_least_rate() -> None:
    monitor = Monitor(Schedule(1.0, 0.5, 0.0, patience=3, improvement=0.1))
    seen = []
    for loss in (3.0, 2.95, 2.85, 2.80, 2.78, 2.76):
        seen.append((monitor.improved(loss), monitor.ended))
    assert seen == [(True, False), (False, False), (True, False), (False, False), (False, False), (False, True)]
    assert monitor.best == 2
    low = Monitor(Schedule(1.0, 0.5, 0.0, patience=100, least_rate=0.25))
    ended = []
    for loss in (1.0, 1.0, 1.0, 1.0):
        low.improved(loss)
        ended.append(low.ended)
    assert ended == [False, False, False, True]


@pytest.mark.parametrize("amsgrad", [True, False])
def test_probes_are_those_that_torch_trains_one_by_one(amsgrad: bool) -> None:
    rng = np.random.default_rng(0)
    first = [torch.from_numpy(rng.standard_normal((5, *shape))) for shape in ((3, 2), (4,))]
    gradients = [[rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 4))] for _ in range(60)]
    losses = losses_of(5, 12, seed=3)
    schedule = Schedule(0.05, 0.5, 1e-3, patience=3, improvement=0.01)
    optimiser = Optimiser([part.clone() for part in first], schedule, amsgrad=amsgrad)
    ended = {}
    for validation, of_probe in enumerate(losses):
        for step in range(5):
            slopes = gradients[5 * validation + step]
            optimiser.step([torch.from_numpy(part[optimiser.active]) for part in slopes])
        before = list(optimiser.active)
        left = optimiser.validated([of_probe[probe] for probe in before], last=validation == 11)
        gone = set(before) - set(optimiser.active)
        assert left == bool(gone)
        assert [len(part) for part in optimiser.parameters] == [len(optimiser.active)] * 2
        ended |= dict.fromkeys(gone, validation)
    assert set(ended) == set(range(5))
    assert len(set(ended.values())) > 2, "all probes ended at once, which checks little"

    for probe in range(5):
        own = [part[probe].clone().requires_grad_() for part in first]
        adam = torch.optim.Adam(own, lr=0.05, amsgrad=amsgrad)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=0, threshold=1e-3)
        best, lowest = [], float("inf")
        for validation in range(ended[probe] + 1):
            for step in range(5):
                for part, slope in zip(own, gradients[5 * validation + step], strict=True):
                    part.grad = torch.from_numpy(slope[probe])
                adam.step()
            loss = losses[validation][probe]
            scheduler.step(loss)
            if loss < lowest - 0.01:
                best, lowest = [part.detach().clone() for part in own], loss
        for kept, wanted in zip(optimiser.best, best, strict=True):
            torch.testing.assert_close(kept[probe], wanted, rtol=1e-10, atol=1e-12)


def test_parameters_still_require_gradients_after_probes_have_left() -> None:
    optimiser = Optimiser([torch.ones(2, 3, requires_grad=True)], Schedule(0.1, 0.5, 0.0, patience=1))
    optimiser.validated([1.0, 1.0])
    assert optimiser.validated([2.0, 0.5])
    (values,) = optimiser.parameters
    assert values.requires_grad
    assert values.is_leaf
    assert optimiser.active == [1]
