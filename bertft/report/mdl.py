"""The report of `bertft probe mdl`: a table for each task, compression by layer, and curves of the online code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from bertft.records import Row
from bertft.report.drawing import Figures, Line, task_panels
from bertft.report.rows import NAME, fit, qualified, short_names
from bertft.report.rows import task_name as edge_task_name
from bertft.report.tables import empty_table, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("model", "baseline", "task", "control", "input", "code", "measure", "value", "n_targets")

SHOWN = {
    "codelength_bits": "bits",
    "weight_bits": "weight bits",
    "bits_per_target": "bits per target",
    "compression": "compression",
    "released_kbits": 'released "kbits"',
    "released_compression": "released compression",
}
"""Measures in the order of the table, with their names there."""


@dataclass(frozen=True)
class Codelengths:
    """The measures of one model on one input of a task; a control task counts as a task of its own."""

    model: str
    baseline: bool
    task: str
    input: str
    n_targets: int
    values: Mapping[str, float]

    @property
    def layer(self) -> int | None:
        """The number of the layer where the input is a single layer, else None."""
        kind, _, number = self.input.partition(":")
        return int(number) if kind == "layer" else None


def figures(rows: Sequence[Row], run: dict[str, Any]) -> Figures:
    """Return the figures for which there is data.

    `mdl-layers` shows compression by layer and needs at least two layers; `mdl-curves` shows the curves of the online
    code.
    """
    drawn: dict[str, Callable[[], Figure]] = {}
    found = codelengths(rows)
    if any(len(line.layers) > 1 for lines in layer_lines(found).values() for line in lines):
        drawn["mdl-layers"] = partial(layer_figure, found)
    if run["curves"]:
        drawn["mdl-curves"] = partial(curve_figure, found, run["curves"])
    return drawn


def codelengths(rows: Sequence[Row]) -> list[Codelengths]:
    """Return the rows grouped by model, task and input, in order of first appearance."""
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["model"], row["baseline"], task_name(row), row["input"])
        groups.setdefault(key, {})[row["measure"]] = row
    found = []
    for key, own in groups.items():
        values = {measure: math.nan if row["value"] is None else float(row["value"]) for measure, row in own.items()}
        targets = int(next(iter(own.values()))["n_targets"])
        found.append(Codelengths(*key, targets, {**values, "bits_per_target": values["codelength_bits"] / targets}))
    return found


def task_name(row: Mapping[str, Any]) -> str:
    """Return the name of the task, or of its control task."""
    name = edge_task_name(row["task"], "all")
    return f"{name} (control)" if row["control"] else name


def best(found: Sequence[Codelengths]) -> Codelengths:
    """Return the entry with the highest compression, the first of equals."""
    return max(found, key=lambda each: each.values["compression"])


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table for each task, the notes of the run and the findings."""
    found = codelengths(rows)
    names = short_names(each.model for each in found)
    code = "Online" if run["options"]["code"] == "online" else "Variational"
    for task in dict.fromkeys(each.task for each in found):
        own = [each for each in found if each.task == task]
        console.print()
        say(console, f"{code} code of {task}", "bold")
        uniform = own[0].values["uniform_bits"]
        size = f"{own[0].n_targets:,} targets, {uniform:,.0f} bits in the uniform code"
        say(console, qualified(size, run), "dim")
        table = empty_table(console)
        table.add_column("model", no_wrap=True)
        table.add_column("input", no_wrap=True)
        measures = [measure for measure in SHOWN if measure in own[0].values]
        for measure in measures:
            table.add_column(SHOWN[measure], justify="right")
        for model in dict.fromkeys(each.model for each in own):
            of_model = [each for each in own if each.model == model]
            highest = best(of_model)
            for each in of_model:
                cells = [cell(measure, each.values[measure], each is highest) for measure in measures]
                name = fit(names[model], NAME) if each is of_model[0] else ""
                style = "dim" if each.baseline else ""
                table.add_row(Text(name, style), Text(each.input, style), *cells, end_section=each is of_model[-1])
        console.print(table)
    console.print()
    say(
        console,
        "compression = bits of the uniform code / bits of this code; 1 = nothing learned; * = best input of a model.",
        "dim",
    )
    if "released_kbits" in found[0].values:
        say(
            console,
            "released = what the released code prints: (bits + nats) / 1024, and the compression computed from it.",
            "dim",
        )
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    for line in findings(rows, run):
        say(console, line)


def cell(measure: str, value: float, highest: bool) -> Text:
    """Return a value as a cell of the table."""
    if measure in ("codelength_bits", "weight_bits"):
        return Text(f"{value:,.0f}")
    text = f"{value:.2f}"
    if measure != "compression":
        return Text(text)
    return Text(f"{text} *", style="bold green") if highest else Text(f"{text}  ")


def findings(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    """Return a sentence for each task: the input with the shortest code of each model, and its compression."""
    found = codelengths(rows)
    names = short_names(each.model for each in found)
    lines = []
    for task in dict.fromkeys(each.task for each in found):
        own = [each for each in found if each.task == task]
        parts = []
        for model in dict.fromkeys(each.model for each in own):
            top = best([each for each in own if each.model == model])
            parts.append(f"{names[model]} at {top.input} ({top.values['compression']:.2f})")
        lines.append(f"{task}: highest compression with {', '.join(parts)}.")
    return lines


def layer_lines(found: Sequence[Codelengths]) -> dict[str, list[Line]]:
    """Return the compression by layer for each task, a line for each model."""
    names = short_names(each.model for each in found)
    shown: dict[str, list[Line]] = {}
    for task, model, baseline in dict.fromkeys((each.task, each.model, each.baseline) for each in found):
        own = [each for each in found if (each.task, each.model) == (task, model)]
        points = sorted((each.layer, each.values["compression"]) for each in own if each.layer is not None)
        if points:
            layers, values = zip(*points, strict=True)
            shown.setdefault(task, []).append(Line(names[model], baseline, layers, values, of_layers=True))
    return shown


def layer_figure(found: Sequence[Codelengths]) -> Figure:
    """Draw the compression by layer, a panel for each task."""
    shown = layer_lines(found)
    detail = "bits of the uniform code / bits of this code; baselines dashed; the panels have different y axes"
    return task_panels(list(shown), lambda task: iter(shown[task]), "Compression by layer", detail, "Compression", None)


def curve_lines(found: Sequence[Codelengths], curves: Sequence[Mapping[str, Any]]) -> dict[str, list[Line]]:
    """Return the bits per target by portion of the data, for each task.

    A single model has a line for each input; several models have one line each, for their best inputs.
    """
    names = short_names(each.model for each in found)
    highest = {
        (each.task, each.model): best([o for o in found if (o.task, o.model) == (each.task, each.model)]).input
        for each in found
    }
    shown: dict[str, list[Line]] = {}
    for curve in curves:
        task, model, source = task_name(curve), curve["model"], curve["input"]
        if len(names) == 1 or highest[task, model] == source:
            bits = [total / count for total, count in zip(curve["bits"], curve["targets"], strict=True)]
            name = source if len(names) == 1 else names[model]
            shown.setdefault(task, []).append(Line(name, curve["baseline"], curve["percent"], bits))
    return shown


def curve_figure(found: Sequence[Codelengths], curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the bits per target by portion of the sentences transmitted, a panel for each task."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    shown = curve_lines(found, curves)
    which = "" if len({each.model for each in found}) == 1 else "each model at its best input; "
    drawing = task_panels(
        list(shown),
        lambda task: iter(shown[task]),
        "Curves of the online code",
        f"{which}the first block uses the uniform code; baselines dashed",
        "Bits per target",
        None,
        "Sentences transmitted, percent",
    )
    for axes, shown_lines in zip(drawing.axes, shown.values(), strict=False):
        axes.set_xscale("log")
        axes.set_xticks([0.1, 1, 10, 100])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        first = min(place for line in shown_lines for place in line.layers)
        axes.set_xlim(left=first / 1.5)  # apart from the 0 of the other axis
    return drawing
