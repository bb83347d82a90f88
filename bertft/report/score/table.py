"""The tables for the terminal: a row for each layer, a column for each tuned checkpoint, by measure and corpus.

Tables fit the width of the console: the bars are dropped first, then the columns are split over several tables. Rich
omits colours where the console is not a terminal. Marks are ASCII where the encoding of the console needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.records import Row
from bertft.report.rows import fit
from bertft.report.score.series import Series, headline, panels
from bertft.report.tables import cell as text_cell
from bertft.report.tables import plain_marks, say
from bertft.untrusted import shown

CELL = ("0.0000 ± 0.0000", "0.0000 +/- 0.0000")
GAP = 3
LONGEST_BAR = 12
SHORTEST_BAR = 5


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print the tables of the rows, the main finding and the notes of the run."""
    found = panels(rows, run)
    for panel in found:
        console.print()
        say(console, panel.heading, "bold")
        say(console, panel.detail, "dim")
        for table in tables(panel.lines, console):
            console.print(table)
    console.print()
    say(
        console,
        "1 = same as the base model, lower = more change; ± = half the 95 % interval (1.96 standard errors).",
        "dim",
    )
    if any(curve.n_pairs > 1 for panel in found for curve in panel.lines.values()):
        say(console, "σ = standard deviation over the pairs in a mean.", "dim")
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    say(console, headline(rows))


def tables(lines: Mapping[str, Series], console: Console) -> list[Table]:
    """Return the table of named curves, split into several tables where the columns do not fit side by side."""
    ascii_only = console.options.ascii_only
    number = len(CELL[ascii_only])
    room = console.width - len("layer") - GAP
    columns = min(len(lines), max(1, room // (number + GAP)))
    bar = min(LONGEST_BAR, room // columns - number - 1 - GAP)
    bar = bar if bar >= SHORTEST_BAR else 0
    named = list(lines.items())
    built = []
    for start in range(0, len(named), columns):
        part = named[start : start + columns]
        table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("layer", justify="right", no_wrap=True, min_width=5)
        cells: dict[int, list[Text]] = {layer: [Text("")] * len(part) for _, curve in part for layer in curve.layers}
        for column, (name, curve) in enumerate(part):
            table.add_column(text_cell(fit(shown(name), number + 1 + bar), ascii_only), no_wrap=True)
            for layer, value, text in zip(curve.layers, curve.values, curve.estimates(), strict=True):
                cells[layer][column] = cell(value, text, bar, ascii_only)
        for layer in sorted(cells):
            table.add_row(str(layer), *cells[layer])
        built.append(table)
    return built


def cell(value: float, number: str, width: int, ascii_only: bool) -> Text:
    """Return a cell with a number and, where `width` is positive, a bar that is full at 1."""
    text = Text((plain_marks(number) if ascii_only else number).ljust(len(CELL[ascii_only])))
    if width:
        text.append(" ")
        text.append(drawn_bar(value, width, ascii_only).ljust(width), style="cyan")
    return text


def drawn_bar(value: float, width: int, ascii_only: bool) -> str:
    """Return a bar from 0 to 1 of up to `width` characters, in eighths of a character; empty for nan and below 0."""
    eighths = round(min(value, 1) * width * 8) if value > 0 else 0
    if ascii_only:
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1] * (eighths % 8 > 0)
