"""The report of `bertft ablate`: tables of k and the metric, and the paper's figures 3 (freezing) and 4 (truncation).

Each task has one line, its own metric, with a band of one standard deviation over seeds. A dashed line shows the same
task with the unmodified model: no block frozen, no block removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from bertft.records import Row
from bertft.report.drawing import (
    DASHES,
    LINES,
    MARKERS,
    PANEL,
    STYLE,
    Figures,
    draw_line,
    name_ends,
    set_layer_axis,
    set_title,
)
from bertft.report.rows import NEAR, fit, qualified
from bertft.report.tables import cell as text_cell
from bertft.report.tables import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("task", "kind", "k", "seed", "metric", "value", "mean", "spread")

TITLES = {"freeze": "Freezing", "truncate": "Truncation"}
HEADINGS = {"freeze": "Fine-tuning with frozen blocks", "truncate": "Fine-tuning of truncated models"}
AXES = {"freeze": "Last frozen block (-1 = nothing frozen)", "truncate": "Blocks kept"}
WHOLE = {"freeze": "dashed: nothing frozen; dotted: baseline", "truncate": "dashed: all blocks kept; dotted: baseline"}

TASKS = {"mnli": "MNLI", "squad": "SQuAD", "dep": "Dep"}
METRICS = {"accuracy": "accuracy", "f1": "F1", "exact_match": "exact match", "las": "LAS", "uas": "UAS"}


@dataclass(frozen=True)
class SweepCurve:
    """The main metric of one task by k, as means over seeds with their standard deviations (nan for one seed).

    `whole` is the k of the unmodified model, and `baseline` the name and the metric of the highest baseline.

    >>> SweepCurve("mnli", "accuracy", (-1, 0), (0.8, 0.7), (0.01, 0.02), seeds=2, whole=-1).change(0)
    -0.1
    """

    task: str
    metric: str
    ks: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    seeds: int
    whole: int
    baseline: tuple[str, float] | None = None

    @property
    def name(self) -> str:
        """The display name of the task and its metric."""
        return f"{TASKS.get(self.task, self.task)} ({METRICS.get(self.metric, self.metric)})"

    def at(self, k: int) -> float:
        """Return the mean at k."""
        return self.means[self.ks.index(k)]

    def change(self, k: int) -> float:
        """Return the mean at k minus the mean of the unmodified model."""
        return round(self.at(k) - self.at(self.whole), 12)


def figures(rows: Sequence[Row], run: dict[str, Any]) -> Figures:
    """Return a figure for each kind of sweep, `freeze` and `truncate`."""
    return {kind: partial(figure, rows, run, kind) for kind in TITLES if any(row["kind"] == kind for row in rows)}


def findings(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    """Return a finding for each sweep of each task."""
    return [finding(sweep, kind) for kind in TITLES for sweep in sweeps(rows, run, kind)]


def notes(run: Mapping[str, Any]) -> list[str]:
    """Return the notes of all tasks."""
    tasks = run["tasks"].items()
    return [f"{TASKS.get(task, task)}, {note}" for task, of_task in tasks for note in of_task.get("notes", ())]


def sweeps(rows: Sequence[Row], run: dict[str, Any], kind: str) -> list[SweepCurve]:
    """Return the sweeps of one kind, one for each task."""
    found = []
    for task, of_task in run["tasks"].items():
        metric = of_task["metric"]
        mine = [row for row in rows if (row["task"], row["kind"], row["metric"]) == (task, kind, metric)]
        by_k = {int(row["k"]): row for row in sorted(mine, key=lambda row: int(row["k"]))}
        if by_k:
            found.append(
                SweepCurve(
                    task=task,
                    metric=metric,
                    ks=tuple(by_k),
                    means=tuple(float(row["mean"]) for row in by_k.values()),
                    spreads=tuple(math.nan if row["spread"] is None else float(row["spread"]) for row in by_k.values()),
                    seeds=len({row["seed"] for row in mine}),
                    whole=-1 if kind == "freeze" else of_task["depth"],
                    baseline=highest_baseline(of_task.get("baselines", {}), metric),
                )
            )
    return found


def highest_baseline(baselines: Mapping[str, Mapping[str, float | None]], metric: str) -> tuple[str, float] | None:
    """Return the name and the value of the baseline with the highest metric, or None where none has this metric."""
    known = [(float(value), name) for name, of in baselines.items() if (value := of.get(metric)) is not None]
    return None if not known else (max(known)[1], max(known)[0])


def figure(rows: Sequence[Row], run: dict[str, Any], kind: str) -> Figure:
    """Draw the sweeps of one kind: the metric by k, a line for each task."""
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = sweeps(rows, run, kind)
    ks = sorted({k for sweep in shown for k in sweep.ks})
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=PANEL, layout="constrained")
        axes = drawing.subplots()
        tops = [mean + half for own in shown for mean, half in zip(own.means, half_widths(own.spreads), strict=True)]
        tops += [own.baseline[1] for own in shown if own.baseline is not None]
        axes.set_ylim(0, min(1.0, math.ceil(10 * max(tops) + 0.5) / 10))
        ends = []
        for index, sweep in enumerate(shown):
            colour, dash = LINES[index % len(LINES)], DASHES[index // len(LINES) % len(DASHES)]
            whole, halves = sweep.at(sweep.whole), half_widths(sweep.spreads)
            low = [mean - half for mean, half in zip(sweep.means, halves, strict=True)]
            high = [mean + half for mean, half in zip(sweep.means, halves, strict=True)]
            axes.fill_between(sweep.ks, low, high, color=colour, alpha=0.18, linewidth=0)
            draw_line(axes, [ks[0], ks[-1]], [whole, whole], colour, (0, (4, 3)), "", baseline=True)
            draw_line(axes, sweep.ks, sweep.means, colour, dash, MARKERS[index % len(MARKERS)])
            ends.append((sweep.means[-1], sweep.ks[-1], sweep.name, colour))
            if sweep.baseline is not None:
                name, value = sweep.baseline
                draw_line(axes, [ks[0], ks[-1]], [value, value], colour, ":", "", baseline=True)
                label = name if len(shown) == 1 else f"{TASKS.get(sweep.task, sweep.task)}, {name}"
                ends.append((value, ks[-1], fit(label, 24), colour))
        set_layer_axis(axes, ks)
        name_ends(axes, ends)
        seeds = sorted({sweep.seeds for sweep in shown})
        over = f"band: ± 1 s.d. over {' or '.join(map(str, seeds))} seeds"
        detail = WHOLE[kind] + (f"; {over}" if seeds[-1] > 1 else "; one seed")
        set_title(axes, HEADINGS[kind], detail)
        axes.set_xlabel(AXES[kind])
        metrics = list(dict.fromkeys(METRICS.get(sweep.metric, sweep.metric) for sweep in shown))
        label = ", ".join(metrics)
        axes.set_ylabel(label[0].upper() + label[1:])
    return drawing


def half_widths(spreads: Sequence[float]) -> list[float]:
    """Return half the width of the band, 0 for one seed."""
    return [spread if math.isfinite(spread) else 0.0 for spread in spreads]


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table for each sweep of each task, the notes of the run and the findings."""
    found = [(kind, sweep) for kind in TITLES for sweep in sweeps(rows, run, kind)]
    for kind, sweep in found:
        of_task = run["tasks"][sweep.task]
        data, options = of_task["options"]["data"], of_task["options"]
        console.print()
        say(console, f"{TITLES[kind]}: {sweep.name} of {options['checkpoint']['name']}", "bold")
        seeds = f"{sweep.seeds} seed{'' if sweep.seeds == 1 else 's'}"
        trained = f"{data['train']['records']:,} training records, {data['dev']['records']:,} dev records; {seeds}"
        say(console, qualified(trained, of_task), "dim")
        console.print(table(sweep, kind, console.options.ascii_only))
        if sweep.baseline is not None:
            say(console, f"baseline: {sweep.baseline[0]}, {sweep.baseline[1]:.4f}", "dim")
    console.print()
    say(console, "change = difference from the unmodified model; ± = standard deviation over seeds.", "dim")
    for note in notes(run):
        say(console, f"Note: {note}", "dim")
    for text in findings(rows, run):
        say(console, text)


def table(sweep: SweepCurve, kind: str, ascii_only: bool) -> Table:
    """Return the table of one sweep of one task."""
    built = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    built.add_column("frozen to" if kind == "freeze" else "blocks", justify="right", no_wrap=True)
    built.add_column(text_cell(METRICS.get(sweep.metric, sweep.metric)), justify="right", no_wrap=True)
    built.add_column("change", justify="right", no_wrap=True)
    for k, mean, spread in zip(sweep.ks, sweep.means, sweep.spreads, strict=True):
        value = f"{mean:.4f}" + (f" ± {spread:.4f}" if math.isfinite(spread) else "")
        whole = k == sweep.whole
        cells = [str(k), value, "" if whole else f"{sweep.change(k):+.4f}"]
        built.add_row(*(text_cell(cell, ascii_only, "bold" if whole else "") for cell in cells))
    return built


def finding(sweep: SweepCurve, kind: str) -> str:
    """Return how far a sweep goes before the metric falls by more than `NEAR`, and the lowest value.

    >>> finding(SweepCurve("mnli", "accuracy", (-1, 0, 1), (0.8, 0.795, 0.7), (), seeds=1, whole=-1), "freeze")
    'MNLI (accuracy), freezing: 0.800 unmodified; kept within 0.01 up to block 0; lowest 0.700 (block 1).'
    """
    # The k that keep the metric, in order, beginning at the unmodified model.
    order = sweep.ks if kind == "freeze" else sweep.ks[::-1]
    kept = sweep.whole
    for k in order:
        if sweep.change(k) < -NEAR:
            break
        kept = k
    low = min(sweep.ks, key=sweep.at)
    start = f"{sweep.name}, {TITLES[kind].lower()}: {sweep.at(sweep.whole):.3f} unmodified"
    if sweep.baseline is not None and sweep.at(sweep.whole) < sweep.baseline[1] + NEAR:
        name, value = sweep.baseline
        return f"{start}, no better than the baseline ({name}, {value:.3f}): train longer, or on more data."
    if kept == order[-1]:
        return f"{start}; kept within {NEAR} at every k; lowest {sweep.at(low):.3f}."
    named = {"freeze": "block {}", "truncate": "{} block{s}"}[kind]
    kept_name, low_name = (named.format(k, s="" if k == 1 else "s") for k in (kept, low))
    reach = f"{'up' if kind == 'freeze' else 'down'} to {kept_name}"
    within = f"kept within {NEAR} {reach}" if kept != sweep.whole else f"not kept within {NEAR} at any other k"
    return f"{start}; {within}; lowest {sweep.at(low):.3f} ({low_name})."
