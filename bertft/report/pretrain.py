"""The report of `bertft pretrain`: a table of seeds and baselines, and a figure of the loss on held-out text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from bertft.records import Row
from bertft.report.drawing import DASHES, LINES, MARKERS, MUTED, PANEL, STYLE, Figures, draw_line, name_ends, set_title
from bertft.report.tables import cell, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("seed", "baseline", "metric", "value")

METRICS = {
    "mlm_loss": "masked words: loss in nats (lower is better)",
    "mlm_accuracy": "masked words: accuracy",
    "nsp_accuracy": "next sentence: accuracy",
}
"""Metrics in the order of the table, with their names there."""

MARKED = 40
"""Lines with more points than this are drawn without markers."""


def figures(rows: Sequence[Row], run: dict[str, Any]) -> Figures:
    """Return the figure `pretraining`."""
    return {"pretraining": partial(figure, rows, run)}


def findings(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    """Return what the models have learnt."""
    (baseline,) = (row["value"] for row in rows if row["baseline"] and row["metric"] == "mlm_loss")
    losses = [row["value"] for row in rows if not row["baseline"] and row["metric"] == "mlm_loss"]
    return [finding(losses, baseline)]


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table of the seeds and the baselines, the notes of the run and the finding."""
    ascii_only = console.options.ascii_only
    baselines = {row["metric"]: row["value"] for row in rows if row["baseline"]}
    seeds = list(dict.fromkeys(row["seed"] for row in rows if not row["baseline"]))
    found = {(row["seed"], row["metric"]): row["value"] for row in rows}
    console.print()
    say(console, "Pre-training, on held-out text", "bold")
    say(console, f"{described(run)}; {run['held_out_pairs']:,} pairs held out", "dim")
    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("baseline", justify="right", style="dim")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    if len(seeds) > 1:
        table.add_column("mean ± spread" if not ascii_only else "mean +/- spread", justify="right")
    for metric, title in METRICS.items():
        values = [found[seed, metric] for seed in seeds]
        cells = [f"{value:.3f}" for value in values]
        if len(seeds) > 1:
            cells.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
        cells.insert(0, f"{baselines[metric]:.3f}")
        table.add_row(*(cell(text, ascii_only) for text in (title, *cells)))
    console.print(table)
    console.print()
    say(
        console,
        "baseline = guesses by frequency: each masked word by word frequencies, each pair by the majority class.",
        "dim",
    )
    if len(seeds) > 1:
        say(console, "± = standard deviation over seeds.", "dim")
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    for text in findings(rows, run):
        say(console, text)


def described(run: dict[str, Any]) -> str:
    """Return the size of the model and of the training as text."""
    config, recipe = run["options"]["config"], run["options"]["recipe"]
    return (
        f"{config.get('num_hidden_layers', 12)} blocks of width {config.get('hidden_size', 768)}, "
        f"{recipe['steps']:,} steps of {recipe['batch_size']} pairs, {run['tokens']['train']:,} tokens"
    )


def finding(losses: Sequence[float], baseline: float) -> str:
    """Return whether the seeds predict masked words better than word frequencies do."""
    beaten = sum(loss < baseline for loss in losses)
    worst = max(losses)
    if beaten == len(losses):
        whose = "The model is" if len(losses) == 1 else f"All {len(losses)} seeds are"
        below = f"{baseline - worst:.2f} nats per word{' or more' if len(losses) > 1 else ''}"
        return f"{whose} {below} below the baseline of word frequencies."
    return (
        f"{beaten} of {len(losses)} seeds are below the baseline of word frequencies; train for more steps, "
        "on more text, or with a higher learning rate."
    )


def figure(rows: Sequence[Row], run: dict[str, Any]) -> Figure:
    """Draw the loss of masked words on held-out text by step: a line for each seed, the baseline dashed."""
    import matplotlib.style
    from matplotlib.figure import Figure

    (baseline,) = (row["value"] for row in rows if row["baseline"] and row["metric"] == "mlm_loss")
    curves = {
        f"seed {seed}": [(row["step"], row["mlm_loss"]) for row in of_seed["history"] if finite(row["mlm_loss"])]
        for seed, of_seed in run["training"].items()
    }
    points = [point for curve in curves.values() for point in curve]
    first, last = min((x for x, _ in points), default=0), max((x for x, _ in points), default=1)
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=PANEL, layout="constrained")
        axes = drawing.subplots()
        axes.set_ylim(0, 1.05 * max(baseline, *(y for _, y in points)) if points else 1.05 * baseline)
        draw_line(axes, [first, last], [baseline, baseline], MUTED, "--", "", baseline=True)
        ends = [(baseline, last, "word frequencies", MUTED)]
        for index, (name, curve) in enumerate(curves.items()):
            if not curve:
                continue
            colour, dash = LINES[index % len(LINES)], DASHES[index // len(LINES) % len(DASHES)]
            marker = MARKERS[index % len(MARKERS)] if len(curve) <= MARKED else ""
            draw_line(axes, [x for x, _ in curve], [y for _, y in curve], colour, dash, marker)
            ends.append((curve[-1][1], curve[-1][0], name, colour))
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        set_title(axes, "Masked words on held-out text", described(run))
        axes.set_xlabel("Step")
        axes.set_ylabel("Loss, nats per word")
        name_ends(axes, ends)
    return drawing


def finite(value: float | None) -> bool:
    """Return whether a value is a finite number."""
    return value is not None and math.isfinite(value)
