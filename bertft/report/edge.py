"""The report of `bertft probe edge`: table 1 of the paper, scores by task and model, and the layer weights.

Values are F1 in percent on the test set, or on the development set without one, as means over seeds. The first column
gives the scores of the first model; the other columns give differences from it. `*` marks a difference whose 95 %
interval excludes 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.records import Row
from bertft.report.drawing import Figures
from bertft.report.edge_figures import figure, layer_figure, mix_figure
from bertft.report.edge_scores import EdgeScore, EdgeTable, ModelInput, column_name, layer_of, mean, ordered
from bertft.report.rows import NAME, NEAR, conditions, fit, task_name
from bertft.report.tables import cell, empty_table, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    *("model", "baseline", "task", "input", "seed", "split", "scoring", "measure", "value", "low", "high"),
    *("reference_half", "n_targets", "n_sentences", "against"),
)

LEFT, GAP = 38, 3
"""Widths in characters: of the first two columns of table 1, and of the gap between columns."""


LABEL_COLUMNS = ("model", "baseline", "task", "input", "seed", "split", "label")


def figures(rows: Sequence[Row], run: dict[str, Any]) -> Figures:
    """Return the figure `edge`, and those of mixes and layers for which there is data."""
    found: dict[str, Callable[[], Figure]] = {"edge": partial(figure, rows, run)}
    if run["mixes"]:
        found["edge-mix"] = partial(mix_figure, run["mixes"], "weights")
        if run["options"]["preset"] == "today":
            found["edge-mix-shares"] = partial(mix_figure, run["mixes"], "shares")
    if any(row["input"].startswith("layer:") for row in rows):
        found["edge-layers"] = partial(layer_figure, rows)
    return found


def findings(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    """Return a warning for each probe that is no better than the highest baseline of its task, or finds nothing."""
    scores = EdgeTable(rows)
    found = []
    for source in scores.inputs:
        columns = scores.columns(source)
        for own in [own for own in columns if not own.baseline and own.input == source]:
            for task in [task for task, scoring in scores.tasks if scoring == "all"]:
                value = scores.score(own, task, "all").value
                known = [(scores.score(other, task, "all").value, other) for other in columns if other.baseline]
                known = [(score, other) for score, other in known if math.isfinite(score)]
                highest, other = max(known, key=lambda pair: pair[0], default=(0.0, None))
                if not value < highest + 100 * NEAR:
                    continue
                name = "" if other is None else f" ({column_name(other, source, scores.names)}, {highest:.1f})"
                found.append(
                    f"{task_name(task, 'all')}, {source}: the probe of {scores.names[own.model]}, F1 {value:.1f}, is "
                    f"no better than {'a guess' if other is None else 'the baseline'}{name}: train longer, or on more "
                    "sentences."
                )
    return found


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print the tables of each input, of layers, control tasks and mixes, and the notes of the run."""
    scores = EdgeTable(rows)
    both = run["options"]["preset"] == "today"
    names = scores.names
    for source in scores.inputs:
        console.print()
        heading = f"Edge probes, {source}, {scores.split}: F1 of {names[scores.base]}, differences of the others"
        say(console, heading, "bold")
        if told := conditions(run):
            say(console, told, "dim")
        for table in main_tables(scores, source, names, console, both=both):
            console.print(table)
    for own in [own for own in scores.model_inputs if not own.baseline and own.input == "layer:0"]:
        console.print()
        say(console, f"By layer, {scores.split}: F1 of {names[own.model]}", "bold")
        console.print(layer_table(scores, own.model, console))
    if any(row["measure"] == "selectivity" for row in scores.rows):
        console.print()
        say(console, "Control tasks: F1 of the task, F1 of its control task, and the difference (selectivity)", "bold")
        console.print(control_table(scores, names, console))
    if run["mixes"]:
        console.print()
        say(
            console,
            "Center of gravity of the layer weights" + (", and of the shares of length" if both else ""),
            "bold",
        )
        console.print(mix_table(run["mixes"], names, console, both=both))
    console.print()
    say(
        console,
        "± = half the 95 % interval over sentences; * = difference whose 95 % interval excludes 0.",
        "dim",
    )
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    for text in findings(rows, run):
        say(console, text)


def main_tables(
    scores: EdgeTable, source: str, names: Mapping[str, str], console: Console, *, both: bool
) -> Iterator[Table]:
    """Yield table 1, split where it is wider than the console; `both` adds the labels that Tenney et al. report."""
    base, *others = scores.columns(source)
    delta = "d" if console.options.ascii_only else "Δ"
    titles = {own: f"{delta} {column_name(own, source, names)}" for own in others}
    room = console.width - LEFT
    parts: list[list[ModelInput]] = [[]]
    for own in others:
        if parts[-1] and sum(max(8, len(titles[other])) + GAP for other in [*parts[-1], own]) > room:
            parts.append([])
        parts[-1].append(own)
    for part in parts:
        table = empty_table(console)
        table.add_column("task", no_wrap=True)
        table.add_column(cell(column_name(base, source, names)), justify="right", no_wrap=True)
        for own in part:
            table.add_column(cell(titles[own]), justify="right", no_wrap=True)
        for task, scoring in scores.tasks:
            if scoring == "all" or both:
                cells = [difference(scores.score(own, task, scoring, "f1_difference")) for own in part]
                score = cell(str(scores.score(base, task, scoring)), console.options.ascii_only)
                table.add_row(cell(task_name(task, scoring)), score, *cells)
        yield table


def difference(score: EdgeScore) -> Text:
    """Return a difference with its sign, and `*` where its interval excludes 0."""
    if not math.isfinite(score.value):
        return Text("-  ")
    clear = score.low > 0 or score.high < 0
    style = ("green" if score.value > 0 else "red") if clear else ""
    return Text(f"{score.value:+.1f}{' *' if clear else '  '}", style=style)


def layer_table(scores: EdgeTable, model: str, console: Console) -> Table:
    """Return the table of F1 of one model by task and layer, the best layer of each task in bold."""
    layers = sorted(layer_of(own) for own in scores.model_inputs if own.model == model and layer_of(own) >= 0)
    table = empty_table(console)
    table.add_column("task", no_wrap=True)
    for layer in layers:
        table.add_column(str(layer), justify="right", no_wrap=True)
    for task, scoring in scores.tasks:
        if scoring == "all":
            own = [ModelInput(model, False, f"layer:{layer}") for layer in layers]
            values = [scores.score(of_layer, task, scoring).value for of_layer in own]
            best = max(values, default=0.0)
            cells = [Text(f"{value:.1f}", style="bold green" if value == best else "") for value in values]
            table.add_row(cell(task_name(task, scoring)), *cells)
    return table


def control_table(scores: EdgeTable, names: Mapping[str, str], console: Console) -> Table:
    """Return the table of control tasks for the first input: a row for each task and model."""
    table = empty_table(console)
    for title in ("task", "model"):
        table.add_column(title, no_wrap=True)
    for title in ("task F1", "control F1", "selectivity"):
        table.add_column(title, justify="right")
    for task, scoring in [pair for pair in scores.tasks if pair[1] == "all"]:
        for index, own in enumerate(scores.columns(scores.inputs[0])):
            found = [scores.score(own, task, scoring, m).value for m in ("f1", "control_f1", "selectivity")]
            cells = [f"{value:.1f}" if math.isfinite(value) else "-" for value in found]
            name = column_name(own, scores.inputs[0], names)
            table.add_row(cell(task_name(task, scoring) if index == 0 else ""), cell(name), *cells)
    return table


def mix_table(mixes: Sequence[Row], names: Mapping[str, str], console: Console, *, both: bool) -> Table:
    """Return the table of centers of gravity, as means over seeds; `both` adds those of the shares of length."""
    table = empty_table(console)
    table.add_column("task", no_wrap=True)
    models = list(dict.fromkeys(mix["model"] for mix in mixes))
    for model in models:
        table.add_column(cell(fit(names[model], NAME)), justify="right", no_wrap=True)
    for task in ordered({mix["task"] for mix in mixes}):
        cells = []
        for model in models:
            own = [mix for mix in mixes if (mix["task"], mix["model"]) == (task, model)]
            centers = [mean([mix[name] for mix in own]) for name in ("center", "center_of_shares")]
            cells.append(", ".join(f"{center:.2f}" for center in centers[: 1 + both]))
        table.add_row(cell(task_name(task, "all")), *cells)
    return table
