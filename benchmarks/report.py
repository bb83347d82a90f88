"""Records a run of `make bench` in results/PROCESSOR.json, and writes from it results/PROCESSOR.md and the README.

    python benchmarks/report.py build/benchmark.json [MORE.json ...]
    python benchmarks/report.py --readme benchmarks/results/PROCESSOR.json

Several runs become one record if they were made with one processor and the same versions, each benchmark in one of
them.  A run is refused, with exit status 1 and nothing written, where a benchmark failed, checked no answer, was
further off than it may be, or is missing; `--partial` lets benchmarks be missing, and all that is written says which.
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
"""Competitors that compute every pair; the fastest of them is the one to beat."""

BUSY = 10.0
"""Percent of the processors that others may use before and after a run without a word about it."""

VARIANTS = ("bertft, states cached", "the CUDA twin")
"""Other ways through bertft itself: no competitors."""

ACCURACY = "accuracy"
"""The group of benchmarks that measure errors and no time."""

# Numbers as they are shown


def number(value: float, digits: int = 3) -> str:
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def duration(value: float) -> str:
    return f"{number(value * 1000)} ms" if value < 1 else f"{number(value)} s"


def small(value: float, digits: int = 0) -> str:
    """An error: 2e-8."""
    return re.sub(r"e-0", "e-", f"{value:.{digits}e}") if value else "0"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """25 %, median and 75 %, interpolated; of one value, itself."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * list(values)
    return low, middle, high


def title(benchmark: Json) -> str:
    variant = re.search(r"\[(.*)\]", benchmark["name"])
    return benchmark["group"] + (f" ({variant[1]})" if variant else "")


def stem_of(record: Json) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name_of(record).lower()).strip("-")


def products_of(record: Json) -> str:
    """The libraries that multiply matrices: "OpenBLAS 0.3.31 Zen (numpy), MKL (torch)"."""
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
    counts = [len(times) for benchmark in timed(benchmarks) for times in benchmark["seconds"].values()]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def timed(benchmarks: Iterable[Json]) -> list[Json]:
    return [benchmark for benchmark in benchmarks if benchmark["group"] != ACCURACY]


# Goals


def goals(benchmark: Json) -> Iterator[Json]:
    """Each number a benchmark stands for: what, against, goal and measured as text, missed or not, the rounds."""
    seconds = benchmark["seconds"]
    medians = {name: quartiles(times)[1] for name, times in seconds.items()}
    ours = medians[OURS]
    for name, goal in benchmark.get("goals", {}).items():
        against, unit, other = name, " times", name
        if name == "memory, MiB":
            value, other = quartiles(benchmark["memory"])[1], OURS
            against, unit = "memory over the base process", " MiB"
        elif name == "fastest dense":
            other = min(medians.keys() & DENSE, key=medians.__getitem__)
            value, against = medians[other] / ours, f"the fastest dense competitor, {other}"
        elif name in LOWER_BOUNDS:
            value, against, unit = ours / medians[name], f"{name}, a lower bound", ""
        else:
            value = medians[name] / ours
        counts = [len(seconds[OURS]), len(seconds[other])]
        yield {
            "what": title(benchmark),
            "against": against,
            **judged(value, goal, unit),
            "rounds": f"{counts[0]}" if counts[0] == counts[1] else f"{counts[0]}, theirs {counts[1]}",
        }


def judged(value: float, goal: Sequence[Any] | None, unit: str) -> Json:
    if goal is None:
        return {"goal": "", "measured": number(value) + unit, "missed": False}
    sense, limit = goal
    missed = value > limit if sense == "at most" else value < limit
    digits = 3
    while missed and digits < 9 and number(value, digits) == number(limit, digits):  # 1.302 is not 1.3
        digits += 1
    return {"goal": f"{sense} {limit:,g}{unit}", "measured": number(value, digits) + unit, "missed": missed}


def accuracy_goals(benchmarks: Sequence[Json]) -> Iterator[Json]:
    """The largest error of ours over all inputs, and the range of other tools' where BERT's top layers lie."""
    if not benchmarks:
        return
    sizes = sorted({of["n"] for of in benchmarks})
    cosines = sorted({float(cosine) for of in benchmarks for cosine in of["accuracy"]})
    types = ", ".join(dict.fromkeys(of["dtype"] for of in benchmarks))
    where = f"n from {sizes[0]:,} to {sizes[-1]:,}, mean cosine {cosines[0]:g} to {cosines[-1]:.10g}"
    against = f"RSA in float64, dense up to n = {max(of['n'] for of in benchmarks if of['dense']):,}"
    worst = max(of["errors"][OURS] for of in benchmarks)
    limit = min(of["tolerances"][OURS] for of in benchmarks)
    yield {
        "what": f"largest error at {where}, {types}",
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
                "what": f"errors of {', '.join(others)} at a mean cosine of 0.9996, {of['dtype']}, n = {of['n']:,}",
                "against": against,
                "goal": "",
                "measured": f"{small(min(others.values()), 1)} to {small(max(others.values()), 1)}",
                "missed": False,
                "rounds": "1",
            }


def all_goals(record: Json) -> list[Json]:
    accuracy = [benchmark for benchmark in record["benchmarks"] if benchmark["group"] == ACCURACY]
    found = list(accuracy_goals(accuracy))
    return found + [goal for benchmark in timed(record["benchmarks"]) for goal in goals(benchmark)]


def goal_table(record: Json) -> list[str]:
    rows = ["| what | against | goal | measured | rounds |", "|---|---|--:|--:|--:|"]
    for goal in all_goals(record):
        measured = f"**{goal['measured']}**" if goal["missed"] else goal["measured"]
        rows.append(f"| {goal['what']} | {goal['against']} | {goal['goal']} | {measured} | {goal['rounds']} |")
    return rows


def verdict(record: Json) -> list[str]:
    """Goals missed and competitors that are faster, in sentences; benchmarks that are missing or skipped."""
    missed = [f"{g['what']}, {g['against']} ({g['measured']}, {g['goal']})" for g in all_goals(record) if g["missed"]]
    lines = [f"Missed, in bold above: {'; '.join(missed)}." if missed else "Every goal is reached."]
    lost = [
        f"{title(benchmark)}, to {name}"
        for benchmark in timed(record["benchmarks"])
        for name, times in benchmark["seconds"].items()
        if name not in (OURS, *LOWER_BOUNDS, *VARIANTS)
        and quartiles(times)[1] < quartiles(benchmark["seconds"][OURS])[1]
    ]
    lines.append(f"Lost: {'; '.join(lost)}." if lost else "No competitor is faster.")
    if record["missing"]:
        lines.append(f"Not in this run: {', '.join(record['missing'])}.")
    if record["busy"] > BUSY:
        lines.append(f"Other work took {record['busy']:.0f} % of the processors, so that times mean little.")
    return lines


# The page of one machine


def time_rows(benchmark: Json) -> list[str]:
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
        off, allowed = (small(of[name]) if name in of else "" for of in limits)
        off = "the reference" if name == benchmark["reference"] else off
        what = title(benchmark) if name == OURS else ""
        bound = ", a lower bound" if name in LOWER_BOUNDS else ""
        cells = [what, name + bound, len(times), low, middle, high, ratio, *speeds, off, allowed]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def accuracy_rows(benchmarks: Sequence[Json]) -> list[str]:
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for benchmark in benchmarks:
        for cosine, errors in benchmark["accuracy"].items():
            for name, error in errors.items():
                cells = worst.setdefault((name, benchmark["dtype"]), {})
                cells[cosine] = max(cells.get(cosine, 0.0), error)
    columns = list(next(iter(worst.values())))
    rows = ["| | rows stored as | " + " | ".join(f"mean cosine {column}" for column in columns) + " |"]
    rows.append("|---|---|" + "--:|" * len(columns))
    for (name, dtype), cells in worst.items():
        rows.append(f"| {name} | {dtype} | " + " | ".join(small(cells[column], 1) for column in columns) + " |")
    return rows


def phases(benchmark: Json) -> dict[str, float]:
    """Seconds of each part of a run, the median over rounds; parts below a thousandth of the whole are left out."""
    whole = quartiles(benchmark["seconds"][OURS])[1]
    medians = {name: quartiles(times)[1] for name, times in benchmark["phases"].items()}
    return {name: spent for name, spent in medians.items() if spent > 0.001 * whole}


def page(record: Json) -> str:
    """results/PROCESSOR.md."""
    benchmarks = record["benchmarks"]
    accuracy = [benchmark for benchmark in benchmarks if benchmark["group"] == ACCURACY]
    phased = [benchmark for benchmark in benchmarks if "phases" in benchmark]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"# {name_of(record)}",
        "",
        *wrapped(
            [
                f"{record['date']}, {record['system']}, other work on {record['busy']:.0f} % of the processors, commit",
                f"{record['commit']}. {versions}. Products by {products_of(record)}.",
                "d = 768, float32 unless said. Contestants in turn (A, B, C, A, ...); answers checked in the same run.",
            ]
        ),
        "",
        "## Goals",
        "",
        *goal_table(record),
        "",
        *wrapped(verdict(record)),
        "",
        "## Times",
        "",
        *wrapped(
            [
                "Ratio: the median over bertft's; in bold a competitor that is faster.",
                "GFLOP/s and GB/s: what the method has to compute and to move (`costs.py`) over the median.",
                "Off by: the largest difference from an independent answer, and how large it may be.",
            ]
        ),
        "",
        "| what | by | rounds | 25 % | median | 75 % | ratio | GFLOP/s | GB/s | off by | may be |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(row for benchmark in timed(benchmarks) for row in time_rows(benchmark)),
        "",
    ]
    if phased:
        lines += ["## Where the time goes", "", "| what | phase | median | of the whole |", "|---|---|--:|--:|"]
        for benchmark in phased:
            whole = quartiles(benchmark["seconds"][OURS])[1]
            spent = phases(benchmark).items()
            lines += [f"| {title(benchmark)} | {name} | {duration(s)} | {s / whole:.1%} |" for name, s in spent]
        lines.append("")
    if accuracy:
        lines += ["## Error against RSA in float64, the largest over n", "", *accuracy_rows(accuracy), ""]
    if record["skipped"]:
        lines += ["## Skipped", "", *(f"- {name}: {why}" for name, why in record["skipped"].items()), ""]
    return "\n".join(lines)


# The README


def readme_block(record: Json) -> str:
    """All that stands between the markers of the README."""
    stem, versions = stem_of(record), record["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "scipy", "torch", "scikit-learn"))
    lines = [
        f"{name_of(record)}, {record['date']}: medians of {rounds_of(record['benchmarks'])} rounds,",
        "contestants in turn, answers checked in the same run; d = 768 and float32 unless said.",
        f"Versions: {named}; products by {products_of(record)}.",
        f"Quartiles, errors, GFLOP/s, GB/s and all competitors are in [the page of this machine]({RESULTS}/{stem}.md),",
        f"which with these lines is made from [the recorded run]({RESULTS}/{stem}.json);",
        "`make bench` measures your machine.",
    ]
    after = verdict(record)
    for benchmark in record["benchmarks"]:
        if "phases" in benchmark:
            whole = quartiles(benchmark["seconds"][OURS])[1]
            shares = ", ".join(f"{name} {spent / whole:.1%}" for name, spent in phases(benchmark).items())
            after.append(f"Where the time of {title(benchmark)} goes: {shares}.")
    return "\n".join([*wrapped(lines), "", *goal_table(record), "", *wrapped(after)])


def wrapped(sentences: Sequence[str]) -> list[str]:
    return textwrap.wrap(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def with_block(text: str, block: str) -> str:
    """The README's text with this block between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Refused(f"the README has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main(arguments: Sequence[str], folder: Path, readme: Path) -> None:
    parser = argparse.ArgumentParser(prog="report.py", description="Record runs of `make bench` and write them up.")
    parser.add_argument("sources", nargs="+", type=Path, help="JSON files of pytest-benchmark, or one recorded result")
    parser.add_argument("--readme", action="store_true", help="write the README's block from the record")
    parser.add_argument("--partial", action="store_true", help="accept a run that lacks benchmarks")
    options = parser.parse_args(arguments)
    loaded = [json.loads(source.read_text(encoding="utf-8")) for source in options.sources]
    if len(loaded) == 1 and "processor" in loaded[0]:
        (record,) = loaded
        if wrong := list(faults(record["benchmarks"])):
            raise Refused("; ".join(wrong))
    elif any("processor" in source for source in loaded):
        raise Refused("a recorded result stands alone: give it by itself, or the runs")
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
