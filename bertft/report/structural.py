"""The report of `bertft probe structural`: a table for each model, figure 1 of the paper, and drawn trees.

Values are those of the test set, or of the development set without one. The best layer is chosen on the development
set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.records import Row, as_float
from bertft.report.drawing import (
    DASHES,
    INK,
    LINES,
    MARKERS,
    MUTED,
    PANEL,
    STYLE,
    Figures,
    draw_line,
    name_ends,
    set_layer_axis,
    set_title,
)
from bertft.report.rows import Z95, fit, number, qualified, short_names, shown_split
from bertft.report.tables import cell as text_cell
from bertft.report.tables import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("model", "baseline", "layer", "rank", "split", "measure", "value", "stderr", "count")

MEASURES = {
    "distance_spearman": "distance Spearman",
    "uuas": "UUAS",
    "depth_spearman": "depth Spearman",
    "root_accuracy": "root accuracy",
}
"""Measures in the order of the table, with their names there."""

FIGURE = {
    "uuas": "Distance probe: UUAS",
    "distance_spearman": "Distance probe: Spearman",
    "depth_spearman": "Depth probe: Spearman",
}
"""The panels of the figure, from left to right: UUAS, which the text tells, and those of figure 1 of the paper."""

WIDE = 96
"""Columns of a terminal from which the table has room for intervals."""

Edges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Curve:
    """The values of one model at one rank, by measure and layer; trees made without a model have the layer None."""

    model: str
    baseline: bool
    rank: int | None
    values: Mapping[str, Mapping[int | None, float]]
    best: Mapping[str, int | None]
    """The best layer on the development set, by measure."""
    errors: Mapping[str, Mapping[int | None, float]]
    """The standard errors of the values."""

    def points(self, measure: str) -> list[tuple[int, float]]:
        """Return the (layer, value) pairs whose value is finite."""
        of_layer = self.values.get(measure, {})
        return [(layer, value) for layer, value in of_layer.items() if layer is not None and math.isfinite(value)]

    def estimate(self, measure: str, layer: int | None) -> tuple[float, float]:
        """Return the value at a layer and its standard error, nan where there is none."""
        return self.values[measure].get(layer, math.nan), self.errors[measure].get(layer, math.nan)

    def best_value(self, measure: str) -> float:
        """Return the value at the best layer, or nan."""
        return self.values[measure].get(self.best.get(measure), math.nan)


def figures(rows: Sequence[Row], run: dict[str, Any], trees: Sequence[Any]) -> Figures:
    """Return the figure `structural` and, where trees are given, `trees`."""
    found: dict[str, Callable[[], Figure]] = {"structural": partial(figure, rows, run)}
    return {**found, "trees": partial(tree_figure, trees)} if trees else found


def findings(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    """Return a finding for each model and rank."""
    found = curves(rows)
    names = short_names(curve.model for curve in found)
    baselines = [curve for curve in found if curve.baseline]
    return [finding(curve, baselines, names) for curve in found if not curve.baseline]


def curves(rows: Sequence[Row]) -> list[Curve]:
    """Return the rows of the reported split by model and rank, baselines last."""
    split = shown_split(rows)
    found = []
    for key in dict.fromkeys((row["baseline"], row["model"], row["rank"]) for row in rows):
        own = [row for row in rows if (row["baseline"], row["model"], row["rank"]) == key]
        values: dict[str, dict[int | None, float]] = {measure: {} for measure in MEASURES}
        errors: dict[str, dict[int | None, float]] = {measure: {} for measure in MEASURES}
        best: dict[str, int | None] = {}
        for measure in MEASURES:
            dev = [(number(row), row["layer"]) for row in own if (row["measure"], row["split"]) == (measure, "dev")]
            dev = [pair for pair in dev if math.isfinite(pair[0])]
            if dev:
                best[measure] = max(dev, key=lambda pair: pair[0])[1]
        for row in own:
            if row["split"] == split:
                values[row["measure"]][row["layer"]] = number(row)
                errors[row["measure"]][row["layer"]] = as_float(row.get("stderr"))
        found.append(Curve(key[1], key[0], key[2], values, best, errors))
    return sorted(found, key=lambda curve: curve.baseline)


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print a table for each model and rank with the baselines below, the notes of the run and the findings."""
    ascii_only, wide = console.options.ascii_only, console.width >= WIDE
    found = curves(rows)
    models, baselines = ([curve for curve in found if curve.baseline is kind] for kind in (False, True))
    split, names = shown_split(rows), short_names(curve.model for curve in found)
    where = source(run, split)
    for curve in models:
        console.print()
        say(console, f"Structural probes of {names[curve.model]}, rank {curve.rank}", "bold")
        say(console, where, "dim")
        table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("layer", justify="right", no_wrap=True)
        for title in MEASURES.values():
            table.add_column(title, justify="right", no_wrap=wide)
        layers = sorted({layer for of_layer in curve.values.values() for layer in of_layer if layer is not None})
        for layer in layers:
            texts = [estimate(*curve.estimate(m, layer), wide) for m in MEASURES]
            cells = [
                cell(text, ascii_only, curve.best.get(m) == layer) for m, text in zip(MEASURES, texts, strict=True)
            ]
            table.add_row(str(layer), *cells, end_section=layer == layers[-1])
        for baseline in baselines:
            if baseline.rank in (None, curve.rank):
                texts = [estimate(*baseline.estimate(m, baseline.best.get(m)), wide) for m in MEASURES]
                cells = [cell(text, ascii_only, False) for text in texts]
                table.add_row(Text(fit(names[baseline.model], 30), style="dim"), *cells)
        console.print(table)
    console.print()
    say(console, "* = best layer on the development set; each random baseline is shown at its own best layer.", "dim")
    if any(math.isfinite(error) for curve in found for errors in curve.errors.values() for error in errors.values()):
        known = "± = half the 95 % interval over sentences (1.96 standard errors)."
        say(
            console,
            known if wide else "A wider terminal shows the 95 % intervals too; so do the page and files.",
            "dim",
        )
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    for text in findings(rows, run):
        say(console, text)


def source(run: dict[str, Any], split: str) -> str:
    """Return the options of a run that change its numbers, the treebank, and how many sentences of it were read."""
    return qualified(f"{run['treebank']['name']}, {split}: {run['sentences'][split]:,} sentences", run)


def estimate(value: float, stderr: float, wide: bool) -> str:
    """Return a value as text, with half its 95 % interval where there is room."""
    if not math.isfinite(value):
        return "undefined"
    return f"{value:.3f} ± {Z95 * stderr:.3f}" if wide and math.isfinite(stderr) else f"{value:.3f}"


def cell(text: str, ascii_only: bool, best: bool) -> Text:
    """Return a cell of the table; the best layer is marked."""
    return text_cell(f"{text} *" if best else f"{text}  ", ascii_only, "bold green" if best else "")


def finding(curve: Curve, baselines: Sequence[Curve], names: Mapping[str, str]) -> str:
    """Return the best UUAS of a model, compared with the highest baseline; layer 0 counts as a baseline."""
    layer, value = curve.best.get("uuas"), curve.best_value("uuas")
    if layer is None or not math.isfinite(value):
        return f"{names[curve.model]}: UUAS is undefined."
    fair = [baseline for baseline in baselines if baseline.rank in (None, curve.rank)]
    beside = [(baseline.best_value("uuas"), names[baseline.model]) for baseline in fair]
    if layer != 0 and 0 in curve.values["uuas"]:
        beside.append((curve.values["uuas"][0], "layer 0"))
    beside = [pair for pair in beside if math.isfinite(pair[0])]
    start = f"{names[curve.model]}, rank {curve.rank}: UUAS is best at layer {layer}, {value:.3f}"
    if not beside:
        return f"{start}."
    high, who = max(beside)
    side = "above" if value > high else "below" if value < high else "from"
    return f"{start}, {abs(value - high):.3f} {side} the highest baseline ({who}, {high:.3f})."


def figure(rows: Sequence[Row], run: dict[str, Any]) -> Figure:
    """Draw UUAS and, as in figure 1, the Spearman correlations by layer, a line for each model and rank."""
    import matplotlib.style
    from matplotlib.figure import Figure

    found = curves(rows)
    names = labels(found)
    split = shown_split(rows)
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=(len(FIGURE) * PANEL[0] + 0.9, PANEL[1] + 0.3), layout="constrained")
        panels = drawing.subplots(1, len(FIGURE), sharey=True)
        lows = [value for curve in found for m in FIGURE for value in curve.values[m].values() if math.isfinite(value)]
        bottom = min(0.0, math.floor(10 * min(lows, default=0.0)) / 10)
        for axes, (measure, title) in zip(panels, FIGURE.items(), strict=True):
            axes.set_ylim(bottom, 1.0)
            draw_panel(axes, found, measure, names)
            set_title(axes, title, f"{source(run, split)}; bands: 95 %; baselines dashed")
            axes.set_xlabel("Layer (0 = embeddings)")
        panels[0].set_ylabel("UUAS; Spearman, mean over lengths 5 to 50")
    return drawing


def labels(found: Sequence[Curve]) -> dict[tuple[str, int | None], str]:
    """Return the name of each curve in a figure: the model, with the rank where there are several."""
    names = short_names(curve.model for curve in found)
    several = len({curve.rank for curve in found if curve.rank is not None}) > 1
    return {
        (c.model, c.rank): names[c.model] + (f", rank {c.rank}" if several and c.rank is not None else "")
        for c in found
    }


def draw_panel(axes: Axes, found: Sequence[Curve], measure: str, names: Mapping[tuple[str, int | None], str]) -> None:
    """Draw the lines of one measure in a panel, with their names at the right end."""
    layers = sorted({layer for curve in found for layer, _ in curve.points(measure)}) or [0]
    ends: list[tuple[float, float, str, str]] = []
    for index, curve in enumerate(found):
        colour = MUTED if curve.baseline else LINES[index % len(LINES)]
        if curve.baseline:
            dash = ("--", ":", (0, (6, 2, 1, 2)), (0, (2, 1)))[index % 4]
        else:
            dash = DASHES[index // len(LINES) % len(DASHES)]
        points = curve.points(measure)
        if not points and math.isfinite(value := curve.values[measure].get(None, math.nan)):
            points = [(layers[0], value), (layers[-1], value)]
        if not points:
            continue
        marker = "" if curve.baseline else MARKERS[index % len(MARKERS)]
        x, y = [layer for layer, _ in points], [value for _, value in points]
        halves = [Z95 * curve.errors[measure].get(layer, math.nan) for layer, _ in curve.points(measure)]
        if halves:
            low, high = ([value + sign * half for value, half in zip(y, halves, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=1)
        draw_line(axes, x, y, colour, dash, marker, baseline=curve.baseline)
        ends.append((points[-1][1], points[-1][0], fit(names[curve.model, curve.rank], 30), colour))
    set_layer_axis(axes, layers)
    name_ends(axes, ends)


TREE_LINES: dict[str, dict[str, Any]] = {
    "gold tree, above": {"color": INK},
    "predicted, below": {"color": LINES[0]},
    "predicted, not in the gold tree": {"color": LINES[1], "linestyle": ":"},
}
"""The legend of drawn trees."""


def tree_figure(trees: Sequence[Any]) -> Figure:
    """Draw sentences with their gold trees above and their predicted trees below, wrong edges dotted.

    Each tree has the attributes `model`, `layer`, `sentence_id`, `forms`, and the edges `gold` and `predicted` between
    words numbered from 0.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with matplotlib.style.context(["default", STYLE]):
        # The trees of one sentence stand together, whichever model they are of.
        sentences = list(dict.fromkeys(tree.sentence_id for tree in trees))
        ordered = sorted(trees, key=lambda tree: sentences.index(tree.sentence_id))
        drawing = Figure(figsize=(9.5, 0.4 + 2.6 * len(trees)), layout="constrained")
        for axes, tree in zip(drawing.subplots(len(trees), 1, squeeze=False)[:, 0], ordered, strict=True):
            draw_tree(axes, tree)
        drawing.legend(
            handles=[Line2D([], [], label=label, **how) for label, how in TREE_LINES.items()],
            loc="outside upper left", ncols=3, frameon=False, fontsize=9,
        )  # fmt: skip
    return drawing


def draw_tree(axes: Axes, tree: Any) -> None:
    """Draw one sentence: words in a row, the arcs of the gold tree above and those of the predicted tree below."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    widths = [max(len(form), 2) * 0.62 + 0.9 for form in tree.forms]
    places = [sum(widths[:word]) + widths[word] / 2 for word in range(len(widths))]
    gold, predicted = ({tuple(sorted(edge)) for edge in edges} for edges in (tree.gold, tree.predicted))
    for edges, side in ((gold, 1), (predicted, -1)):
        for left, right in sorted(edges):
            height = side * (0.75 + 0.55 * (right - left) ** 0.75)
            ends = places[left] + 0.12, places[right] - 0.12
            corners = [(ends[0], 0.42 * side), (ends[0], height), (ends[1], height), (ends[1], 0.42 * side)]
            curve = Outline(corners, [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4])
            wrong = side < 0 and (left, right) not in gold
            colour = INK if side > 0 else LINES[1] if wrong else LINES[0]
            axes.add_patch(
                PathPatch(curve, fill=False, edgecolor=colour, linewidth=1.3, linestyle=":" if wrong else "-")
            )
    for place, form in zip(places, tree.forms, strict=True):
        axes.text(place, 0, form, ha="center", va="center", fontsize=9.5)
    deepest = max([0.75 + 0.55 * abs(a - b) ** 0.75 for a, b in (*gold, *predicted)], default=1.0)
    axes.set_xlim(0, sum(widths))
    axes.set_ylim(-0.8 * deepest - 0.2, 0.8 * deepest + 0.2)
    axes.set_axis_off()
    axes.set_title(
        f"{fit(tree.sentence_id, 40)}: {fit(tree.model, 40)}, layer {tree.layer}",
        loc="left", fontsize=9, color=MUTED,
    )  # fmt: skip
