"""The report of `bertft tune`: a table of epochs, the best epoch and the baselines, as means over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bertft.records import Row
from bertft.report.rows import qualified
from bertft.report.tables import cell, say

LOSSES = ("train_loss", "dev_loss")


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print the table and the notes of the run."""
    (model,) = run["checkpoints"]
    seeds = run["options"]["seeds"]
    marks = console.options.ascii_only
    trained = [row for row in rows if not row["baseline"]]
    measures = [run["metric"], *(row["measure"] for row in trained if row["measure"] not in LOSSES), *LOSSES]
    measures = list(dict.fromkeys(measures))
    table = Table(box=box.ASCII2 if marks else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("", *measures):
        table.add_column(cell(name), justify="left")

    def add(name: str, chosen: Sequence[Row], style: str = "") -> None:
        found = [spread([row["value"] for row in chosen if row["measure"] == measure]) for measure in measures]
        table.add_row(*(cell(text, marks) for text in (name, *found)), style=style)

    for epoch in sorted({row["epoch"] for row in trained}):
        add(f"epoch {epoch}", [row for row in trained if row["epoch"] == epoch])
    add("best epoch", [row for row in trained if row["best"]], "bold")
    for baseline in dict.fromkeys(row["model"] for row in rows if row["baseline"]):
        add(baseline, [row for row in rows if row["baseline"] and row["model"] == baseline], "dim")
    console.print()
    say(console, f"{run['task']} of {model}", "bold")
    size = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, {run['data']['dev']['records']:,} dev records"
    say(console, qualified(size, run), "dim")
    console.print(table)
    console.print()
    if len(seeds) > 1:
        say(console, "± = standard deviation over seeds.", "dim")
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")


def spread(values: Sequence[float]) -> str:
    """Return the mean of the values as text, with their standard deviation where there are several.

    >>> spread([0.5, 0.7]), spread([0.5]), spread([])
    ('0.6000 ± 0.1414', '0.5000', '')
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"
