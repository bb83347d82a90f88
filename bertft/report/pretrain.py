"""Pre-training as people read it: what each seed reached beside the floors, and how the loss on held-out text fell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.drawing import DASHES, LINES, MARKERS, MUTED, PANEL, STYLE, draw_line, name_ends, png, set_title
from bertft.report.tables import plain_marks, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("seed", "baseline", "metric", "value")

METRICS = {
    "mlm_loss": "masked words: nats each (lower is better)",
    "mlm_accuracy": "masked words guessed",
    "nsp_accuracy": "next sentences told",
}
"""Metrics in the order of the table, and how people write them."""

MARKED = 40
"""Lines of more points than this have no markers."""


def write(rows: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `pretraining.json`, `pretraining.csv` and `pretraining.png`, all or none.

    Raises `BertftError` for a folder that cannot be written to; returns the paths.
    """
    return write_files(
        folder,
        {
            "pretraining.json": json_bytes(rows, run),
            "pretraining.csv": csv_bytes(rows, COLUMNS),
            "pretraining.png": png(figure(rows, run)),
        },
    )


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table of all seeds with the floors, the notes of the run, and whether the floor of words is beaten."""
    ascii_only = console.options.ascii_only
    floors = {row["metric"]: row["value"] for row in rows if row["baseline"]}
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
        table.add_row(title, *(plain_marks(cell) if ascii_only else cell for cell in (f"{floors[metric]:.3f}", *cells)))
    console.print(table)
    console.print()
    say(console, "floor: every word guessed by its frequency alone, every pair by the more frequent answer.", "dim")
    if len(seeds) > 1:
        say(console, "±: standard deviation over seeds.", "dim")
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    say(console, finding([found[seed, "mlm_loss"] for seed in seeds], floors["mlm_loss"]))


def described(run: dict[str, Any]) -> str:
    """What was trained on what, in a few words."""
    config, recipe = run["options"]["config"], run["options"]["recipe"]
    return (
        f"{config.get('num_hidden_layers', 12)} blocks of width {config.get('hidden_size', 768)}, "
        f"{recipe['steps']:,} steps of {recipe['batch_size']} pairs, {run['tokens']['train']:,} tokens"
    )


def finding(losses: Sequence[float], floor: float) -> str:
    """Whether the seeds guess masked words better than their frequencies do."""
    beaten = sum(loss < floor for loss in losses)
    worst = max(losses)
    if beaten == len(losses):
        whose = "The model is" if len(losses) == 1 else f"All {len(losses)} seeds are"
        below = f"{floor - worst:.2f} nats a word{' or more' if len(losses) > 1 else ''}"
        return f"{whose} {below} below the floor of word frequencies."
    return (
        f"{beaten} of {len(losses)} seeds are below the floor of word frequencies; train for more steps, on more text, "
        "or with a higher learning rate."
    )


def figure(rows: Sequence[Row], run: dict[str, Any]) -> Figure:
    """Return the loss of masked words on held-out text by step, one line a seed, the floor dashed."""
    import matplotlib.style
    from matplotlib.figure import Figure

    (floor,) = (row["value"] for row in rows if row["baseline"] and row["metric"] == "mlm_loss")
    curves = {
        f"seed {seed}": [(row["step"], row["mlm_loss"]) for row in of_seed["history"] if finite(row["mlm_loss"])]
        for seed, of_seed in run["training"].items()
    }
    points = [point for curve in curves.values() for point in curve]
    first, last = min((x for x, _ in points), default=0), max((x for x, _ in points), default=1)
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=PANEL, layout="constrained")
        axes = drawing.subplots()
        axes.set_ylim(0, 1.05 * max(floor, *(y for _, y in points)) if points else 1.05 * floor)
        draw_line(axes, [first, last], [floor, floor], MUTED, "--", "", floor=True)
        ends = [(floor, last, "word frequencies", MUTED)]
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
        axes.set_ylabel("Nats a word")
        name_ends(axes, ends)
    return drawing


def finite(value: float | None) -> bool:
    """Whether a value is a number."""
    return value is not None and math.isfinite(value)
