"""Record runs of `make bench` in results/PROCESSOR.json, and generate results/PROCESSOR.md and the README block.

    python benchmarks/report.py build/benchmark.json [MORE.json ...]
    python benchmarks/report.py --readme benchmarks/results/PROCESSOR.json

Several runs are merged into one record. They must have the same processor and the same versions, and each benchmark
must be in only one of them. A run is refused if a benchmark failed, did not check its answer, exceeded its tolerance,
or is missing. The exit status is then 1, and nothing is written. `--partial` accepts missing benchmarks, and the
generated text lists them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recording import LOWER_BOUNDS, OURS, Json, Refused, faults, name_of, recorded, suite_of

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RESULTS = "benchmarks/results"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"

DENSE = ("numpy", "torch", "rsatoolbox", "scipy", "sklearn-chunked")
"""Competitors that compute all pairs. The goal "fastest dense" refers to the fastest of them."""

BUSY = 10.0
"""Processor time used by other work, in percent, above which the report warns about the times."""

VARIANTS = ("bertft, hidden states cached", "the CUDA kernels", "one after another")
"""Other configurations of bertft. They are not competitors."""

LEGEND = (
    "N× is the median time of the competitor over that of bertft.",
    "For a lower bound, the value is the median time of bertft over that of the bound.",
)
"""How to read the ratios of the goal table."""

ACCURACY = "accuracy"
"""The group of benchmarks that measure errors instead of times."""

# Formatting


def number(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits, as in 1,335 or 1.11."""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def duration(value: float) -> str:
    """Return a time with its unit, as in 1.5 s or 700 ms."""
    return f"{number(value * 1000)} ms" if value < 1 else f"{number(value)} s"


def small(value: float, digits: int = 0) -> str:
    """Return an error in scientific notation, as in 2e-8."""
    return re.sub(r"e-0", "e-", f"{value:.{digits}e}") if value else "0"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles, interpolated. A single value is returned three times."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * list(values)
    return low, middle, high


def title(benchmark: Json) -> str:
    """Return the group of a benchmark, with the variant in parentheses."""
    variant = re.search(r"\[(.*)\]", benchmark["name"])
    return benchmark["group"] + (f" ({variant[1]})" if variant else "")


def stem_of(record: Json) -> str:
    """Return the file name of a record without its suffix."""
    return re.sub(r"[^a-z0-9]+", "-", name_of(record).lower()).strip("-")


def products_of(record: Json) -> str:
    """Return the libraries for matrix products, as in "OpenBLAS 0.3.31 Zen (numpy), MKL (torch)"."""
    named = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS"}
    return ", ".join(
        " ".join(
            [named.get(pool["internal_api"], pool["internal_api"])]
            + [pool[part] for part in ("version", "architecture") if pool.get(part)]
            + [f"({pool['of']})"]
        )
        for pool in record["blas"]
    )


def rounds_of(benchmarks: Iterable[Json]) -> str:
    """Return the range of the numbers of rounds, as in "3 to 19"."""
    counts = [len(times) for benchmark in timed(benchmarks) for times in benchmark["seconds"].values()]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def timed(benchmarks: Iterable[Json]) -> list[Json]:
    """Return the benchmarks that measure times."""
    return [benchmark for benchmark in benchmarks if benchmark["group"] != ACCURACY]


# Goals


def goals(benchmark: Json) -> Iterator[Json]:
    """Yield a row of the goal table for each goal of a benchmark. `missed` is a flag, all other fields are text."""
    seconds = benchmark["seconds"]
    medians = {name: quartiles(times)[1] for name, times in seconds.items()}
    ours = medians[OURS]
    for name, goal in benchmark.get("goals", {}).items():
        against, unit, other = name, "×", name
        if name == "memory, MiB":
            value, other = quartiles(benchmark["memory"])[1], OURS
            against, unit = "peak memory above the base process", " MiB"
        elif name == "fastest dense":
            other = min(medians.keys() & DENSE, key=medians.__getitem__)
            value, against = medians[other] / ours, f"the fastest dense competitor, {other}"
        elif name in LOWER_BOUNDS:
            value, against, unit = ours / medians[name], f"{name} (lower bound)", ""
        else:
            value = medians[name] / ours
        counts = [len(seconds[OURS]), len(seconds[other])]
        yield {
            "what": title(benchmark),
            "against": against,
            **judged(value, goal, unit),
            "rounds": f"{counts[0]}" if counts[0] == counts[1] else f"{counts[0]}, competitor {counts[1]}",
        }


def judged(value: float, goal: Sequence[Any] | None, unit: str) -> Json:
    """Return the goal and the value as text, and whether the goal was missed."""
    if goal is None:
        return {"goal": "", "measured": number(value) + unit, "missed": False}
    sense, limit = goal
    missed = value > limit if sense == "at most" else value < limit
    digits = 3
    while missed and digits < 9 and number(value, digits) == number(limit, digits):  # show 1.302 rather than 1.3
        digits += 1
    return {"goal": f"{sense} {limit:,g}{unit}", "measured": number(value, digits) + unit, "missed": missed}


def accuracy_goals(benchmarks: Sequence[Json]) -> Iterator[Json]:
    """Yield the largest error of bertft over all inputs, and the error range of its competitors.

    The range is that at the mean cosine of BERT's top layers.
    """
    if not benchmarks:
        return
    sizes = sorted({of["n"] for of in benchmarks})
    cosines = sorted({float(cosine) for of in benchmarks for cosine in of["accuracy"]})
    types = ", ".join(dict.fromkeys(of["dtype"] for of in benchmarks))
    where = f"n = {sizes[0]:,} to {sizes[-1]:,}, mean cosine {cosines[0]:g} to {cosines[-1]:.10g}"
    against = f"RSA in float64 (dense up to n = {max(of['n'] for of in benchmarks if of['dense']):,})"
    worst = max(of["errors"][OURS] for of in benchmarks)
    limit = min(of["tolerances"][OURS] for of in benchmarks)
    yield {
        "what": f"largest error of rsa, {where}, {types}",
        "against": against,
        "goal": f"at most {small(limit)}",
        "measured": small(worst, 1),
        "missed": worst > limit,
        "rounds": "1",
    }
    for of in benchmarks:
        others = {name: error for name, error in of["accuracy"].get("0.9996", {}).items() if name != OURS}
        if others:
            yield {
                "what": f"errors of {', '.join(others)}, n = {of['n']:,}, mean cosine 0.9996, {of['dtype']}",
                "against": against,
                "goal": "",
                "measured": f"{small(min(others.values()), 1)} to {small(max(others.values()), 1)}",
                "missed": False,
                "rounds": "1",
            }


def all_goals(record: Json) -> list[Json]:
    """Return all rows of the goal table, accuracy first."""
    accuracy = [benchmark for benchmark in record["benchmarks"] if benchmark["group"] == ACCURACY]
    found = list(accuracy_goals(accuracy))
    return found + [goal for benchmark in timed(record["benchmarks"]) for goal in goals(benchmark)]


def goal_table(record: Json) -> list[str]:
    """Return the goal table in Markdown, with missed goals in bold."""
    rows = ["| benchmark | compared with | goal | measured | rounds |", "|---|---|--:|--:|--:|"]
    for goal in all_goals(record):
        measured = f"**{goal['measured']}**" if goal["missed"] else goal["measured"]
        rows.append(f"| {goal['what']} | {goal['against']} | {goal['goal']} | {measured} | {goal['rounds']} |")
    return rows


def verdict(record: Json) -> list[str]:
    """Return sentences on missed goals, faster competitors, missing benchmarks and a busy machine."""
    missed = [
        f"{g['what']}, {g['against']}: {g['measured']}, goal {g['goal']}" for g in all_goals(record) if g["missed"]
    ]
    lines = [f"Missed goals (bold above): {'; '.join(missed)}." if missed else "All goals are met."]
    faster = [
        f"{name} on {title(benchmark)}"
        for benchmark in timed(record["benchmarks"])
        for name, times in benchmark["seconds"].items()
        if name not in (OURS, *LOWER_BOUNDS, *VARIANTS)
        and quartiles(times)[1] < quartiles(benchmark["seconds"][OURS])[1]
    ]
    lines.append(f"Faster than bertft: {'; '.join(faster)}." if faster else "No competitor is faster.")
    if record["missing"]:
        lines.append(f"Not measured in this run: {', '.join(record['missing'])}.")
    if record["busy"] > BUSY:
        lines.append(f"Other work used {record['busy']:.0f} % of the processors, so the times are unreliable.")
    return lines


# Page of one machine


def time_rows(benchmark: Json) -> list[str]:
    """Return the rows of the time table for one benchmark."""
    medians = {name: quartiles(times)[1] for name, times in benchmark["seconds"].items()}
    limits = benchmark["errors"], benchmark["tolerances"]
    rows = []
    for name in sorted(medians, key=lambda name: (name != OURS, medians[name])):
        times = benchmark["seconds"][name]
        low, middle, high = map(duration, quartiles(times))
        ratio = number(medians[name] / medians[OURS])
        if medians[name] < medians[OURS] and name not in (*LOWER_BOUNDS, *VARIANTS):
            ratio = f"**{ratio}**"
        cost = benchmark["costs"].get(name, {})
        speeds = [number(cost[part] / medians[name] / 1e9) if part in cost else "" for part in ("flops", "bytes")]
        error, tolerance = (small(of[name]) if name in of else "" for of in limits)
        error = "reference" if name == benchmark["reference"] else error
        what = title(benchmark) if name == OURS else ""
        bound = " (lower bound)" if name in LOWER_BOUNDS else ""
        cells = [what, name + bound, len(times), low, middle, high, ratio, *speeds, error, tolerance]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def accuracy_rows(benchmarks: Sequence[Json]) -> list[str]:
    """Return the table of the largest errors over n, by type and mean cosine."""
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for benchmark in benchmarks:
        for cosine, errors in benchmark["accuracy"].items():
            for name, error in errors.items():
                cells = worst.setdefault((name, benchmark["dtype"]), {})
                cells[cosine] = max(cells.get(cosine, 0.0), error)
    columns = list(next(iter(worst.values())))
    rows = ["| method | dtype | " + " | ".join(f"mean cosine {column}" for column in columns) + " |"]
    rows.append("|---|---|" + "--:|" * len(columns))
    for (name, dtype), cells in worst.items():
        rows.append(f"| {name} | {dtype} | " + " | ".join(small(cells[column], 1) for column in columns) + " |")
    return rows


def phases(benchmark: Json) -> dict[str, float]:
    """Return the median seconds of each phase of a run. Phases below a thousandth of the whole are omitted."""
    whole = quartiles(benchmark["seconds"][OURS])[1]
    medians = {name: quartiles(times)[1] for name, times in benchmark["phases"].items()}
    return {name: spent for name, spent in medians.items() if spent > 0.001 * whole}


def page(record: Json) -> str:
    """Return the text of results/PROCESSOR.md."""
    benchmarks = record["benchmarks"]
    accuracy = [benchmark for benchmark in benchmarks if benchmark["group"] == ACCURACY]
    phased = [benchmark for benchmark in benchmarks if "phases" in benchmark]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"# {name_of(record)}",
        "",
        *wrapped(
            [
                f"Measured on {record['date']} under {record['system']}, at commit {record['commit']}.",
                f"Other work used {record['busy']:.0f} % of the processors.",
                "bertft and its competitors run in turn (A, B, C, A, ...).",
                "All answers are checked in the same run.",
                "The data has d = 768 and is float32 unless stated otherwise.",
                f"Versions: {versions}. Matrix products: {products_of(record)}.",
            ]
        ),
        "",
        "## Goals",
        "",
        *wrapped(LEGEND),
        "",
        *goal_table(record),
        "",
        *wrapped(verdict(record)),
        "",
        "## Times",
        "",
        *wrapped(
            [
                "The ratio is the median time over that of bertft. Faster competitors are in bold.",
                "GFLOP/s and GB/s are the operations and bytes of the method (`costs.py`) over the median time.",
                "The error is the largest difference from an independent answer.",
                "A run is refused if an error exceeds its tolerance.",
            ]
        ),
        "",
        "| benchmark | method | rounds | 25 % | median | 75 % | ratio | GFLOP/s | GB/s | error | tolerance |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(row for benchmark in timed(benchmarks) for row in time_rows(benchmark)),
        "",
    ]
    if phased:
        lines += ["## Time by phase", "", "| benchmark | phase | median | share |", "|---|---|--:|--:|"]
        for benchmark in phased:
            whole = quartiles(benchmark["seconds"][OURS])[1]
            spent = phases(benchmark).items()
            lines += [f"| {title(benchmark)} | {name} | {duration(s)} | {s / whole:.1%} |" for name, s in spent]
        lines.append("")
    if accuracy:
        lines += ["## Largest error over n, against RSA in float64", "", *accuracy_rows(accuracy), ""]
    if record["skipped"]:
        lines += ["## Skipped", "", *(f"- {name}: {why}" for name, why in record["skipped"].items()), ""]
    return "\n".join(lines)


# README


def readme_block(record: Json) -> str:
    """Return the text between the markers of the README."""
    stem, versions = stem_of(record), record["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "scipy", "torch", "scikit-learn"))
    lines = [
        f"Measured on {name_of(record)}, on {record['date']}.",
        f"Times are medians of {rounds_of(record['benchmarks'])} rounds.",
        "bertft and its competitors run in turn, and all answers are checked in the same run.",
        "The data has d = 768 and is float32 unless stated otherwise.",
        *LEGEND,
        f"Versions: {named}. Matrix products: {products_of(record)}.",
        f"The [results page]({RESULTS}/{stem}.md) has quartiles, errors, GFLOP/s, GB/s and all competitors.",
        f"It is generated from the [recorded run]({RESULTS}/{stem}.json), as is this section.",
        "`make bench` measures your machine.",
    ]
    after = verdict(record)
    for benchmark in record["benchmarks"]:
        if "phases" in benchmark:
            whole = quartiles(benchmark["seconds"][OURS])[1]
            shares = ", ".join(f"{name} {spent / whole:.1%}" for name, spent in phases(benchmark).items())
            after.append(f"Time by phase of {title(benchmark)}: {shares}.")
    return "\n".join([*wrapped(lines), "", *goal_table(record), "", *wrapped(after)])


def wrapped(sentences: Sequence[str]) -> list[str]:
    """Return the sentences as lines of up to 120 characters."""
    return textwrap.wrap(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def with_block(text: str, block: str) -> str:
    """Return the README with this block between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Refused(f"the README lacks the markers {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main(arguments: Sequence[str], folder: Path, readme: Path) -> None:
    """Run the command line. Results are written to `folder`, and the block to `readme`."""
    parser = argparse.ArgumentParser(prog="report.py", description="Record runs of `make bench` and report them.")
    parser.add_argument("sources", nargs="+", type=Path, help="JSON files of pytest-benchmark, or one recorded run")
    parser.add_argument("--readme", action="store_true", help="update the benchmark block of the README")
    parser.add_argument("--partial", action="store_true", help="accept missing benchmarks")
    options = parser.parse_args(arguments)
    loaded = [json.loads(source.read_text(encoding="utf-8")) for source in options.sources]
    if len(loaded) == 1 and "processor" in loaded[0]:
        (record,) = loaded
        if wrong := list(faults(record["benchmarks"])):
            raise Refused("; ".join(wrong))
    elif any("processor" in source for source in loaded):
        raise Refused("a recorded run cannot be merged: give it as the only file")
    else:
        record = recorded(loaded, suite_of(HERE), partial=options.partial)
    block = with_block(readme.read_text(encoding="utf-8"), readme_block(record)) if options.readme else None
    stem, shown = stem_of(record), page(record)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{stem}.md").write_text(shown, encoding="utf-8")
    if block is not None:
        readme.write_text(block, encoding="utf-8")
    print(shown)


if __name__ == "__main__":
    try:
        main(sys.argv[1:], HERE / "results", README)
    except Refused as refused:
        sys.exit(f"report.py: refused: {refused}")
