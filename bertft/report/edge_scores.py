"""The rows of `bertft probe edge` as a table: a row for each task, a column for each model and input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bertft.records import Row
from bertft.report.rows import NAME, TASKS, fit, number, short_names, shown_split


@dataclass(frozen=True)
class ModelInput:
    """A model and the input of its probes: the subject of a column of the table, or of a line of a figure."""

    model: str
    baseline: bool
    input: str


@dataclass(frozen=True)
class EdgeScore:
    """A value in percent with the ends of its interval, nan where they are unknown."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "undefined"
        return (
            f"{self.value:.1f} ± {(self.high - self.low) / 2:.1f}" if math.isfinite(self.low) else f"{self.value:.1f}"
        )


class EdgeTable:
    """The rows of the split that is reported, indexed by model, input, task and measure."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.split = shown_split(rows)
        self.rows = [row for row in rows if row["split"] == self.split]
        known = dict.fromkeys((row["task"], row["scoring"]) for row in self.rows)
        order = [*TASKS, *(task for task, _ in known)]
        self.tasks = sorted(known, key=lambda pair: (order.index(pair[0]), pair[1] != "all"))
        self._of: dict[tuple[ModelInput, str, str, str], list[Row]] = {}
        for row in self.rows:
            own = ModelInput(row["model"], row["baseline"], row["input"])
            self._of.setdefault((own, row["task"], row["scoring"], row["measure"]), []).append(row)
        self.model_inputs = list(dict.fromkeys(own for own, *_ in self._of))

    @property
    def inputs(self) -> list[str]:
        """The inputs that get a table: all but single layers, or the first layer where there are only those."""
        found = list(dict.fromkeys(own.input for own in self.model_inputs if not own.baseline))
        return [name for name in found if not name.startswith("layer:")] or found[:1]

    @property
    def base(self) -> str:
        """The model that the others are compared with."""
        return next(own.model for own in self.model_inputs if not own.baseline)

    @property
    def names(self) -> dict[str, str]:
        """The short names of the models."""
        return shown_names(list(dict.fromkeys(own.model for own in self.model_inputs)), self.base)

    def score(self, own: ModelInput, task: str, scoring: str, measure: str = "f1") -> EdgeScore:
        """Return the mean over seeds, with the means of both ends of the intervals."""
        rows = self._of.get((own, task, scoring, measure), [])
        if not rows:
            return EdgeScore(math.nan, math.nan, math.nan)
        ends = ([number({"value": row.get(name)}) for row in rows] for name in ("value", "low", "high"))
        return EdgeScore(*(100 * sum(values) / len(values) for values in ends))

    def columns(self, source: str) -> list[ModelInput]:
        """Return the columns for one input: the base, the baselines, the other models.

        A baseline whose input no model has gets a column in the table of the first input.
        """
        first = source == self.inputs[0]
        shown = [own for own in self.model_inputs if own.input == source or (first and self.separate(own))]
        base = [own for own in shown if own.model == self.base and not own.baseline]
        others = [own for own in shown if not own.baseline and own not in base]
        return [*base, *(own for own in shown if own.baseline), *others]

    def separate(self, own: ModelInput) -> bool:
        """Return whether this is a baseline with an input that no model has."""
        return own.baseline and own.input not in {other.input for other in self.model_inputs if not other.baseline}


def column_name(own: ModelInput, source: str, names: Mapping[str, str]) -> str:
    """Return the title of a column: the model's name, or the input of a baseline with an input of its own."""
    return fit(names[own.model], NAME) if own.input == source else own.input


def shown_names(models: Sequence[str], base: str) -> dict[str, str]:
    """Return short names of the models; randomly initialised copies of the base lose the base's name.

    >>> shown_names(["runs/base", "runs/mnli", "base-random-0"], "runs/base")
    {'runs/base': 'base', 'runs/mnli': 'mnli', 'base-random-0': 'random-0'}
    """
    names = short_names(models)
    return {model: name.removeprefix(f"{names[base]}-") if model != base else name for model, name in names.items()}


def mean(values: Sequence[float]) -> float:
    """Return the mean, or nan for no values."""
    return sum(values) / len(values) if values else math.nan


def ordered(tasks: set[str]) -> list[str]:
    """Return the tasks in the order of the paper's table, other tasks last."""
    return [*(task for task in TASKS if task in tasks), *sorted(tasks - TASKS.keys())]


def layer_of(own: ModelInput) -> int:
    """Return the number of the layer where the input of a model is a single layer, else -1."""
    kind, _, layer = own.input.partition(":")
    return int(layer) if kind == "layer" and not own.baseline else -1
