"""What fine-tuning gave, as a table on the terminal: epochs and the best of them, over the seeds, beside the floors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.records import Row
from bertft.report.tables import plain_marks, say

LOSSES = ("train_loss", "dev_loss")


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print the table, and the notes of the run."""
    (model,) = run["checkpoints"]
    seeds = run["options"]["seeds"]
    marks = console.options.ascii_only
    trained = [row for row in rows if not row["baseline"]]
    measures = [run["metric"], *(row["measure"] for row in trained if row["measure"] not in LOSSES), *LOSSES]
    measures = list(dict.fromkeys(measures))
    table = Table(box=box.ASCII2 if marks else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("", *measures):
        table.add_column(name, justify="left")

    def add(name: str, chosen: Sequence[Row], style: str = "") -> None:
        found = [spread([row["value"] for row in chosen if row["measure"] == measure]) for measure in measures]
        table.add_row(name, *(Text(plain_marks(text) if marks else text) for text in found), style=style)

    for epoch in sorted({row["epoch"] for row in trained}):
        add(f"epoch {epoch}", [row for row in trained if row["epoch"] == epoch])
    add("best epoch", [row for row in trained if row["best"]], "bold")
    for floor in dict.fromkeys(row["model"] for row in rows if row["baseline"]):
        add(floor, [row for row in rows if row["baseline"] and row["model"] == floor], "dim")
    console.print()
    say(console, f"{run['task']} of {model}", "bold")
    say(console, f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, {run['data']['dev']['records']:,} records of dev", "dim")
    console.print(table)
    console.print()
    if len(seeds) > 1:
        say(console, "± is the standard deviation over the seeds.", "dim")
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")


def spread(values: Sequence[float]) -> str:
    """Return the mean of some values, with their standard deviation where there are several.

    >>> spread([0.5, 0.7]), spread([0.5]), spread([])
    ('0.6000 ± 0.1414', '0.5000', '')
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"
