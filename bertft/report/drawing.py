"""Shared parts of the figures: colours, line styles, layer axes, names at the ends of lines, images, SVG for pages."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertft.report.rows import fit, task_name
from bertft.untrusted import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Figures = Mapping[str, Callable[[], "Figure"]]
"""Functions that draw the figures of a report, by the name of the file without its ending."""

INK, MUTED, GRID, PAPER = "#1b1f24", "#5b6570", "#e2e5e9", "#fefefe"
LINES = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#b07d00", "#5a9bd4", "#444444")
"""Colours that remain distinct with any colour vision (Okabe and Ito, Tol). Markers and dashes differ as well."""
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
DPI = 180
PANEL = (6.4, 3.9)
"""Width and height of one panel, in inches."""
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
    "pdf.fonttype": 42,  # letters stay letters, which programs for drawing can edit
    # Names and words are drawn as they are: matplotlib would read a dollar sign as the start of mathematics.
    "text.parse_math": False,
    "text.usetex": False,
}


def draw_line(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, dash: Any, marker: str, *, baseline: bool = False
) -> None:
    """Draw one line; a baseline is thinner and drawn below the other lines."""
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.3 if baseline else 1.9,
        linestyle=dash,
        marker=marker,
        markersize=5.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        clip_on=False,
        zorder=2 if baseline else 3,
    )


def set_layer_axis(axes: Axes, layers: Sequence[int]) -> None:
    """Label the x axis with whole layers, given in ascending order, and remove the ticks and the left spine."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(layers[0] - 0.35, layers[-1] + 0.35)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=13, integer=True, min_n_ticks=1))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def set_title(axes: Axes, heading: str, detail: str) -> None:
    """Write a heading above a panel, with a line of details below it in small print."""
    axes.set_title(heading, loc="left", fontsize=12, fontweight="bold", pad=22)
    axes.annotate(fit(detail, 78), (0, 1), (0, 8), "axes fraction", "offset points", color=MUTED, fontsize=9)


def name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of lines beside their last points, moved apart where they would overlap.

    `ends` gives (y, x, name, colour) for each line. Set the limits of the y axis first.
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
    """Return ascending heights moved so that neighbours are at least `gap` apart.

    Heights that are too close form a block, which is centred on the mean of its heights.

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
    """Return whether two blocks of labels would be closer than `gap`."""
    return positions(upper, gap)[0] - positions(lower, gap)[-1] < gap


def positions(block: Sequence[float], gap: float) -> list[float]:
    """Return the heights of labels stacked `gap` apart around the mean of their wanted heights."""
    middle = sum(block) / len(block)
    first = middle - gap * (len(block) - 1) / 2
    return [first + gap * index for index in range(len(block))]


def image(drawing: Figure, form: str = "png") -> bytes:
    """Return a figure as the bytes of a PNG, SVG or PDF file, on a white background; the same for the same figure."""
    import matplotlib.style

    stream = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
    with matplotlib.style.context(["default", STYLE]):
        plain_texts(drawing)
        drawing.savefig(stream, format=form, dpi=DPI, facecolor="white", metadata=undated)
    return stream.getvalue()


def plain_texts(drawing: Figure) -> None:
    """Let every text of a figure be drawn as it is: no mathematics, and control characters as escapes."""
    from matplotlib.text import Text

    for text in drawing.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        if (plain := shown(text.get_text())) != text.get_text():
            text.set_text(plain)


def legend_name(name: str) -> str:
    """Return a name for a legend, which leaves out those that begin with an underscore.

    >>> legend_name("_run"), legend_name("run")
    (' _run', 'run')
    """
    return f" {name}" if name.startswith("_") else name


def svg(drawing: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element for a page, without background and with CSS variables as colours.

    The variables are --ink, --muted, --grid, --paper and --line-0 to --line-6, so a page can recolour the figure for a
    dark screen. Element ids begin with `name`, so one page can hold several figures.
    """
    import matplotlib.style

    stream = io.StringIO()
    with matplotlib.style.context(["default", STYLE]):
        plain_texts(drawing)
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


@dataclass(frozen=True)
class Line:
    """A line of a panel, by layer or by portion of the data; `center` is a mark on the x axis, nan for none.

    of_layers: whether the places on the x axis are layers: neighbours are joined, and what was not measured is dotted.
    """

    name: str
    baseline: bool
    layers: Sequence[float]
    values: Sequence[float]
    center: float = math.nan
    of_layers: bool = False


def task_panels(
    tasks: Sequence[str],
    lines: Callable[[str], Iterator[Line]],
    title: str,
    detail: str,
    label: str,
    bottom: float | None,
    along: str = "Layer (0 = embeddings)",
) -> Figure:
    """Draw a panel for each task, four in a row, with one legend below.

    Where `bottom` is given, all panels share a y axis that begins there; otherwise each panel has its own.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    across = min(4, len(tasks))
    down = math.ceil(len(tasks) / across)
    with matplotlib.style.context(["default", STYLE]):
        drawing = Figure(figsize=(1.2 + 2.5 * max(2, across), 1.4 + 2.3 * down), layout="constrained")
        grid = drawing.subplots(down, across, squeeze=False, sharex=True, sharey=bottom is not None)
        for axes in grid.flat[len(tasks) :]:
            axes.set_axis_off()
        for axes, task in zip(grid.flat, tasks, strict=False):
            draw_lines(axes, list(lines(task)))
            axes.set_title(task_name(task, "all"), loc="left", fontsize=10, fontweight="bold")
        if bottom is not None:
            highest = [value for task in tasks for line in lines(task) for value in line.values if math.isfinite(value)]
            grid[0, 0].set_ylim(bottom, bottom + 1.06 * (max(highest, default=1.0) - bottom))
        for axes in grid[:, 0]:
            axes.set_ylabel(label)
        for axes in grid.flat[max(0, len(tasks) - across) : len(tasks)]:
            axes.set_xlabel(along)
            axes.tick_params(labelbottom=True)
        # Constrained layout leaves room for the title alone, so the lines of details are empty lines of the title.
        details = textwrap.wrap(detail, int(14 * drawing.get_figwidth()))
        drawing.suptitle(title + "\n" * len(details), x=0.01, ha="left", fontsize=12, fontweight="bold")
        top = 1 - 0.36 / drawing.get_figheight()
        drawing.text(0.01, top, "\n".join(details), color=MUTED, fontsize=9, va="top", linespacing=1.5)
        handles, given = grid[0, 0].get_legend_handles_labels()
        drawing.legend(handles, given, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return drawing


def with_gaps(layers: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return a line with nan between layers that are not neighbours.

    >>> with_gaps([0, 1, 4], [0.5, 0.6, 0.9])
    ([0, 1, nan, 4], [0.5, 0.6, nan, 0.9])
    """
    found: tuple[list[float], list[float]] = ([], [])
    for layer, value in zip(layers, values, strict=True):
        if found[0] and layer - found[0][-1] > 1:
            for side in found:
                side.append(math.nan)
        found[0].append(layer)
        found[1].append(value)
    return found


def draw_lines(axes: Axes, found: Sequence[Line]) -> None:
    """Draw the lines of one panel."""
    from matplotlib.ticker import MaxNLocator

    models = 0
    for line in found:
        colour = MUTED if line.baseline else LINES[models % len(LINES)]
        width = 1.2 if line.baseline else 1.7
        layers, values = with_gaps(line.layers, line.values) if line.of_layers else (line.layers, line.values)
        if len(layers) > len(line.layers):
            axes.plot(line.layers, line.values, color=colour, linestyle=":", linewidth=0.7 * width, alpha=0.6)
        axes.plot(
            layers,
            values,
            color=colour,
            linestyle="--" if line.baseline else DASHES[models // len(LINES) % len(DASHES)],
            linewidth=width,
            marker="" if line.baseline else MARKERS[models % len(MARKERS)],
            markersize=4,
            label=legend_name(fit(line.name, 30)),
        )
        if math.isfinite(line.center):
            axes.plot(
                [line.center], [0.035], marker="^", color=colour, markersize=6, transform=axes.get_xaxis_transform()
            )
        models += not line.baseline
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
