"""Checked options: numbers, counts and lists, or an `OptionError` that says what was given and what is wanted."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from bertft.errors import OptionError


def integer(name: str, value: Any, *, least: int, also: str = "") -> int:
    """The value, or an `OptionError` where it is no whole number that is at least `least`."""
    number = operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else None
    if number is None or number < least:
        raise OptionError(f"{name} is {value!r}; give a whole number that is at least {least}{also}")
    return number


def several(name: str, given: Any, kind: Any) -> list[Any]:
    """One thing of a kind, or several, as a list; raises `OptionError` for anything else."""
    items = [given] if isinstance(given, kind) else list(given) if isinstance(given, Iterable) else None
    if items is None or not all(isinstance(item, kind) for item in items):
        raise OptionError(f"{name} is {given!r}; give one, or a list of them")
    return items


def count(name: str, value: int | str | None, *, least: int) -> int | None:
    """A whole number that is at least `least`, or None for "all"; raises `OptionError` for anything else."""
    return None if value is None or value == "all" else integer(name, value, least=least, also=", or 'all'")
