"""The rows of `bertft probe edge` as a table: a row a task, a column a model and input, differences from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bertft.records import Row
from bertft.report.rows import NAME, TASKS, fit, number, short_names, shown_split


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
            Probed(*key) for key in dict.fromkeys((row["model"], row["baseline"], row["input"]) for row in self.rows)
        ]
        self._of: dict[tuple[Probed, str, str, str], list[Row]] = {}
        for row in self.rows:
            key = (Probed(row["model"], row["baseline"], row["input"]), row["task"], row["scoring"], row["measure"])
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
