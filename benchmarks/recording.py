"""Validate runs of pytest-benchmark and convert them to records."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

OURS = "bertft"

LOWER_BOUNDS = ("bare products", "two forward passes")
"""Work that every method must do. Their ratio is the time of bertft over that of the lower bound."""

NO_GPU = "no GPU is available"
"""The only accepted reason to skip a benchmark."""

ORDER = (
    "bench_rsa.py",
    "bench_neighbours.py",
    "bench_score.py",
    "bench_probes.py",
    "bench_edge.py",
    "bench_threads.py",
    "bench_gpu.py",
)
"""The order of files in the tables. It does not depend on the order in which they ran."""

Json = dict[str, Any]


class Refused(Exception):  # noqa: N818 - describes the run
    """The reason why a run is not recorded, in one line."""


def recorded(runs: Sequence[Json], suite: Iterable[str], *, partial: bool = False) -> Json:
    """Return one record of the runs, or raise `Refused` with a list of all faults.

    suite: the names of all benchmarks.
    partial: accept missing benchmarks.
    """
    if any("outcomes" not in run for run in runs):
        raise Refused("a run has no benchmark outcomes: was it written by `make bench`?")
    environments = [environment(run) for run in runs]
    processors = {name_of(found) for found in environments}
    if len(processors) > 1:
        raise Refused(f"runs of different processors cannot be merged: {'; '.join(sorted(processors))}")
    differing = sorted(part for part, value in environments[0].items() if any(e[part] != value for e in environments))
    if differing:
        raise Refused(f"the runs differ in {', '.join(differing)}")
    outcomes: dict[str, str] = {}
    benchmarks = []
    for run in runs:
        of_run = {short(name): outcome for name, outcome in run["outcomes"].items()}
        if twice := sorted(set(outcomes) & set(of_run)):
            raise Refused(f"benchmarks in more than one run: {', '.join(twice)}")
        outcomes |= of_run
        benchmarks += [kept(benchmark) for benchmark in run["benchmarks"]]
    files = [*ORDER, *(benchmark["name"].partition("::")[0] for benchmark in benchmarks)]
    benchmarks.sort(key=lambda benchmark: files.index(benchmark["name"].partition("::")[0]))
    missing = absent(map(short, suite), outcomes)
    skipped = {name: outcome for name, outcome in outcomes.items() if outcome.endswith(NO_GPU)}
    measured = {benchmark["name"] for benchmark in benchmarks}
    wrong = [f"{name} {of}" for name, of in outcomes.items() if of != "passed" and name not in skipped]
    wrong += [f"{name} recorded no time" for name, of in outcomes.items() if of == "passed" and name not in measured]
    wrong += faults(benchmark for benchmark in benchmarks if outcomes.get(benchmark["name"], "passed") == "passed")
    if missing and not partial:
        wrong.append(f"missing: {', '.join(missing)}")
    if wrong:
        raise Refused("; ".join(wrong))
    return environments[0] | {
        "date": max(run["datetime"] for run in runs)[:10],
        "busy": max(run["machine_info"]["busy"] for run in runs),
        "benchmarks": benchmarks,
        "skipped": skipped,
        "missing": missing,
    }


def absent(suite: Iterable[str], outcomes: Iterable[str]) -> list[str]:
    """Return the benchmarks that did not run, with the number of missing variants."""
    of_function: dict[str, list[bool]] = {}
    for name in sorted(suite):
        of_function.setdefault(name.partition("[")[0], []).append(name in outcomes)
    return [
        name + (f" ({ran.count(False)} of {len(ran)})" if len(ran) > 1 else "")
        for name, ran in of_function.items()
        if not all(ran)
    ]


def environment(run: Json) -> Json:
    """Return the machine, the versions and the commit of a run."""
    machine = run["machine_info"]
    cpu = machine["cpu"]
    commit = run["commit_info"]
    return {
        "processor": {part: cpu.get(part) for part in ("brand_raw", "family", "model", "stepping", "arch_string_raw")},
        "cores": machine["cores"],
        "gpu": machine["gpu"],
        "system": machine["system"],
        "blas": machine["blas"],
        "versions": {"python": machine["python_version"], **machine["versions"]},
        "commit": commit["id"] and commit["id"][:12] + ("+" if commit["dirty"] else ""),
    }


def kept(benchmark: Json) -> Json:
    """Return the fields of a benchmark that a record contains."""
    extra = dict(benchmark["extra_info"])
    seconds = {OURS: benchmark["stats"]["data"]} | extra.pop("seconds", {})
    return {"name": short(benchmark["fullname"]), "group": benchmark["group"], "seconds": seconds} | extra


def short(name: str) -> str:
    """Return a test id without its folder, as in bench_rsa.py::bench_rsa_5000."""
    return name.rpartition("benchmarks/")[2]


def faults(benchmarks: Iterable[Json]) -> Iterator[str]:
    """Yield the faults in the answers of each benchmark."""
    for benchmark in benchmarks:
        name, errors = benchmark["name"], benchmark.get("errors", {})
        if not benchmark.get("checked"):
            yield f"{name} did not check its answer"
            continue
        for contestant in benchmark["seconds"]:
            if contestant not in (*errors, *LOWER_BOUNDS, benchmark.get("reference")):
                yield f"{name}: the answer of {contestant} was not checked"
        for contestant, error in errors.items():
            limit = benchmark["tolerances"][contestant]
            if not error <= limit:  # true for nan as well
                yield f"{name}: {contestant} has error {error:.1e}, tolerance {limit:.0e}"


def suite_of(folder: Path) -> list[str]:
    """Return the names of all benchmarks in a folder."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", str(folder)]
    found = subprocess.run(collect, capture_output=True, text=True, check=False, cwd=folder.parent)
    if found.returncode:
        raise Refused(f"pytest cannot collect the benchmarks: {(found.stdout + found.stderr).strip()[-500:]}")
    return [line for line in found.stdout.splitlines() if "::" in line]


def name_of(record: Json) -> str:
    """Return the name of the machine, as in "AMD EPYC (family 25, model 1), 2 cores"."""
    of = record["processor"]
    brand = of["brand_raw"] or of["arch_string_raw"] or "unknown processor"
    which = f" (family {of['family']}, model {of['model']})" if of["family"] is not None else ""
    return f"{brand}{which}, {record['cores']} cores" + (f", {record['gpu']}" if record["gpu"] else "")
