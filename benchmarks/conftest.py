"""How things are timed here: in one run, in turn, with the answer checked."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

PAUSE = 0.3
"""Seconds between two contestants: threads of a BLAS spin for up to 0.2 after its work, on another's processor."""


@pytest.fixture
def race(benchmark, request) -> Callable[..., Any]:
    """race(ours, rivals, check, rounds): times a function and its rivals in turn, A B C A B C …, so drift hits all.

    `check(name, answer)` raises if an answer is wrong and gives its error, if it has one; it sees the warm-up's.  The
    rivals' medians stand in the record as `rivals`, ours as the benchmark's own time.  `goals` says what the project
    set out to reach: rival (or "fastest dense", or "memory, MiB"), "at most" or "at least", a number; against the
    bare products ours over theirs, against others theirs over ours.  `timed` has the seconds of rivals of minutes,
    which ran once before.  `pause` may be 0 where nobody has threads.
    """

    def run(
        ours: Callable[[], Any],
        rivals: dict[str, Callable[[], Any]],
        check: Callable[[str, Any], float | None],
        rounds: int = 5,
        timed: dict[str, float] | None = None,
        pause: float = PAUSE,
        **facts: Any,
    ) -> None:
        if benchmark.disabled or request.config.getoption("benchmark_min_rounds") == 1:  # make bench ROUNDS=short
            rounds = 1
        errors = {"bertft": check("bertft", ours())} | {name: check(name, rival()) for name, rival in rivals.items()}
        seconds: dict[str, list[float]] = {name: [] for name in rivals}

        def others() -> None:
            for name, rival in rivals.items():
                time.sleep(pause)
                start = time.perf_counter()
                rival()
                seconds[name].append(time.perf_counter() - start)
            time.sleep(pause)

        benchmark.pedantic(ours, setup=others, rounds=rounds, iterations=1)
        benchmark.extra_info["errors"] = {name: error for name, error in errors.items() if error is not None}
        benchmark.extra_info["rivals"] = {name: statistics.median(times) for name, times in seconds.items()}
        benchmark.extra_info["rivals"] |= timed or {}
        benchmark.extra_info.update(facts)

    return run
