"""Edge probes as people read them: table 1 of the paper, scores by task and model, and what the probes mix.

Values are F1 in percent, of the test set where there is one, the mean over seeds.  The first model stands as it is and
every other column says how far it is from it; `*` marks a difference whose 95 % interval does not hold 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.figures import DASHES, LINES, MARKERS, MUTED, PAPER, STYLE, png
from bertft.report.series import fit, short_names
from bertft.report.structural import number, shown_split
from bertft.report.terminal import plain_marks, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    *("model", "floor", "task", "input", "seed", "split", "scoring", "measure", "value", "low", "high"),
    *("reference_half", "n_targets", "n_sentences", "against"),
)

TASKS = {
    "pos": "POS",
    "const": "Constituents",
    "dep": "Dependencies",
    "ner": "Entities",
    "srl": "SRL",
    "coref": "Coreference",
    "spr": "SPR",
    "rel": "Relations",
}
"""Tasks in the order of the paper's table, and how it writes them."""

REPORTED = {"coref": "label 1 alone", "srl": "core and modifiers", "rel": "without Other"}
"""What Tenney et al. 2019 count of a task of which they do not count all."""

NAME = 14
"""Longest name of a model above a column."""

LEFT, GAP = 38, 3
"""Characters that the first two columns of table 1 take, and that stand between two."""


@dataclass(frozen=True)
class Probed:
    """A model with an input: what a column of the table, or a line of a picture, is about."""

    model: str
    floor: bool
    input: str


@dataclass(frozen=True)
class Score:
    """A value in percent with the ends of its interval, nan where there are none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "undefined"
        return (
            f"{self.value:.1f} ± {(self.high - self.low) / 2:.1f}" if math.isfinite(self.low) else f"{self.value:.1f}"
        )


class Scores:
    """The rows of the split that is shown, to be asked for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.split = shown_split(rows)
        self.rows = [row for row in rows if row["split"] == self.split]
        known = dict.fromkeys((row["task"], row["scoring"]) for row in self.rows)
        order = [*TASKS, *(task for task, _ in known)]
        self.tasks = sorted(known, key=lambda pair: (order.index(pair[0]), pair[1] != "all"))
        self.probed = [
            Probed(*key) for key in dict.fromkeys((row["model"], row["floor"], row["input"]) for row in self.rows)
        ]
        self._of: dict[tuple[Probed, str, str, str], list[Row]] = {}
        for row in self.rows:
            key = (Probed(row["model"], row["floor"], row["input"]), row["task"], row["scoring"], row["measure"])
            self._of.setdefault(key, []).append(row)

    @property
    def inputs(self) -> list[str]:
        """The inputs for which there is a table: those of models, single layers apart; of these alone, the first."""
        found = list(dict.fromkeys(probed.input for probed in self.probed if not probed.floor))
        return [name for name in found if not name.startswith("layer:")] or found[:1]

    @property
    def base(self) -> str:
        """The model to which the others are compared."""
        return next(probed.model for probed in self.probed if not probed.floor)

    @property
    def names(self) -> dict[str, str]:
        """What the models are called."""
        return shown_names(list(dict.fromkeys(probed.model for probed in self.probed)), self.base)

    def score(self, probed: Probed, task: str, scoring: str, measure: str = "f1") -> Score:
        """The mean over seeds, with the mean ends of the intervals."""
        rows = self._of.get((probed, task, scoring, measure), [])
        if not rows:
            return Score(math.nan, math.nan, math.nan)
        ends = ([number({"value": row.get(name)}) for row in rows] for name in ("value", "low", "high"))
        return Score(*(100 * sum(values) / len(values) for values in ends))

    def columns(self, source: str) -> list[Probed]:
        """The base, floors and other models for one input; floors of another input stand with the first."""
        mine = [p for p in self.probed if p.input == source or (p.floor and source == self.inputs[0] and self.alone(p))]
        base = [p for p in mine if p.model == self.base and not p.floor]
        return [*base, *(p for p in mine if p.floor), *(p for p in mine if not p.floor and p not in base)]

    def alone(self, probed: Probed) -> bool:
        """Whether a floor is of an input that no model is probed with."""
        return probed.input not in {other.input for other in self.probed if not other.floor}


def write(rows: list[Row], labels: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `edge.json`, `edge.csv`, `edge-labels.csv`, `edge.png`, and pictures of mixes and layers if any.

    Raises `BertftError` for a folder that cannot be written to; returns the paths.
    """
    files = {
        "edge.json": json_bytes(rows, run),
        "edge.csv": csv_bytes(rows, COLUMNS),
        "edge-labels.csv": csv_bytes(labels, ("model", "floor", "task", "input", "seed", "split", "label")),
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


def task_name(task: str, scoring: str) -> str:
    """A task as it stands in a table.

    >>> task_name("coref", "all"), task_name("coref", "reported")
    ('Coreference', '  label 1 alone')
    """
    return TASKS.get(task, task) if scoring == "all" else f"  {REPORTED.get(task, scoring)}"


def column_name(probed: Probed, source: str, names: Mapping[str, str]) -> str:
    """A model as it stands above its column; a floor of another input is called by that."""
    return fit(names[probed.model], NAME) if probed.input == source else probed.input


def shown_names(models: Sequence[str], base: str) -> dict[str, str]:
    """Short names of models; the random twins of the base are called by their number alone.

    >>> shown_names(["runs/base", "runs/mnli", "base-random-0"], "runs/base")
    {'runs/base': 'base', 'runs/mnli': 'mnli', 'base-random-0': 'random-0'}
    """
    names = short_names(models)
    return {model: name.removeprefix(f"{names[base]}-") if model != base else name for model, name in names.items()}


def empty_table(console: Console) -> Table:
    """A table in the form of this package."""
    style = box.ASCII2 if console.options.ascii_only else box.SIMPLE_HEAD
    return Table(box=style, show_edge=False, pad_edge=False)


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


def marks(text: str, console: Console) -> str:
    """A text in the console's characters."""
    return plain_marks(text) if console.options.ascii_only else text


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


def mean(values: Sequence[float]) -> float:
    """The mean, nan of nothing."""
    return sum(values) / len(values) if values else math.nan


def ordered(tasks: set[str]) -> list[str]:
    """Tasks in the order of the paper's table, others after them."""
    return [*(task for task in TASKS if task in tasks), *sorted(tasks - TASKS.keys())]


def layer_of(probed: Probed) -> int:
    """The number of the layer that is probed alone, -1 where it is not one layer."""
    kind, _, layer = probed.input.partition(":")
    return int(layer) if kind == "layer" and not probed.floor else -1


def figure(rows: Sequence[Row]) -> Figure:
    """Return scores by task and model: a row a task, a mark a model with its 95 % interval, floors hollow."""
    import matplotlib.style
    from matplotlib.figure import Figure

    scores = Scores(rows)
    names = scores.names
    source = scores.inputs[0]
    columns = scores.columns(source)
    tasks = [task for task, scoring in scores.tasks if scoring == "all"]
    with matplotlib.style.context(["default", STYLE, {"axes.grid.axis": "x"}]):
        drawing = Figure(figsize=(8.2, 1.6 + len(tasks) * (0.22 + 0.13 * len(columns))), layout="constrained")
        axes = drawing.subplots()
        for place, probed in enumerate(columns):
            offset = (place - (len(columns) - 1) / 2) * 0.8 / max(4, len(columns))
            found = [scores.score(probed, task, "all") for task in tasks]
            colour = MUTED if probed.floor else LINES[models_before(columns, place) % len(LINES)]
            axes.errorbar(
                [score.value for score in found],
                [row + offset for row in range(len(tasks))],
                xerr=[[score.value - score.low for score in found], [score.high - score.value for score in found]],
                linestyle="none",
                color=colour,
                marker=MARKERS[place % len(MARKERS)],
                markersize=6,
                markerfacecolor=PAPER if probed.floor else colour,
                elinewidth=1.2,
                label=column_name(probed, source, names),
            )
        axes.set_yticks(range(len(tasks)), [task_name(task, "all") for task in tasks])
        axes.set_ylim(len(tasks) - 0.45, -0.55)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("F1, percent")
        axes.set_title(f"Edge probes, {source}", loc="left", fontsize=12, fontweight="bold", pad=22)
        detail = f"{scores.split} set; bars: 95 % intervals over sentences; hollow: floors"
        axes.annotate(detail, (0, 1), (0, 8), "axes fraction", "offset points", color=MUTED, fontsize=9)
        drawing.legend(loc="outside lower center", ncols=min(4, len(columns)), frameon=False, fontsize=9)
    return drawing


def models_before(columns: Sequence[Probed], place: int) -> int:
    """How many models, floors left out, stand before a column: its colour."""
    return sum(not probed.floor for probed in columns[:place])


@dataclass(frozen=True)
class Line:
    """A line of a panel by layer, or by portion; `center` marks a place on that axis, nan for none."""

    name: str
    floor: bool
    layers: Sequence[float]
    values: Sequence[float]
    center: float = math.nan


def mix_figure(mixes: Sequence[Row], what: str) -> Figure:
    """Return `weights`, or `shares` of length, by layer: a panel a task, a triangle at the center of gravity."""
    models = list(dict.fromkeys(mix["model"] for mix in mixes))
    names = shown_names(models, models[0])
    center = {"weights": "center", "shares": "center_of_shares"}[what]

    def lines(task: str) -> Iterator[Line]:
        for model in models:
            own = [mix for mix in mixes if (mix["task"], mix["model"]) == (task, model)]
            if own:
                values = [mean(values) for values in zip(*(mix[what] for mix in own), strict=True)]
                middle = mean([mix[center] for mix in own])
                yield Line(names[model], own[0]["floor"], own[0]["layers"], values, middle)

    title = {"weights": "What the probes mix", "shares": "What the probes mix, by share of length"}[what]
    label = {"weights": "Weight", "shares": "Share"}[what]
    tasks = ordered({mix["task"] for mix in mixes})
    return panels(tasks, lines, title, "a triangle marks the center of gravity; floors dashed", label, 0.0)


def layer_figure(rows: Sequence[Row]) -> Figure:
    """Return F1 by layer: a panel a task, a line a model."""
    scores = Scores(rows)
    names = scores.names

    def lines(task: str) -> Iterator[Line]:
        for model, floor in dict.fromkeys((p.model, p.floor) for p in scores.probed):
            own = [p for p in scores.probed if (p.model, p.floor) == (model, floor) and p.input.startswith("layer:")]
            if own:
                found = [scores.score(probed, task, "all").value for probed in own]
                yield Line(names[model], floor, [int(p.input.partition(":")[2]) for p in own], found)

    tasks = [task for task, scoring in scores.tasks if scoring == "all"]
    detail = f"{scores.split} set; floors dashed; every panel has an axis of its own"
    return panels(tasks, lines, "Edge probes by layer", detail, "F1, percent", None)


def panels(
    tasks: Sequence[str],
    lines: Callable[[str], Iterator[Line]],
    title: str,
    detail: str,
    label: str,
    bottom: float | None,
    along: str = "Layer (0 = embeddings)",
) -> Figure:
    """Return a panel a task, four in a row, lines named below; where `bottom` is given all share an axis from there."""
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
            grid[0, 0].set_ylim(bottom=bottom)
        for axes in grid[:, 0]:
            axes.set_ylabel(label)
        for axes in grid.flat[max(0, len(tasks) - across) : len(tasks)]:
            axes.set_xlabel(along)
            axes.tick_params(labelbottom=True)
        drawing.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=12, fontweight="bold")
        drawing.text(0.01, 1 - 0.36 / drawing.get_figheight(), detail, color=MUTED, fontsize=9, va="top")
        handles, given = grid[0, 0].get_legend_handles_labels()
        drawing.legend(handles, given, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return drawing


def draw_lines(axes: Axes, found: Sequence[Line]) -> None:
    """Draw the lines of one panel."""
    from matplotlib.ticker import MaxNLocator

    models = 0
    for line in found:
        colour = MUTED if line.floor else LINES[models % len(LINES)]
        axes.plot(
            line.layers,
            line.values,
            color=colour,
            linestyle="--" if line.floor else DASHES[models // len(LINES) % len(DASHES)],
            linewidth=1.2 if line.floor else 1.7,
            marker="" if line.floor else MARKERS[models % len(MARKERS)],
            markersize=4,
            label=fit(line.name, 30),
        )
        if math.isfinite(line.center):
            axes.plot(
                [line.center], [0.035], marker="^", color=colour, markersize=6, transform=axes.get_xaxis_transform()
            )
        models += not line.floor
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
