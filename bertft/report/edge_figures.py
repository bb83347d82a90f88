"""The pictures of `bertft probe edge`: scores by task, weights of the scalar mix, scores by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bertft.records import Row
from bertft.report.drawing import LINES, MARKERS, MUTED, PAPER, STYLE, Line, panels
from bertft.report.edge_scores import Probed, Scores, column_name, mean, ordered, shown_names
from bertft.report.rows import task_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
                yield Line(names[model], own[0]["baseline"], own[0]["layers"], values, middle)

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
