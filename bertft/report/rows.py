"""Shared parts of reading rows: numbers, splits, names of tasks, short names of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bertft.records import Row, as_float
from bertft.untrusted import shown

NAME = 14
"""Longest name of a model in the title of a column, in characters."""

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
"""Tasks in the order of the paper's table, with their names there."""

Z95 = 1.959963984540054
"""Half the width of a 95 % interval in standard errors, for a normal distribution."""

NEAR = 0.01
"""What is at most this much above a baseline has not learnt; what is at most this much below another value keeps it."""

WHOLE = "all"
"""The kind of the rows of `diff` that take all tensors of a layer together."""

REPORTED = {"coref": "label 1 alone", "srl": "core and modifiers", "rel": "without Other"}
"""The labels that Tenney et al. 2019 report, for the tasks where they do not report all."""


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each path or hub name its shortest tail that is unique in the list, control characters as escapes.

    >>> short_names(["runs/mnli/best", "runs/squad/best"])
    {'runs/mnli/best': 'mnli/best', 'runs/squad/best': 'squad/best'}
    """
    parts = {name: PurePath(name).parts or (name,) for name in names}

    def tail(name: str, length: int) -> str:
        return str(PurePath(*parts[name][-length:])) if length < len(parts[name]) else name

    short: dict[str, str] = {}
    for name in parts:
        lengths = range(1, len(parts[name]) + 1)
        clashes = (any(other != name and tail(other, n) == tail(name, n) for other in parts) for n in lengths)
        label = shown(next((tail(name, n) for n, clash in zip(lengths, clashes, strict=True) if not clash), name))
        while label in short.values():  # an escape in one name, and the same characters in another
            label += "'"
        short[name] = label
    return short


def fit(text: str, width: int) -> str:
    """Return the text, shortened in the middle where it is longer than `width`; both ends of a path are informative."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def conditions(run: Mapping[str, Any]) -> str:
    """Return the options of a run that change its numbers and differ from the default, for a title; "" if none does.

    >>> conditions({"options": {"standardize": True, "special_tokens": False, "dtype": "float16"}})
    'standardized, float16'
    """
    options = run.get("options", {})
    found = [text for name, text in _SWITCHES.items() if options.get(name) is True]
    found += [options["dtype"]] if options.get("dtype", "float32") != "float32" else []
    found += [f"{options['pooling']} subwords"] if options.get("pooling", "mean") != "mean" else []
    found += [f"recipe of {options['preset']}"] if options.get("preset", "paper") != "paper" else []
    found += [f"frozen to block {options['freeze']}"] if options.get("freeze", -1) != -1 else []
    found += [f"{text} {options[name]}" for name, text in _SIZES.items() if options.get(name) is not None]
    return ", ".join(found)


_SWITCHES = {
    "standardize": "standardized",
    "special_tokens": "with special tokens",
    "single": "first texts alone",
}
_SIZES = {"truncate": "blocks kept:", "lora": "adapters of rank"}


def qualified(text: str, run: Mapping[str, Any]) -> str:
    """Return a text after the conditions of a run, where there are any: what is cut for want of room is the text."""
    told = conditions(run)
    return f"{told}; {text}" if told else text


def shown_split(rows: Sequence[Row]) -> str:
    """Return the split that is reported: test where there is one, else dev."""
    return "test" if any(row["split"] == "test" for row in rows) else "dev"


def number(row: Row) -> float:
    """Return the value of a row, with None (an undefined number read back from JSON) as nan."""
    return as_float(row["value"])


def task_name(task: str, scoring: str) -> str:
    """Return the name of a task in a table; the reported labels of a task are an indented row.

    >>> task_name("coref", "all"), task_name("coref", "reported")
    ('Coreference', '  label 1 alone')
    """
    return TASKS.get(task, shown(task)) if scoring == "all" else f"  {REPORTED.get(task, scoring)}"
