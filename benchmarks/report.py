"""Turns a run of `make bench` into results/<device>.md and .json: every goal with what was measured, losses too.

    python benchmarks/report.py build/benchmark.json [MORE.json …]

A run with a failed benchmark has no record of it, so what is missing from the table was not measured.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DENSE = ("numpy", "torch", "rsatoolbox", "scipy", "sklearn-chunked")
"""Rivals that compute every pair; the fastest of them is the one to beat."""

FLOORS = ("bare products", "two forward passes")
"""What cannot be beaten, only approached: ratios are ours over theirs."""


def seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def ratio_of(name: str, ours: float, theirs: float) -> float:
    return ours / theirs if name in FLOORS else theirs / ours


def goal_rows(record: dict[str, Any]) -> list[str]:
    """One line of the table for each goal of a benchmark."""
    extra, ours = record["extra_info"], record["stats"]["median"]
    rivals = extra.get("rivals", {})
    rows = []
    for name, (sense, limit) in extra.get("goals", {}).items():
        if name == "memory, MiB":
            value, against = extra["memory"], "memory over the base process, MiB"
        elif name == "fastest dense":
            fastest = min((rival for rival in rivals if rival in DENSE), key=rivals.__getitem__)
            value, against = rivals[fastest] / ours, f"times the fastest dense rival ({fastest})"
        else:
            value = ratio_of(name, ours, rivals[name])
            against = f"of the time of {name}" if name in FLOORS else f"times {name}"
        reached = value <= limit if sense == "at most" else value >= limit
        what = title(record)
        rows.append(f"| {what} | {against} | {sense} {limit:g} | {value:.3g} | {'yes' if reached else '**no**'} |")
    return rows


def title(record: dict[str, Any]) -> str:
    variant = re.search(r"\[(.*)\]", record["name"])
    return record["group"] + (f" ({variant[1]})" if variant else "")


def time_rows(record: dict[str, Any]) -> list[str]:
    ours = record["stats"]["median"]
    errors = {name: f"{error:.0e}" for name, error in record["extra_info"].get("errors", {}).items()}
    rows = [f"| {title(record)} | bertft | {seconds(ours)} | 1 | {errors.get('bertft', '')} |"]
    for name, theirs in sorted(record["extra_info"].get("rivals", {}).items(), key=lambda pair: pair[1]):
        rows.append(f"| | {name} | {seconds(theirs)} | {theirs / ours:.3g} | {errors.get(name, '')} |")
    return rows


def accuracy_rows(records: list[dict[str, Any]]) -> list[str]:
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        where = re.search(r"\[(\d+)-(\w+)\]", record["name"])
        assert where is not None
        for mean_cosine, errors in record["extra_info"]["errors"].items():
            for name, error in errors.items():
                cells = worst.setdefault((name, where[2]), {})
                cells[mean_cosine] = max(cells.get(mean_cosine, 0.0), error)
    columns = list(next(iter(worst.values())))
    rows = ["| | rows stored as | " + " | ".join(f"mean cosine {column}" for column in columns) + " |"]
    rows.append("|---|---|" + "--:|" * len(columns))
    for (name, dtype), cells in worst.items():
        rows.append(f"| {name} | {dtype} | " + " | ".join(f"{cells[column]:.1e}" for column in columns) + " |")
    return rows


def phase_rows(record: dict[str, Any]) -> list[str]:
    """Where the time of one run went, in seconds and as shares of the floor's."""
    extra = record["extra_info"]
    floor = next(seconds for name, seconds in extra["rivals"].items() if name in FLOORS)
    rows = [
        f"| {title(record)} | {name} | {spent:.2f} s | {spent / floor:.1%} |" for name, spent in extra["phases"].items()
    ]
    return [row for row, spent in zip(rows, extra["phases"].values(), strict=True) if spent > 0.001 * floor]


def device(run: dict[str, Any]) -> str:
    cpu = run["machine_info"]["cpu"]
    return f"{cpu.get('brand_raw', 'unknown processor')}, {cpu.get('count', '?')} cores"


def main(sources: list[Path], folder: Path) -> None:
    runs = [json.loads(source.read_text()) for source in sources]
    run = runs[0] | {"benchmarks": [record for part in runs for record in part["benchmarks"]]}
    accuracy = [record for record in run["benchmarks"] if record["group"] == "accuracy"]
    timed = [record for record in run["benchmarks"] if record["group"] != "accuracy"]
    lines = [
        f"# {device(run)}",
        "",
        f"{run['datetime'][:10]}, Python {run['machine_info']['python_version']}. d = 768, float32 unless said.",
        "Medians of rounds in turn (ours, rival, rival, ours, …) in one process; answers checked in the same run.",
        "",
        "## Goals",
        "",
        "| what | against | goal | measured | reached |",
        "|---|---|--:|--:|---|",
        *(row for record in timed for row in goal_rows(record)),
        "",
        "## Times",
        "",
        "| what | by | median | theirs over ours | off by |",
        "|---|---|--:|--:|--:|",
        *(row for record in timed if record["extra_info"].get("rivals") for row in time_rows(record)),
        "",
    ]
    if phased := [record for record in timed if "phases" in record["extra_info"]]:
        lines += [
            "## Where the time goes",
            "",
            "| what | phase | time | of the two forward passes alone |",
            "|---|---|--:|--:|",
        ]
        lines += [*(row for record in phased for row in phase_rows(record)), ""]
    if accuracy:
        lines += ["## Error against float64 dense RSA, the largest over n", "", *accuracy_rows(accuracy), ""]
    name = re.sub(r"[^a-z0-9]+", "-", device(run).lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(lines))
    kept = [
        {key: record[key] for key in ("group", "name", "extra_info")} | {"median": record["stats"]["median"]}
        for record in run["benchmarks"]
    ]
    facts = {"device": device(run), "date": run["datetime"][:10], "benchmarks": kept}
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/report.py build/benchmark.json [MORE.json …]")
    main([Path(argument) for argument in sys.argv[1:]], Path(__file__).parent / "results")
