"""The figure of `bertft score`: similarity by layer, a line with its 95 % band for each curve.

With one corpus, each tuned checkpoint is a line (figure 2). With several corpora, each checkpoint is a panel and each
corpus a line (figure 5). The names are at the right ends of the lines, where they cover nothing.

The y axis begins at 0, so a small change looks small and figures of two runs can be compared by eye. It begins below 0
where a band does, and at 0.9 where all values are higher; the axis label then says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bertft.errors import OptionError
from bertft.records import Row
from bertft.report.drawing import DASHES, LINES, MARKERS, PANEL, STYLE, draw_line, name_ends, set_layer_axis, set_title
from bertft.report.rows import fit, qualified
from bertft.report.score.series import Panel, Series, panels, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ZOOMED = 0.9


def figure(rows: Sequence[Row], measure: str = "rsa", run: Mapping[str, Any] = MappingProxyType({})) -> Figure:
    """Draw one measure as a matplotlib `Figure`, without a window and without changing matplotlib's global state.

    Raises `OptionError` where the rows do not contain the measure.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = [panel for panel in panels(rows, run) if panel.measure == measure]
    if not shown:
        known = ", ".join(dict.fromkeys(str(row["measure"]) for row in rows)) or "none"
        raise OptionError(f"no rows of the measure {measure!r}; the rows contain {known}")
    across = min(2, len(shown))
    down = math.ceil(len(shown) / across)
    bottom, top = limits([curve for panel in shown for curve in panel.lines.values()])
    width, height = PANEL if across == 1 else (1.7 * PANEL[0], PANEL[1])
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=(width, height * down), layout="constrained")
        grid = drawing.subplots(down, across, squeeze=False)
        for axes, panel in zip(grid.flat, shown, strict=False):
            draw_panel(axes, panel, bottom, top, run)
            axes.set_xlabel("Layer (0 = embeddings)")
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel(title(measure) + (f"  (axis begins at {ZOOMED})" if bottom == ZOOMED else ""))
    return drawing


def limits(curves: Sequence[Series]) -> tuple[float, float]:
    """Return the limits of the y axis."""
    bands = [
        (value - half, value + half)
        for curve in curves
        for value, half in zip(curve.values, half_widths(curve), strict=True)
        if math.isfinite(value)
    ]
    low = min((band[0] for band in bands), default=0.0)
    high = max((value for curve in curves for _, value in curve.defined()), default=1.0)
    bottom = ZOOMED if low >= ZOOMED and high <= 1.001 else min(0.0, math.floor(low * 10) / 10)
    return bottom, max(1.0, high)


def half_widths(curve: Series) -> list[float]:
    """Return half the width of the band at each layer, with 0 where it is unknown."""
    return [half if math.isfinite(half) else 0.0 for half in curve.half_widths()]


def draw_panel(
    axes: Axes, panel: Panel, bottom: float, top: float, run: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Draw curves with bands in one panel, with their names at the right end."""
    lines = panel.lines
    layers = sorted({layer for curve in lines.values() for layer in curve.layers})
    for index, curve in enumerate(lines.values()):
        colour, halves = LINES[index % len(LINES)], half_widths(curve)
        lower = [value - half for value, half in zip(curve.values, halves, strict=True)]
        upper = [min(value + half, top) for value, half in zip(curve.values, halves, strict=True)]
        axes.fill_between(curve.layers, lower, upper, color=colour, alpha=0.18, linewidth=0)
        if len(layers) == 1:
            bars = [halves, [end - value for end, value in zip(upper, curve.values, strict=True)]]
            axes.errorbar(curve.layers, curve.values, yerr=bars, color=colour, capsize=4, linestyle="none")
        dash = DASHES[index // len(LINES) % len(DASHES)]
        draw_line(axes, curve.layers, curve.values, colour, dash, MARKERS[index % len(MARKERS)])
    axes.set_ylim(bottom, top + 0.02 * (top - bottom))
    set_layer_axis(axes, layers)
    known = any(math.isfinite(stderr) for curve in lines.values() for stderr in curve.stderrs)
    detail = panel.detail if panel.one_corpus else qualified("one line for each corpus", run)
    if any(curve.n_pairs > 1 for curve in lines.values()):
        detail += "; bands: 95 %, σ for the mean" if known else "; band: σ over pairs"
    elif known:
        detail += "; band: 95 % interval"
    set_title(axes, fit(panel.heading, 50), detail)
    name_lines(axes, lines)


def name_lines(axes: Axes, lines: dict[str, Series]) -> None:
    """Write the name of each curve beside its last point; state where a curve is undefined at every layer."""
    ends = []
    for index, (name, curve) in enumerate(lines.items()):
        if curve.defined():
            layer, value = curve.defined()[-1]
            ends.append((value, layer, fit(name, 26), LINES[index % len(LINES)]))
        else:
            axes.plot([], [])
            axes.annotate(
                f"{fit(name, 26)}: undefined at {len(curve.layers)} layers", (0.02, 0.04), xycoords="axes fraction"
            )
    name_ends(axes, ends)
