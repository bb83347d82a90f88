"""Edge probes as people read them: table 1 of the paper, scores by task and model, and what the probes mix.

Values are F1 in percent, of the test set where there is one, the mean over seeds.  The first model stands as it is and
every other column says how far it is from it; `*` marks a difference whose 95 % interval does not hold 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.drawing import png
from bertft.report.edge_figures import figure, layer_figure, mix_figure
from bertft.report.edge_scores import Probed, Score, Scores, column_name, layer_of, mean, ordered
from bertft.report.rows import NAME, fit, task_name
from bertft.report.tables import empty_table, marks, say

if TYPE_CHECKING:
    pass

COLUMNS = (
    *("model", "baseline", "task", "input", "seed", "split", "scoring", "measure", "value", "low", "high"),
    *("reference_half", "n_targets", "n_sentences", "against"),
)


LEFT, GAP = 38, 3
"""Characters that the first two columns of table 1 take, and that stand between two."""


def write(rows: list[Row], labels: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `edge.json`, `edge.csv`, `edge-labels.csv`, `edge.png`, and pictures of mixes and layers if any.

    Raises `BertftError` for a folder that cannot be written to; returns the paths.
    """
    files = {
        "edge.json": json_bytes(rows, run),
        "edge.csv": csv_bytes(rows, COLUMNS),
        "edge-labels.csv": csv_bytes(labels, ("model", "baseline", "task", "input", "seed", "split", "label")),
        "edge.png": png(figure(rows)),
    }
    if run["mixes"]:
        files["edge-mix.png"] = png(mix_figure(run["mixes"], "weights"))
        if run["options"]["preset"] == "today":
            files["edge-mix-shares.png"] = png(mix_figure(run["mixes"], "shares"))
    if any(row["input"].startswith("layer:") for row in rows):
        files["edge-layers.png"] = png(layer_figure(rows))
    return write_files(folder, files)


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print the table of each input, of layers, controls and mixes where there are such, and the notes of the run."""
    scores = Scores(rows)
    both = run["options"]["preset"] == "today"
    names = scores.names
    for source in scores.inputs:
        console.print()
        say(
            console,
            f"Edge probes, {source}, {scores.split}: F1 of {names[scores.base]}, differences of the others",
            "bold",
        )
        for table in main_tables(scores, source, names, console, both=both):
            console.print(table)
    for probed in [p for p in scores.probed if not p.floor and p.input == "layer:0"]:
        console.print()
        say(console, f"By layer, {scores.split}: F1 of {names[probed.model]}", "bold")
        console.print(layer_table(scores, probed.model, console))
    if any(row["measure"] == "selectivity" for row in scores.rows):
        console.print()
        say(console, "Above control tasks: F1 of the task, of its control, and the difference (selectivity)", "bold")
        console.print(control_table(scores, names, console))
    if run["mixes"]:
        console.print()
        say(
            console,
            "Center of gravity of the layers that are mixed" + (", and by share of length" if both else ""),
            "bold",
        )
        console.print(mix_table(run["mixes"], names, console, both=both))
    console.print()
    say(
        console,
        "± is half a 95 % interval over sentences; * marks a difference whose 95 % interval leaves out 0.",
        "dim",
    )
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")


def main_tables(
    scores: Scores, source: str, names: Mapping[str, str], console: Console, *, both: bool
) -> Iterator[Table]:
    """Table 1, in several parts where it is wider than the console; `both` adds what Tenney et al. count."""
    base, *others = scores.columns(source)
    delta = "d" if console.options.ascii_only else "Δ"
    titles = {probed: f"{delta} {column_name(probed, source, names)}" for probed in others}
    room = console.width - LEFT
    parts: list[list[Probed]] = [[]]
    for probed in others:
        if parts[-1] and sum(max(8, len(titles[p])) + GAP for p in [*parts[-1], probed]) > room:
            parts.append([])
        parts[-1].append(probed)
    for part in parts:
        table = empty_table(console)
        table.add_column("task", no_wrap=True)
        table.add_column(Text(column_name(base, source, names)), justify="right", no_wrap=True)
        for probed in part:
            table.add_column(Text(titles[probed]), justify="right", no_wrap=True)
        for task, scoring in scores.tasks:
            if scoring == "all" or both:
                cells = [difference(scores.score(probed, task, scoring, "f1_difference")) for probed in part]
                table.add_row(task_name(task, scoring), marks(str(scores.score(base, task, scoring)), console), *cells)
        yield table


def difference(score: Score) -> Text:
    """A difference with its sign, and `*` where its interval leaves out 0."""
    if not math.isfinite(score.value):
        return Text("-  ")
    clear = score.low > 0 or score.high < 0
    style = ("green" if score.value > 0 else "red") if clear else ""
    return Text(f"{score.value:+.1f}{' *' if clear else '  '}", style=style)


def layer_table(scores: Scores, model: str, console: Console) -> Table:
    """F1 of one model by task and layer, the best of each task in bold."""
    layers = sorted(layer_of(probed) for probed in scores.probed if probed.model == model and layer_of(probed) >= 0)
    table = empty_table(console)
    table.add_column("task", no_wrap=True)
    for layer in layers:
        table.add_column(str(layer), justify="right", no_wrap=True)
    for task, scoring in scores.tasks:
        if scoring == "all":
            values = [scores.score(Probed(model, False, f"layer:{layer}"), task, scoring).value for layer in layers]
            best = max(values, default=0.0)
            table.add_row(
                task_name(task, scoring), *(Text(f"{v:.1f}", style="bold green" if v == best else "") for v in values)
            )
    return table


def control_table(scores: Scores, names: Mapping[str, str], console: Console) -> Table:
    """A row for each task and model, of the first input."""
    table = empty_table(console)
    for title in ("task", "model"):
        table.add_column(title, no_wrap=True)
    for title in ("task F1", "control F1", "selectivity"):
        table.add_column(title, justify="right")
    for task, scoring in [pair for pair in scores.tasks if pair[1] == "all"]:
        for place, probed in enumerate(scores.columns(scores.inputs[0])):
            found = [scores.score(probed, task, scoring, m).value for m in ("f1", "control_f1", "selectivity")]
            cells = [f"{value:.1f}" if math.isfinite(value) else "-" for value in found]
            name = column_name(probed, scores.inputs[0], names)
            table.add_row(task_name(task, scoring) if place == 0 else "", name, *cells)
    return table


def mix_table(mixes: Sequence[Row], names: Mapping[str, str], console: Console, *, both: bool) -> Table:
    """The center of gravity by task and model, the mean over seeds; `both` adds that of shares of length."""
    table = empty_table(console)
    table.add_column("task", no_wrap=True)
    models = list(dict.fromkeys(mix["model"] for mix in mixes))
    for model in models:
        table.add_column(Text(fit(names[model], NAME)), justify="right", no_wrap=True)
    for task in ordered({mix["task"] for mix in mixes}):
        cells = []
        for model in models:
            own = [mix for mix in mixes if (mix["task"], mix["model"]) == (task, model)]
            centers = [mean([mix[name] for mix in own]) for name in ("center", "center_of_shares")]
            cells.append(", ".join(f"{center:.2f}" for center in centers[: 1 + both]))
        table.add_row(task_name(task, "all"), *cells)
    return table
