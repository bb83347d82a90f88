"""What the reports share when they read rows: numbers, splits, the names of tasks, short names of models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from bertft.records import Row

NAME = 14
"""Longest name of a model above a column."""

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


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each path or hub name its shortest tail that no other name in the list shares.

    >>> short_names(["runs/mnli/best", "runs/squad/best"])
    {'runs/mnli/best': 'mnli/best', 'runs/squad/best': 'squad/best'}
    """
    parts = {name: PurePath(name).parts or (name,) for name in names}

    def tail(name: str, length: int) -> str:
        return str(PurePath(*parts[name][-length:])) if length < len(parts[name]) else name

    short = {}
    for name in parts:
        lengths = range(1, len(parts[name]) + 1)
        clashes = (any(other != name and tail(other, n) == tail(name, n) for other in parts) for n in lengths)
        short[name] = next((tail(name, n) for n, clash in zip(lengths, clashes, strict=True) if not clash), name)
    return short


def fit(text: str, width: int) -> str:
    """Return a text cut in the middle where it is longer than `width`: both ends of a path tell something."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def shown_split(rows: Sequence[Row]) -> str:
    """The split whose values are shown: test where there is one."""
    return "test" if any(row["split"] == "test" for row in rows) else "dev"


def number(row: Row) -> float:
    """The value of a row; nan for the None of JSON."""
    return math.nan if row["value"] is None else float(row["value"])


def task_name(task: str, scoring: str) -> str:
    """A task as it stands in a table.

    >>> task_name("coref", "all"), task_name("coref", "reported")
    ('Coreference', '  label 1 alone')
    """
    return TASKS.get(task, task) if scoring == "all" else f"  {REPORTED.get(task, scoring)}"
