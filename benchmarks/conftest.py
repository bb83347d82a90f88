"""Fixtures that time functions and check their answers, and hooks that add the environment to the record."""

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
"""Seconds between two contestants. BLAS threads can spin for up to 0.2 s after their work and slow the next one."""

PACKAGES = ("bertft", "numpy", "scipy", "torch", "numba", "scikit-learn", "rsatoolbox", "transformers")
"""Packages whose versions are recorded. The version is None if a package is not installed."""

Work = Callable[[], Any]


@pytest.fixture
def checked(benchmark) -> Callable[[Mapping[str, float | None], Mapping[str, float]], None]:
    """Return checked(errors, tolerances), which fails if an error exceeds its tolerance and records the check.

    Both mappings are by contestant. Only lower bounds have no error.
    """

    def run(errors: Mapping[str, float | None], tolerances: Mapping[str, float]) -> None:
        known = {name: float(error) for name, error in errors.items() if error is not None}
        assert OURS in known
        assert set(errors) <= {*known, *LOWER_BOUNDS}, "the answer of every competitor must be checked"
        for name, error in known.items():
            assert error <= tolerances[name], f"{name} has error {error:.1e}, tolerance {tolerances[name]:.0e}"
        benchmark.extra_info.update(errors=known, tolerances={name: tolerances[name] for name in known}, checked=True)

    return run


@pytest.fixture
def race(benchmark, checked, request) -> Callable[..., None]:
    """Return race(ours, competitors, check, ...), which times bertft and its competitors.

    The contestants run in turn, A B C A B C ..., so that drift of the machine affects all of them.

    ours: the function of bertft. Like a competitor, it may be an `OwnProcess`, which is prepared before it is timed.
    competitors: the other functions by name. Those named in `recording.LOWER_BOUNDS` return no answer.
    check: check(name, answer) returns the error of the first answer of a contestant, or None for a lower bound.
    tolerances: the largest error allowed, by contestant. The benchmark fails if an error exceeds it.
    rounds: the number of rounds. It is 1 with `make bench ROUNDS=short`.
    rounds_of: smaller numbers of rounds for slow competitors, by name.
    reference: a competitor whose first answer serves as the reference if there is no better one. `check` receives this
        answer as its third argument. It is not called for the reference itself.
    warm_up: a function that runs before the timing. By default every contestant runs once, and these answers are
        checked.
    costs: the operations and bytes of each contestant, from `costs`.
    goals: the goal against each contestant, "fastest dense" or "memory, MiB": ("at most" or "at least", number). None
        shows the ratio without a goal. The ratio is the competitor's time over that of bertft. For a lower bound it is
        the time of bertft over that of the bound.
    pause: seconds between two contestants; 0 if none of them uses threads.
    facts: any other values for the report.
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
        rounds_by_name = dict.fromkeys(competitors, rounds) | ({} if short else dict(rounds_of or {}))
        contest = Contest(ours, competitors, rounds_by_name, pause)
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
        if found:  # a disabled benchmark does not call teardown
            contest.keep(OURS, ours, found.pop())
        answers = contest.answers
        truth = () if reference is None else (answers.pop(reference),)
        checked({name: check(name, answer, *truth) for name, answer in answers.items()}, tolerances)
        benchmark.extra_info.update(
            seconds=contest.seconds, reference=reference, costs=dict(costs or {}), goals=dict(goals or {}), **facts
        )

    return run


class Contest:
    """The contestants of a race, their first answers, and the times of the competitors."""

    def __init__(self, ours: Work, competitors: Mapping[str, Work], rounds: Mapping[str, int], pause: float) -> None:
        self.ours, self.competitors, self.rounds, self.pause = ours, competitors, rounds, pause
        self.seconds: dict[str, list[float]] = {name: [] for name in competitors}
        self.answers: dict[str, Any] = {}

    def warm_up(self) -> None:
        """Run every contestant once, untimed."""
        for name, work in {OURS: self.ours, **self.competitors}.items():
            self._prepare(work)
            self.keep(name, work, work())

    def round(self) -> None:
        """Run and time every competitor that has rounds left, then prepare bertft."""
        for name, work in self.competitors.items():
            if len(self.seconds[name]) < self.rounds[name]:
                self._prepare(work)
                start = time.perf_counter()
                answer = work()
                self.seconds[name].append(time.perf_counter() - start)
                self.keep(name, work, answer)
        self._prepare(self.ours)

    def keep(self, name: str, work: Work, answer: Any) -> None:
        """Store the answer if it is the first of this contestant."""
        if isinstance(work, OwnProcess):
            answer = work.finish()
        self.answers.setdefault(name, answer)

    def _prepare(self, work: Work) -> None:
        if isinstance(work, OwnProcess):
            work.prepare()
        time.sleep(self.pause)


class Outcomes:
    """Plugin that records outcomes. A failed benchmark can leave timings, and pytest-benchmark does not mark it."""

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            reason = report.longrepr[-1] if report.skipped and isinstance(report.longrepr, tuple) else report.when
            self.by_name[report.nodeid] = f"{report.outcome}: {reason}"
        elif report.when == "call":
            self.by_name.setdefault(report.nodeid, "passed")

    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        output_json["outcomes"] = self.by_name


BUSY_BEFORE = [0.0]


def busy() -> float:
    """Return the processor time used by other work, in percent. Nothing runs here meanwhile."""
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
    # The folder names the package of a library: numpy.libs, scipy.libs.
    machine_info["blas"] = [
        {"of": Path(pool["filepath"]).parent.name.partition(".")[0], **{part: pool.get(part) for part in parts}}
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]
    if torch.backends.mkl.is_available():  # it is linked statically, so threadpoolctl does not find it
        machine_info["blas"].append({"of": "torch", "internal_api": "mkl", "num_threads": torch.get_num_threads()})
