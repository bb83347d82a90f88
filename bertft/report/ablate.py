"""Sweeps as people read them: tables of k against the metric, and the paper's figures 3 (freezing) and 4 (truncation).

Each task is shown by its own metric, in one line with a band of one standard deviation over seeds; the same task
fine-tuned whole is a dashed line beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.drawing import (
    DASHES,
    LINES,
    MARKERS,
    PANEL,
    STYLE,
    draw_line,
    name_ends,
    png,
    set_layer_axis,
    set_title,
)
from bertft.report.tables import plain_marks, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("task", "kind", "k", "seed", "metric", "value", "mean", "spread", "seconds")

TITLES = {"freeze": "Freezing", "truncate": "Truncation"}
HEADINGS = {"freeze": "Fine-tuning with frozen blocks", "truncate": "Fine-tuning of truncated models"}
AXES = {"freeze": "Last frozen block (-1 = nothing frozen)", "truncate": "Blocks kept"}
WHOLE = {"freeze": "dashed: nothing frozen", "truncate": "dashed: all blocks kept"}

TASKS = {"mnli": "MNLI", "squad": "SQuAD", "dep": "Dep"}
METRICS = {"accuracy": "accuracy", "f1": "F1", "exact_match": "exact match", "las": "LAS", "uas": "UAS"}

NEAR = 0.01
"""A metric this close to that of the whole model is said to be kept."""


@dataclass(frozen=True)
class Line:
    """The main metric of one task by k, as means over seeds with their spread (nan for one seed).

    whole: the k that is the untouched model.  floor: the best guess that no trained model made, and its metric.

    >>> Line("mnli", "accuracy", (-1, 0), (0.8, 0.7), (0.01, 0.02), seeds=2, whole=-1).change(0)
    -0.1
    """

    task: str
    metric: str
    ks: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    seeds: int
    whole: int
    floor: tuple[str, float] | None = None

    @property
    def name(self) -> str:
        """The task and its metric, as people write them."""
        return f"{TASKS.get(self.task, self.task)} ({METRICS.get(self.metric, self.metric)})"

    def at(self, k: int) -> float:
        """The mean at k."""
        return self.means[self.ks.index(k)]

    def change(self, k: int) -> float:
        """The mean at k less that of the untouched model."""
        return round(self.at(k) - self.at(self.whole), 12)


def write(rows: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `ablation.json`, `ablation.csv` and the pictures of what was swept, `freeze.png` and `truncate.png`.

    The files appear together or not at all; a folder that cannot be written raises `BertftError`. Returns the paths.
    """
    files = {"ablation.json": json_bytes(rows, run), "ablation.csv": csv_bytes(rows, COLUMNS)}
    for kind in TITLES:
        if any(row["kind"] == kind for row in rows):
            files[f"{kind}.png"] = png(figure(rows, run, kind))
    return write_files(folder, files)


def lines(rows: Sequence[Row], run: dict[str, Any], kind: str) -> list[Line]:
    """The lines of one kind of sweep, a task each."""
    found = []
    for task, of_task in run["tasks"].items():
        metric = of_task["metric"]
        mine = [row for row in rows if (row["task"], row["kind"], row["metric"]) == (task, kind, metric)]
        by_k = {int(row["k"]): row for row in sorted(mine, key=lambda row: int(row["k"]))}
        if by_k:
            found.append(
                Line(
                    task=task,
                    metric=metric,
                    ks=tuple(by_k),
                    means=tuple(float(row["mean"]) for row in by_k.values()),
                    spreads=tuple(math.nan if row["spread"] is None else float(row["spread"]) for row in by_k.values()),
                    seeds=len({row["seed"] for row in mine}),
                    whole=-1 if kind == "freeze" else of_task["depth"],
                    floor=highest_floor(of_task.get("baselines", {}), metric),
                )
            )
    return found


def highest_floor(floors: Mapping[str, Mapping[str, float | None]], metric: str) -> tuple[str, float] | None:
    """The floor of the highest metric, None where none has it."""
    known = [(float(value), name) for name, of in floors.items() if (value := of.get(metric)) is not None]
    return None if not known else (max(known)[1], max(known)[0])


def figure(rows: Sequence[Row], run: dict[str, Any], kind: str) -> Figure:
    """Return one sweep as a picture: k against the metric, one line a task."""
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = lines(rows, run, kind)
    ks = sorted({k for line in shown for k in line.ks})
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=PANEL, layout="constrained")
        axes = drawing.subplots()
        tops = [mean + half for line in shown for mean, half in zip(line.means, half_widths(line.spreads), strict=True)]
        axes.set_ylim(0, min(1.0, math.ceil(10 * max(tops) + 0.5) / 10))
        ends = []
        for index, line in enumerate(shown):
            colour, dash = LINES[index % len(LINES)], DASHES[index // len(LINES) % len(DASHES)]
            whole, halves = line.at(line.whole), half_widths(line.spreads)
            low = [mean - half for mean, half in zip(line.means, halves, strict=True)]
            high = [mean + half for mean, half in zip(line.means, halves, strict=True)]
            axes.fill_between(line.ks, low, high, color=colour, alpha=0.18, linewidth=0)
            draw_line(axes, [ks[0], ks[-1]], [whole, whole], colour, (0, (4, 3)), "", floor=True)
            draw_line(axes, line.ks, line.means, colour, dash, MARKERS[index % len(MARKERS)])
            ends.append((line.means[-1], line.ks[-1], line.name, colour))
        set_layer_axis(axes, ks)
        name_ends(axes, ends)
        seeds = sorted({line.seeds for line in shown})
        over = f"band: ± one standard deviation over {' or '.join(map(str, seeds))} seeds"
        detail = WHOLE[kind] + (f"; {over}" if seeds[-1] > 1 else "; one seed")
        set_title(axes, HEADINGS[kind], detail)
        axes.set_xlabel(AXES[kind])
        metrics = list(dict.fromkeys(METRICS.get(line.metric, line.metric) for line in shown))
        label = ", ".join(metrics)
        axes.set_ylabel(label[0].upper() + label[1:])
    return drawing


def half_widths(spreads: Sequence[float]) -> list[float]:
    """Half the width of the band, 0 where there is one seed."""
    return [spread if math.isfinite(spread) else 0.0 for spread in spreads]


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table for each sweep of each task, and how far it can go."""
    found = [line for kind in TITLES for line in lines(rows, run, kind)]
    kinds = [kind for kind in TITLES for _ in lines(rows, run, kind)]
    for kind, line in zip(kinds, found, strict=True):
        of_task = run["tasks"][line.task]
        data, options = of_task["options"]["data"], of_task["options"]
        console.print()
        say(console, f"{TITLES[kind]}: {line.name} of {options['checkpoint']['name']}", "bold")
        seeds = f"{line.seeds} seed{'' if line.seeds == 1 else 's'}"
        trained = f"{data['train']['records']:,} records to train on, {data['dev']['records']:,} to judge by; {seeds}"
        say(console, trained, "dim")
        console.print(table(line, rows, kind, console.options.ascii_only))
        if line.floor is not None:
            say(console, f"floor: {line.floor[0]}, {line.floor[1]:.4f}", "dim")
    console.print()
    say(console, "change: against the untouched model; ±: standard deviation over seeds.", "dim")
    for task, of_task in run["tasks"].items():
        for note in of_task.get("notes", ()):
            say(console, f"Note: {TASKS.get(task, task)}, {note}", "dim")
    for kind, line in zip(kinds, found, strict=True):
        say(console, finding(line, kind))


def table(line: Line, rows: Sequence[Row], kind: str, ascii_only: bool) -> Table:
    """The table of one sweep of one task."""
    built = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    built.add_column("frozen to" if kind == "freeze" else "blocks", justify="right", no_wrap=True)
    built.add_column(METRICS.get(line.metric, line.metric), justify="right", no_wrap=True)
    built.add_column("change", justify="right", no_wrap=True)
    built.add_column("seconds", justify="right", no_wrap=True)
    for k, mean, spread in zip(line.ks, line.means, line.spreads, strict=True):
        value = f"{mean:.4f}" + (f" ± {spread:.4f}" if math.isfinite(spread) else "")
        times = [
            row["seconds"]
            for row in rows
            if (row["task"], row["kind"], row["k"], row["metric"]) == (line.task, kind, k, line.metric)
        ]
        whole = k == line.whole
        cells = [str(k), value, "" if whole else f"{line.change(k):+.4f}", f"{sum(times) / len(times):.0f}"]
        built.add_row(
            *(Text(plain_marks(cell) if ascii_only else cell, style="bold" if whole else "") for cell in cells)
        )
    return built


def finding(line: Line, kind: str) -> str:
    """How far a sweep can go before the metric falls by more than `NEAR`, and how far it falls.

    >>> finding(Line("mnli", "accuracy", (-1, 0, 1), (0.8, 0.795, 0.7), (), seeds=1, whole=-1), "freeze")
    'MNLI (accuracy), freezing: 0.800 untouched; within 0.01 of it up to block 0; 0.700 at the lowest, block 1.'
    """
    # From the untouched model on, the run of k that keep the metric.
    order = line.ks if kind == "freeze" else line.ks[::-1]
    kept = line.whole
    for k in order:
        if line.change(k) < -NEAR:
            break
        kept = k
    low = min(line.ks, key=line.at)
    named = ("up to block {}", "block {}") if kind == "freeze" else ("down to {} blocks", "{} blocks")
    names = [text.format(k).replace("1 blocks", "1 block") if k == 1 else text.format(k) for text, k in
             zip(named, (kept, low), strict=True)]  # fmt: skip
    start = f"{line.name}, {TITLES[kind].lower()}: {line.at(line.whole):.3f} untouched"
    if line.floor is not None and line.at(line.whole) < line.floor[1] + NEAR:
        return f"{start}, no better than the floor ({line.floor[0]}, {line.floor[1]:.3f}): train longer, or on more."
    if kept == order[-1]:
        return f"{start}; within {NEAR} of it at every k, {line.at(low):.3f} at the lowest."
    within = f"within {NEAR} of it {names[0]}" if kept != line.whole else f"no other k is within {NEAR} of it"
    return f"{start}; {within}; {line.at(low):.3f} at the lowest, {names[1]}."
