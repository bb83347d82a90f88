"""Description lengths as people read them: a table a task, compression by layer, and the curves of the online code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.drawing import Line, panels, png
from bertft.report.rows import NAME, fit, short_names
from bertft.report.rows import task_name as edge_task_name
from bertft.report.tables import empty_table, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("model", "baseline", "task", "control", "input", "code", "measure", "value", "n_targets")

SHOWN = {
    "codelength_bits": "bits",
    "weight_bits": "of weights",
    "bits_per_target": "per target",
    "compression": "compression",
    "released_kbits": 'released "kbits"',
    "released_compression": "released compression",
}
"""Measures in the order of the table, under what they are called there."""


@dataclass(frozen=True)
class Described:
    """The measures of one model on one input of a task, its control task a task of its own."""

    model: str
    floor: bool
    task: str
    input: str
    n_targets: int
    values: Mapping[str, float]

    @property
    def layer(self) -> int | None:
        """Of an input that is a layer, which."""
        kind, _, number = self.input.partition(":")
        return int(number) if kind == "layer" else None


def write(rows: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `mdl.json`, `mdl.csv` and the pictures there is something for, all or none, and return the paths.

    `mdl-layers.png` is compression by layer, of two layers or more; `mdl-curves.png` the curves of the online code.
    Raises `BertftError` for a folder that cannot be written to.
    """
    files = {"mdl.json": json_bytes(rows, run), "mdl.csv": csv_bytes(rows, COLUMNS)}
    found = described(rows)
    if any(len(line.layers) > 1 for lines in layer_lines(found).values() for line in lines):
        files["mdl-layers.png"] = png(layer_figure(found))
    if run["curves"]:
        files["mdl-curves.png"] = png(curve_figure(found, run["curves"]))
    return write_files(folder, files)


def described(rows: Sequence[Row]) -> list[Described]:
    """The rows put together by model, task and input, in order."""
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["model"], row["baseline"], task_name(row), row["input"])
        groups.setdefault(key, {})[row["measure"]] = row
    found = []
    for key, own in groups.items():
        values = {measure: math.nan if row["value"] is None else float(row["value"]) for measure, row in own.items()}
        targets = int(next(iter(own.values()))["n_targets"])
        found.append(Described(*key, targets, {**values, "bits_per_target": values["codelength_bits"] / targets}))
    return found


def task_name(row: Mapping[str, Any]) -> str:
    """The task, or its control task."""
    name = edge_task_name(row["task"], "all")
    return f"{name} (control)" if row["control"] else name


def best(found: Sequence[Described]) -> Described:
    """The one of the highest compression, the first of several."""
    return max(found, key=lambda each: each.values["compression"])


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table for each task, with the notes of the run and what stands out."""
    found = described(rows)
    names = short_names(each.model for each in found)
    code = "Online" if run["options"]["code"] == "online" else "Variational"
    for task in dict.fromkeys(each.task for each in found):
        own = [each for each in found if each.task == task]
        console.print()
        say(console, f"{code} code of {task}", "bold")
        uniform = own[0].values["uniform_bits"]
        say(console, f"{own[0].n_targets:,} targets, {uniform:,.0f} bits by the uniform code", "dim")
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
                style = "dim" if each.floor else ""
                table.add_row(Text(name, style), Text(each.input, style), *cells, end_section=each is of_model[-1])
        console.print(table)
    console.print()
    say(console, "compression: uniform code over this code; 1 = nothing learned; * the best input of a model.", "dim")
    if "released_kbits" in found[0].values:
        say(
            console,
            "released: what the released code prints, bits plus nats over 1024, and compression by that.",
            "dim",
        )
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    for line in findings(found, names):
        say(console, line)


def cell(measure: str, value: float, highest: bool) -> Text:
    """A value as it stands in the table."""
    if measure in ("codelength_bits", "weight_bits"):
        return Text(f"{value:,.0f}")
    text = f"{value:.2f}"
    if measure != "compression":
        return Text(text)
    return Text(f"{text} *", style="bold green") if highest else Text(f"{text}  ")


def findings(found: Sequence[Described], names: Mapping[str, str]) -> list[str]:
    """For each task where each model's code is shortest, beside the first model."""
    lines = []
    for task in dict.fromkeys(each.task for each in found):
        own = [each for each in found if each.task == task]
        parts = []
        for model in dict.fromkeys(each.model for each in own):
            top = best([each for each in own if each.model == model])
            parts.append(f"{names[model]} at {top.input} ({top.values['compression']:.2f})")
        lines.append(f"{task}: most compressed by {', '.join(parts)}.")
    return lines


def layer_lines(found: Sequence[Described]) -> dict[str, list[Line]]:
    """Of each task the compression by layer, a line a model."""
    names = short_names(each.model for each in found)
    shown: dict[str, list[Line]] = {}
    for task, model, floor in dict.fromkeys((each.task, each.model, each.floor) for each in found):
        own = [each for each in found if (each.task, each.model) == (task, model)]
        points = sorted((each.layer, each.values["compression"]) for each in own if each.layer is not None)
        if points:
            layers, values = zip(*points, strict=True)
            shown.setdefault(task, []).append(Line(names[model], floor, layers, values))
    return shown


def layer_figure(found: Sequence[Described]) -> Figure:
    """Return compression by layer, a panel a task."""
    shown = layer_lines(found)
    detail = "length of the uniform code over that of this code; floors dashed; every panel has an axis of its own"
    return panels(list(shown), lambda task: iter(shown[task]), "Compression by layer", detail, "Compression", None)


def curve_lines(found: Sequence[Described], curves: Sequence[Mapping[str, Any]]) -> dict[str, list[Line]]:
    """Of each task the bits of a target by portion: each input of a single model, or else each model's best input."""
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


def curve_figure(found: Sequence[Described], curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the bits of a target by portion of the sentences sent, a panel a task."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    shown = curve_lines(found, curves)
    which = "" if len({each.model for each in found}) == 1 else "each model at its best input; "
    drawing = panels(
        list(shown),
        lambda task: iter(shown[task]),
        "Curves of the online code",
        f"{which}the first block is sent by the uniform code; floors dashed",
        "Bits of a target",
        None,
        "Sentences sent, per cent",
    )
    for axes in drawing.axes[: len(shown)]:
        axes.set_xscale("log")
        axes.set_xticks([0.1, 1, 10, 100])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
    return drawing
