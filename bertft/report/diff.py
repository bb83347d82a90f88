"""The report of `bertft diff`: a table of layers, and a figure of layers against kinds of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bertft.records import Row
from bertft.report.drawing import INK, MUTED, STYLE, Figures
from bertft.report.rows import NAME, WHOLE, fit, short_names
from bertft.report.tables import cell, empty_table, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    *("base", "tuned", "part", "layer", "kind", "relative_change", "change", "norm"),
    *("n_tensors", "n_equal", "n_parameters"),
)
CELLS = 14
"""The most columns of a heat map whose cells hold numbers."""


def figures(rows: Sequence[Row], run: dict[str, Any]) -> Figures:
    """Return the figure `weights`."""
    return {"weights": partial(figure, rows, run)}


def findings(rows: Sequence[Row], run: dict[str, Any]) -> list[str]:
    """Return a finding for each tuned model."""
    whole = [row for row in rows if row["kind"] == WHOLE]
    names = short_names(dict.fromkeys(row["tuned"] for row in rows))
    return [finding([row for row in whole if row["tuned"] == name], label) for name, label in names.items()]


def show(rows: Sequence[Row], run: dict[str, Any], console: Console) -> None:
    """Print the relative change of each layer, the notes of the run and a finding for each tuned model."""
    ascii_only = console.options.ascii_only
    names = short_names(dict.fromkeys(row["tuned"] for row in rows))
    console.print()
    say(console, f"Change of the weights from {rows[0]['base']}", "bold")
    say(console, "relative to their norm, in percent", "dim")
    table = empty_table(console)
    table.add_column("layer", justify="right")
    for name in names.values():
        table.add_column(fit(name, NAME), justify="right")
    whole = [row for row in rows if row["kind"] == WHOLE]
    found = {(row["layer"], row["tuned"]): row for row in whole}
    for layer in sorted({row["layer"] for row in whole}, key=lambda layer: (layer is None, layer)):
        cells = [_percent(found.get((layer, name))) for name in names]
        table.add_row(*(cell(text, ascii_only) for text in ("other" if layer is None else str(layer), *cells)))
    console.print(table)
    console.print()
    say(console, "0 = embeddings; other = in no block, such as a pooler; heads are left out.", "dim")
    for note in run.get("notes", ()):
        say(console, f"Note: {note}", "dim")
    for text in findings(rows, run):
        say(console, text)


def finding(layers: Sequence[Row], name: str) -> str:
    """Return which layers of a model are unchanged, and which has changed most.

    >>> row = {"n_tensors": 2, "n_equal": 2, "relative_change": 0.0}
    >>> finding([{**row, "layer": 0}, {**row, "layer": 1, "n_equal": 1, "relative_change": 0.012}], "mnli")
    'mnli: the weights of layer 0 are unchanged; those of layer 1 have changed most (1.2 %).'
    """
    blocks = [row for row in layers if row["layer"] is not None]
    equal = [row["layer"] for row in blocks if row["n_equal"] == row["n_tensors"]]
    if len(equal) == len(blocks):
        return f"{name}: the weights of all layers equal the base's, bit for bit."
    defined = [row for row in blocks if _value(row) is not None]
    if not defined:
        return f"{name}: no layer has a defined change."
    most = max(defined, key=lambda row: float(row["relative_change"]))
    same = f"the weights of {_listed(equal)} are unchanged; those" if equal else "the weights"
    return f"{name}: {same} of layer {most['layer']} have changed most ({100 * most['relative_change']:.2g} %)."


def _listed(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]}–{layers[-1]}"
    return f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"


def _value(row: Row | None) -> float | None:
    value = None if row is None else row["relative_change"]
    return value if value is not None and math.isfinite(value) else None


def _percent(row: Row | None) -> str:
    if row is None:
        return ""
    if row["n_equal"] == row["n_tensors"]:
        return "equal"
    value = _value(row)
    return "undefined" if value is None else f"{100 * value:.3g}"


def figure(rows: Sequence[Row], run: dict[str, Any]) -> Figure:
    """Draw a heat map for each tuned model: layers against kinds of tensors, all with one scale of colours."""
    import matplotlib.style
    from matplotlib.figure import Figure

    del run
    names = short_names(dict.fromkeys(row["tuned"] for row in rows))
    layers = sorted({row["layer"] for row in rows if row["layer"] is not None})
    kinds = [WHOLE, *sorted({row["kind"] for row in rows if row["part"] == "block"} - {WHOLE})]
    top = max((value for row in rows if row["layer"] is not None and (value := _value(row)) is not None), default=0.0)
    wide = max(3.2, 0.44 * len(layers))
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=(2.6 + wide, 0.9 + len(names) * (0.9 + 0.27 * len(kinds))), layout="constrained")
        panels = drawing.subplots(len(names), 1, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            image = _heat_map(axes, [row for row in rows if row["tuned"] == name], layers, kinds, top)
            axes.set_title(fit(names[name], 60), loc="left", fontsize=10, fontweight="bold")
        panels[-1].set_xlabel("Layer (0 = embeddings, k = block k)")
        bar = drawing.colorbar(image, ax=list(panels), shrink=0.9, pad=0.02)
        bar.set_label("‖W′ − W‖ / ‖W‖, percent", color=INK)
        bar.outline.set_visible(False)
        drawing.suptitle(f"Change of the weights from {fit(rows[0]['base'], 40)}", x=0.01, ha="left", fontweight="bold")
    return drawing


def _heat_map(axes: Axes, rows: Sequence[Row], layers: Sequence[int], kinds: Sequence[str], top: float) -> Any:
    """Draw one heat map and return its image; cells of equal tensors are 0, those of no tensors stay empty."""
    found = {(row["kind"], row["layer"]): _value(row) for row in rows}
    values = [[found.get((kind, layer)) for layer in layers] for kind in kinds]
    percent = [[math.nan if value is None else 100 * value for value in line] for line in values]
    image = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100 * top or 1.0, aspect="auto")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(range(len(kinds)), [fit(kind, 34) for kind in kinds], fontsize=8.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if len(layers) <= CELLS:
        for y, line in enumerate(percent):
            for x, value in enumerate(line):
                if math.isfinite(value):
                    dark = value < 55 * top
                    text = "=" if not value else f"{value:.0f}" if value >= 10 else f"{value:#.2g}"
                    # The cells keep their colours on a dark page, and so must the letters in them.
                    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
                else:
                    axes.text(x, y, "·", ha="center", va="center", fontsize=7.5, color=MUTED)
    return image
