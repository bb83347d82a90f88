"""Run the tests with the code that libraries choose on other processors, with one thread and with two.

    python tests/run_on_cpus.py             the whole suite under every setting: one to two hours
    python tests/run_on_cpus.py --quick     the tests marked `equality`, under the two settings that differ most
    python tests/run_on_cpus.py tests/test_models.py -x     any arguments of pytest, under every setting

torch, MKL and OpenBLAS choose their code by the processor, or by environment variables. Each code adds numbers in
another order, and so rounds differently. Every setting of the variables is run with each number of threads. Settings
whose instructions this processor lacks are skipped. The logs are written to build/cpus/.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "build" / "cpus"

THREADS = (1, 2)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# The threads of small models wait for each other longer than they compute; asleep, they leave the processors free.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
CODE_VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "OPENBLAS_CORETYPE")

INSTRUCTIONS = {"DEFAULT": "", "AVX2": "AVX2", "AVX512": "AVX-512"}
"""Instruction sets by torch's name, each of which includes those before it, and their usual names."""


class Setting(NamedTuple):
    """Values of the variables, and the instruction set of the code that they choose."""

    variables: dict[str, str]
    needs: str = "DEFAULT"

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.variables.items()) or "the libraries' own choice"


def settings(machine: str) -> list[Setting]:
    """Return the settings that have an effect on a kind of machine."""
    if machine.lower() not in ("x86_64", "amd64"):
        return [Setting({}), Setting({"ATEN_CPU_CAPABILITY": "default"})]
    rows = (
        (("default", "COMPATIBLE", "Haswell"), "AVX2"),  # the oldest of these OpenBLAS cores needs AVX2
        (("avx2", "AVX2", "Zen"), "AVX2"),
        (("avx512", "AVX512", "SkylakeX"), "AVX512"),
    )
    return [Setting({}), *(Setting(dict(zip(CODE_VARIABLES, values, strict=True)), needs) for values, needs in rows)]


def lacking(setting: Setting) -> str:
    """Return the instruction set that the setting needs and this processor lacks, or an empty string."""
    import torch

    own, known = torch.backends.cpu.get_cpu_capability(), list(INSTRUCTIONS)
    level = known.index(own) if own in known else 0
    return INSTRUCTIONS[setting.needs] if known.index(setting.needs) > level else ""


def run(setting: Setting, threads: int, arguments: list[str]) -> tuple[str, str, str, bool]:
    """Run the tests and return how many passed, how many failed, the seconds taken, and whether all is well."""
    environment = {name: value for name, value in os.environ.items() if name not in CODE_VARIABLES}
    environment |= setting.variables | dict.fromkeys(THREAD_VARIABLES, str(threads)) | WAITING
    log = LOGS / f"{'-'.join(setting.variables.values()) or 'own'}-{threads}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    start = time.monotonic()
    with log.open("w") as file:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False).returncode
    seconds = f"{time.monotonic() - start:.0f}"
    last = (log.read_text(errors="replace").splitlines() or [""])[-1]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|error)", last)}
    failed = str(counts.get("failed", 0) + counts.get("error", 0))
    if code and failed == "0":
        failed = f"ended by signal {-code}" if code < 0 else f"pytest ended with {code}"
    return str(counts.get("passed", 0)), failed, seconds, not code


def main() -> int:
    """Run the tests under every setting, print a table, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run only the tests marked `equality`, under two settings")
    options, arguments = parser.parse_known_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ.pop("ATEN_CPU_CAPABILITY", None)  # it would hide what this processor has
    chosen = settings(platform.machine())
    plan = [(setting, threads) for setting in chosen for threads in THREADS]
    if options.quick:
        plan = [(chosen[1], 1), (chosen[0], 2)]
        arguments = ["-m", "equality", *arguments]
    rows, all_well = [("setting", "threads", "passed", "failed", "seconds")], True
    for setting, threads in plan:
        if lack := lacking(setting):
            rows.append((str(setting), str(threads), f"skipped: this processor has no {lack}", "", ""))
            continue
        print(f"{setting}, threads: {threads}", flush=True)
        *found, well = run(setting, threads, arguments)
        rows.append((str(setting), str(threads), *found))
        all_well &= well
    widths = [max(len(row[column]) for row in rows if column < 2 or row[-1]) for column in range(len(rows[0]))]
    for row in [(), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())
    print(f"{'The logs are in' if all_well else 'Tests failed, see'} {LOGS.relative_to(ROOT)}")
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
