"""The picture: layer against similarity, one line a curve with its 95 % band, in the shape of the paper's figure 2.

With one corpus each tuned checkpoint is a line (figure 2). With several corpora each checkpoint has a panel of its own
and each corpus is a line (figure 5): what is compared stands in one panel. Lines are named at their right end instead
of in a box, so nothing covers them. The y axis begins at 0, so that a small change looks small and pictures of two runs
compare by eye; below 0 where a band reaches there; and at 0.9 where nothing lies below, which the axis then says.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertft.errors import OptionError
from bertft.records import Row
from bertft.report.series import Panel, Series, fit, panels, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#5b6570", "#e2e5e9", "#fefefe"
LINES = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#b07d00", "#5a9bd4", "#444444")
"""Colours told apart with any colour vision (Okabe and Ito, Tol); markers and dashes tell lines apart besides."""

MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
ZOOMED = 0.9
DPI = 180
PANEL = (6.4, 3.9)
"""Inches of one panel."""

STYLE: dict[str, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.hashsalt": "bertft",
}


def figure(rows: Sequence[Row], measure: str = "rsa") -> Figure:
    """Return the picture of one measure as a matplotlib `Figure` that belongs to no window and no global state."""
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = [panel for panel in panels(rows) if panel.measure == measure]
    if not shown:
        known = ", ".join(dict.fromkeys(str(row["measure"]) for row in rows)) or "none"
        raise OptionError(f"no rows hold the measure {measure!r} to draw; they hold {known}")
    across = min(2, len(shown))
    down = math.ceil(len(shown) / across)
    bottom, top = limits([curve for panel in shown for curve in panel.lines.values()])
    width, height = PANEL if across == 1 else (1.7 * PANEL[0], PANEL[1])
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=(width, height * down), layout="constrained")
        grid = drawing.subplots(down, across, squeeze=False)
        for axes, panel in zip(grid.flat, shown, strict=False):
            draw_panel(axes, panel, bottom, top)
            axes.set_xlabel("Layer (0 = embeddings)")
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel(title(measure) + (f"  (axis begins at {ZOOMED})" if bottom == ZOOMED else ""))
    return drawing


def limits(curves: Sequence[Series]) -> tuple[float, float]:
    """Return where the y axis begins and ends."""
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
    """Return half the width of the band at each layer, 0 where it is unknown."""
    return [half if math.isfinite(half) else 0.0 for half in curve.half_widths()]


def draw_panel(axes: Axes, panel: Panel, bottom: float, top: float) -> None:
    """Draw curves with bands into one panel and name them at their right end."""
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
    detail = panel.detail if panel.one_corpus else "one line a corpus"
    if any(curve.n_pairs > 1 for curve in lines.values()):
        detail += "; bands: 95 %, of the mean σ" if known else "; band: σ over pairs"
    elif known:
        detail += "; band: 95 % interval"
    set_title(axes, fit(panel.heading, 50), detail)
    name_lines(axes, lines)


def name_lines(axes: Axes, lines: dict[str, Series]) -> None:
    """Write each curve's name beside its last point, and of curves without one that they are undefined."""
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


def draw_line(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, dash: Any, marker: str, *, floor: bool = False
) -> None:
    """Draw one line; a floor is thinner and lies under the others."""
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.3 if floor else 1.9,
        linestyle=dash,
        marker=marker,
        markersize=5.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        clip_on=False,
        zorder=2 if floor else 3,
    )


def set_layer_axis(axes: Axes, layers: Sequence[int]) -> None:
    """Number the x axis by whole layers, given in ascending order, and take away what frames the panel."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(layers[0] - 0.35, layers[-1] + 0.35)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=13, integer=True, min_n_ticks=1))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def set_title(axes: Axes, heading: str, detail: str) -> None:
    """Write a heading above a panel, and below it in small what was measured."""
    axes.set_title(heading, loc="left", fontsize=12, fontweight="bold", pad=22)
    axes.annotate(fit(detail, 78), (0, 1), (0, 8), "axes fraction", "offset points", color=MUTED, fontsize=9)


def name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside the last points of lines, pushed apart where they would touch: (y, x, name, colour) of each.

    The limits of the y axis must be set before.
    """
    bottom, top = axes.get_ylim()
    ends = sorted(ends)
    heights = spread([(y - bottom) / (top - bottom) for y, *_ in ends], gap=0.062)
    for (y, x, name, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.9,
                "shrinkA": 2,
                "shrinkB": 5,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights moved as little as pushing them up, then down from 1, needs to keep `gap` between.

    >>> spread([0.5, 0.5, 0.9], gap=0.1)
    [0.45, 0.55, 0.9]
    """
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and overlap(blocks[-2], blocks[-1], gap):
            last = blocks.pop()
            blocks[-1] += last
    placed = []
    for block in blocks:
        placed += positions(block, gap)
    return [round(height, 6) for height in placed]


def overlap(lower: Sequence[float], upper: Sequence[float], gap: float) -> bool:
    """Return whether two blocks of labels would come closer than `gap`."""
    return positions(upper, gap)[0] - positions(lower, gap)[-1] < gap


def positions(block: Sequence[float], gap: float) -> list[float]:
    """Return the heights of labels stacked `gap` apart around the mean of where they want to be."""
    middle = sum(block) / len(block)
    first = middle - gap * (len(block) - 1) / 2
    return [first + gap * index for index in range(len(block))]


def png(drawing: Figure) -> bytes:
    """Return a picture as PNG, on white."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return stream.getvalue()


def svg(drawing: Figure, name: str) -> str:
    """Return a picture as an `<svg>` element for a page: no background, its colours CSS variables with defaults.

    The variables are --ink, --muted, --grid, --paper and --line-0 to --line-6, so a page can recolour the picture for
    a dark screen. Element names begin with `name`, so that several pictures can stand in one page.
    """
    import matplotlib.style

    stream = io.StringIO()
    with matplotlib.style.context(["default", STYLE]):
        drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    kept = {one or other for one, other in used}
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in kept else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    variables = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
        colour: f"line-{i}" for i, colour in enumerate(LINES)
    }
    for colour, variable in variables.items():
        text = re.sub(rf"(?<=: ){colour}", f"var(--{variable}, {colour})", text)
    return text
