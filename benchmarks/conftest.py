"""How things are timed here: in one run, in turn, with the answers checked; and what of a run is recorded."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import threadpoolctl
from memory import OwnProcess
from recording import LOWER_BOUNDS, OURS

PAUSE = 0.3
"""Seconds between two contestants: threads of a BLAS spin for up to 0.2 after its work, on another's processor."""

PACKAGES = ("bertft", "numpy", "scipy", "torch", "numba", "scikit-learn", "rsatoolbox", "transformers")
"""Whose versions a run records, None where one is not installed."""

Work = Callable[[], Any]


@pytest.fixture
def checked(benchmark) -> Callable[[Mapping[str, float | None], Mapping[str, float]], None]:
    """checked(errors, tolerances) fails where an error is above what it may be, and notes that answers were checked.

    By contestant; only lower bounds have no error.
    """

    def run(errors: Mapping[str, float | None], tolerances: Mapping[str, float]) -> None:
        known = {name: float(error) for name, error in errors.items() if error is not None}
        assert OURS in known
        assert set(errors) <= {*known, *LOWER_BOUNDS}, "the answer of every competitor is checked"
        for name, error in known.items():
            assert error <= tolerances[name], f"{name} is off by {error:.1e}, above {tolerances[name]:.0e}"
        benchmark.extra_info.update(errors=known, tolerances={name: tolerances[name] for name in known}, checked=True)

    return run


@pytest.fixture
def race(benchmark, checked, request) -> Callable[..., None]:
    """race(ours, competitors, check, ...) times a function and others in turn, A B C A B C ..., so that drift hits all.

    competitors: by name what else runs; names of `recording.LOWER_BOUNDS` give no answer of their own.  A contestant
        may be an `OwnProcess`, which is prepared before the clock starts.
    check: check(name, answer) gives how far off the first answer of a contestant is, None for a lower bound.
    reference: the competitor whose first answer is the truth where no better is at hand; `check` gets it too, as its
        third argument, and not for the reference itself.
    tolerances: how far off each may be; the benchmark fails where one is further.
    rounds: of every contestant, and `rounds_of` of those for which fewer must do.  One with `make bench ROUNDS=short`.
    warm_up: what runs before the clock; by default every contestant once, whose answers are the ones checked.
    costs: by contestant what it computes and moves, from `costs`.
    goals: what the project set out to reach against a contestant, "fastest dense" or "memory, MiB": "at most" or "at
        least", and a number; None shows the ratio without a goal.  Ratios are ours over a lower bound's time, and a
        competitor's over ours.
    pause: seconds between two contestants; 0 where nobody has threads.
    facts: whatever else the report should know.
    """

    def run(
        ours: Work,
        competitors: Mapping[str, Work],
        check: Callable[..., float | None],
        *,
        tolerances: Mapping[str, float],
        rounds: int,
        rounds_of: Mapping[str, int] | None = None,
        reference: str | None = None,
        warm_up: Work | None = None,
        costs: Mapping[str, Mapping[str, float]] | None = None,
        goals: Mapping[str, tuple[str, float] | None] | None = None,
        pause: float = PAUSE,
        **facts: Any,
    ) -> None:
        short = benchmark.disabled or request.config.getoption("benchmark_min_rounds") == 1
        rounds = 1 if short else rounds
        of_name = dict.fromkeys(competitors, rounds) | ({} if short else dict(rounds_of or {}))
        contest = Contest(ours, competitors, of_name, pause)
        if warm_up is not None:
            warm_up()
        elif not short:
            contest.warm_up()
        found: list[Any] = []
        benchmark.pedantic(
            lambda: found.append(ours()),
            setup=contest.round,
            teardown=lambda: contest.keep(OURS, ours, found.pop()),
            rounds=rounds,
            iterations=1,
        )
        if found:  # a disabled benchmark tears nothing down
            contest.keep(OURS, ours, found.pop())
        answers = contest.answers
        truth = () if reference is None else (answers.pop(reference),)
        checked({name: check(name, answer, *truth) for name, answer in answers.items()}, tolerances)
        benchmark.extra_info.update(
            seconds=contest.seconds, reference=reference, costs=dict(costs or {}), goals=dict(goals or {}), **facts
        )

    return run


class Contest:
    """The contestants of a race, the times of all but ours, and the first answer of each."""

    def __init__(self, ours: Work, competitors: Mapping[str, Work], rounds: Mapping[str, int], pause: float) -> None:
        self.ours, self.competitors, self.rounds, self.pause = ours, competitors, rounds, pause
        self.seconds: dict[str, list[float]] = {name: [] for name in competitors}
        self.answers: dict[str, Any] = {}

    def warm_up(self) -> None:
        """Every contestant once, untimed."""
        for name, work in {OURS: self.ours, **self.competitors}.items():
            self._prepare(work)
            self.keep(name, work, work())

    def round(self) -> None:
        """Every competitor that has rounds left, and all that ours needs before the clock starts."""
        for name, work in self.competitors.items():
            if len(self.seconds[name]) < self.rounds[name]:
                self._prepare(work)
                start = time.perf_counter()
                answer = work()
                self.seconds[name].append(time.perf_counter() - start)
                self.keep(name, work, answer)
        self._prepare(self.ours)

    def keep(self, name: str, work: Work, answer: Any) -> None:
        if isinstance(work, OwnProcess):
            answer = work.finish()
        self.answers.setdefault(name, answer)

    def _prepare(self, work: Work) -> None:
        if isinstance(work, OwnProcess):
            work.prepare()
        time.sleep(self.pause)


class Outcomes:
    """What became of each benchmark: a failed one may leave timings behind, and pytest's record does not say so."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            reason = report.longrepr[-1] if report.skipped and isinstance(report.longrepr, tuple) else report.when
            self.of[report.nodeid] = f"{report.outcome}: {reason}"
        elif report.when == "call":
            self.of.setdefault(report.nodeid, "passed")

    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        output_json["outcomes"] = self.of


BUSY_BEFORE = [0.0]


def busy() -> float:
    """The share of the processors that others use while nothing runs here, in percent."""
    return psutil.cpu_percent(interval=2.0)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes())
    if config.getoption("benchmark_json"):
        BUSY_BEFORE[0] = busy()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    import torch

    machine_info["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine_info["busy"] = max(BUSY_BEFORE[0], busy())
    found = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
    machine_info["versions"] = {name: found.get(name) for name in PACKAGES}
    parts = ("internal_api", "version", "architecture", "num_threads")
    # Its folder says whose library it is: numpy.libs, scipy.libs.
    machine_info["blas"] = [
        {"of": Path(pool["filepath"]).parent.name.partition(".")[0], **{part: pool.get(part) for part in parts}}
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]
    if torch.backends.mkl.is_available():  # linked in, where threadpoolctl does not see it
        machine_info["blas"].append({"of": "torch", "internal_api": "mkl", "num_threads": torch.get_num_threads()})
