"""Work on a GPU's arrays runs where it was faster, by a clock that the work itself advances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertft import kernels
from bertft.errors import ArrayError, BackendError, PerformanceWarning
from bertft.kernels import placement
from bertft.kernels.placement import TRIALS, where_faster


class Machine:
    """Two devices and the seconds that work takes on each; `runs` lists the devices it ran on."""

    def __init__(self, monkeypatch, **seconds):
        self.seconds, self.now, self.runs = seconds, 0.0, []
        monkeypatch.setattr(kernels, "select", lambda device, *_: device)
        monkeypatch.setattr(placement, "_faster", {})
        monkeypatch.setattr(placement.time, "perf_counter", lambda: self.now)

    def work(self, ops, *arrays):
        """Return the sum of the arrays, which are NumPy on the CPU."""
        assert all(isinstance(array, np.ndarray) == (ops == "cpu") for array in arrays)
        self.runs.append(ops)
        # The first run on a device compiles, which must not count.
        self.now += self.seconds[ops] + 100 * (self.runs.count(ops) == 1 and ops == "gpu")
        return sum(float(array.sum()) for array in arrays)


@pytest.mark.parametrize(("seconds", "winner"), [({"gpu": 1, "cpu": 2}, "gpu"), ({"gpu": 2, "cpu": 1}, "cpu")])
def test_the_faster_serves(monkeypatch, seconds, winner):
    machine = Machine(monkeypatch, **seconds)
    arrays = torch.ones(3, 5), torch.ones(5)
    assert where_faster(machine.work, "gpu", *arrays) == 20
    assert machine.runs == ["gpu"] * (1 + TRIALS) + ["cpu"] * (1 + TRIALS) + [winner]
    machine.runs.clear()
    assert where_faster(machine.work, "gpu", *arrays) == 20
    assert where_faster(machine.work, "gpu", torch.ones(2, 7), torch.ones(4)) == 18  # of about the same size
    assert machine.runs == [winner] * 2


@pytest.mark.parametrize(
    "arrays", [(torch.ones(30, 5),), (torch.ones(3, 50),), (torch.ones(3, 5).double(),)], ids=["rows", "width", "type"]
)
def test_other_sizes_and_types_are_timed_anew(monkeypatch, arrays):
    machine = Machine(monkeypatch, gpu=2, cpu=1)
    where_faster(machine.work, "gpu", torch.ones(3, 5))
    machine.runs.clear()
    machine.seconds = {"gpu": 1, "cpu": 2}
    where_faster(machine.work, "gpu", *arrays)
    assert machine.runs[-1] == "gpu"


def test_arrays_of_the_cpu_stay(monkeypatch):
    machine = Machine(monkeypatch, cpu=1)
    assert where_faster(machine.work, "cpu", np.ones(4)) == 4
    assert machine.runs == ["cpu"]


def test_a_gpu_that_cannot_warns_and_the_copy_serves(monkeypatch):
    machine = Machine(monkeypatch, gpu=1, cpu=2)

    def work(ops, *arrays):
        if ops == "gpu":
            raise BackendError("CuPy does not work here")
        return machine.work(ops, *arrays)

    with pytest.warns(PerformanceWarning, match="CuPy does not work here; the arrays are copied to the CPU"):
        assert where_faster(work, "gpu", torch.ones(4)) == 4
    assert where_faster(work, "gpu", torch.ones(4)) == 4
    assert machine.runs == ["cpu"] * 2


def test_bad_arrays_are_refused_as_ever(monkeypatch):
    Machine(monkeypatch, gpu=1, cpu=1)

    def work(ops, *arrays):
        raise ArrayError("predicted is nan in sentence 3")

    with pytest.raises(ArrayError, match="nan in sentence 3"):
        where_faster(work, "gpu", torch.ones(4))
