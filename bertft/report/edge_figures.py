"""The figures of `bertft probe edge`: scores by task, weights of the scalar mix, scores by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bertft.records import Row
from bertft.report.drawing import LINES, MARKERS, MUTED, PAPER, STYLE, Line, legend_name, task_panels
from bertft.report.edge_scores import EdgeTable, ModelInput, column_name, mean, ordered, shown_names
from bertft.report.rows import qualified, task_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(rows: Sequence[Row], run: Mapping[str, Any] = MappingProxyType({})) -> Figure:
    """Draw the scores: a row for each task, a marker with its 95 % interval for each model, hollow for baselines."""
    import matplotlib.style
    from matplotlib.figure import Figure

    table = EdgeTable(rows)
    names = table.names
    source = table.inputs[0]
    columns = table.columns(source)
    tasks = [task for task, scoring in table.tasks if scoring == "all"]
    with matplotlib.style.context(["default", STYLE, {"axes.grid.axis": "x"}]):
        drawing = Figure(figsize=(8.2, 1.6 + len(tasks) * (0.22 + 0.13 * len(columns))), layout="constrained")
        axes = drawing.subplots()
        for index, column in enumerate(columns):
            offset = (index - (len(columns) - 1) / 2) * 0.8 / max(4, len(columns))
            found = [table.score(column, task, "all") for task in tasks]
            colour = MUTED if column.baseline else LINES[models_before(columns, index) % len(LINES)]
            axes.errorbar(
                [score.value for score in found],
                [row + offset for row in range(len(tasks))],
                xerr=[[score.value - score.low for score in found], [score.high - score.value for score in found]],
                linestyle="none",
                color=colour,
                marker=MARKERS[index % len(MARKERS)],
                markersize=6,
                markerfacecolor=PAPER if column.baseline else colour,
                elinewidth=1.2,
                label=legend_name(column_name(column, source, names)),
            )
        axes.set_yticks(range(len(tasks)), [task_name(task, "all") for task in tasks])
        axes.set_ylim(len(tasks) - 0.45, -0.55)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("F1, percent")
        axes.set_title(f"Edge probes, {source}", loc="left", fontsize=12, fontweight="bold", pad=22)
        detail = f"{table.split} set; bars: 95 % intervals over sentences; hollow: baselines"
        axes.annotate(qualified(detail, run), (0, 1), (0, 8), "axes fraction", "offset points", color=MUTED, fontsize=9)
        drawing.legend(loc="outside lower center", ncols=min(4, len(columns)), frameon=False, fontsize=9)
    return drawing


def models_before(columns: Sequence[ModelInput], index: int) -> int:
    """Return the number of columns before this one that are not baselines; it selects the colour."""
    return sum(not column.baseline for column in columns[:index])


def mix_figure(mixes: Sequence[Row], what: str) -> Figure:
    """Draw `weights`, or `shares` of length, by layer: a panel for each task, a triangle at the center of gravity."""
    models = list(dict.fromkeys(mix["model"] for mix in mixes))
    names = shown_names(models, models[0])
    center = {"weights": "center", "shares": "center_of_shares"}[what]

    def lines(task: str) -> Iterator[Line]:
        for model in models:
            own = [mix for mix in mixes if (mix["task"], mix["model"]) == (task, model)]
            if own:
                values = [mean(values) for values in zip(*(mix[what] for mix in own), strict=True)]
                middle = mean([mix[center] for mix in own])
                yield Line(names[model], own[0]["baseline"], own[0]["layers"], values, middle, of_layers=True)

    title = {"weights": "Layer weights of the probes", "shares": "Layer shares of the probes, by length"}[what]
    label = {"weights": "Weight", "shares": "Share"}[what]
    tasks = ordered({mix["task"] for mix in mixes})
    return task_panels(tasks, lines, title, "triangle: center of gravity; baselines dashed", label, 0.0)


def layer_figure(rows: Sequence[Row]) -> Figure:
    """Draw F1 by layer: a panel for each task, a line for each model."""
    table = EdgeTable(rows)
    names = table.names
    of_layer = [own for own in table.model_inputs if own.input.startswith("layer:")]

    def lines(task: str) -> Iterator[Line]:
        for model, baseline in dict.fromkeys((own.model, own.baseline) for own in of_layer):
            points = [own for own in of_layer if (own.model, own.baseline) == (model, baseline)]
            layers = [int(own.input.partition(":")[2]) for own in points]
            values = [table.score(own, task, "all").value for own in points]
            yield Line(names[model], baseline, layers, values, of_layers=True)

    tasks = [task for task, scoring in table.tasks if scoring == "all"]
    detail = f"{table.split} set; baselines dashed; the panels have different y axes"
    return task_panels(tasks, lines, "Edge probes by layer", detail, "F1, percent", None)
