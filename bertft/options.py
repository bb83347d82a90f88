"""Checks of options. Each returns the checked value, or raises an `OptionError` with what was given and expected."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from bertft.errors import OptionError


def integer(name: str, value: Any, *, least: int, also: str = "") -> int:
    """Return a whole number that is at least `least`; `also` is added to the message of the error."""
    number = operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else None
    if number is None or number < least:
        raise OptionError(f"{name} is {value!r}; give a whole number that is at least {least}{also}")
    return number


def optional_integer(name: str, value: Any, *, least: int) -> int | None:
    """Return a whole number that is at least `least`, or None for None."""
    return None if value is None else integer(name, value, least=least)


def count(name: str, value: int | str | None, *, least: int) -> int | None:
    """Return a whole number that is at least `least`, or None for None and "all"."""
    return None if value is None or value == "all" else integer(name, value, least=least, also=", or 'all'")


def integers(name: str, given: Any, *, least: int) -> tuple[int, ...]:
    """Return one or several whole numbers without repetitions, in their order; there must be at least one.

    >>> integers("seed", [1, 2, 1], least=0), integers("seed", 3, least=0)
    ((1, 2), (3,))
    """
    items = list(given) if isinstance(given, Iterable) else [given]
    if not items:
        raise OptionError(f"no {name} was given; give at least one")
    return tuple(dict.fromkeys(integer(name, item, least=least) for item in items))


def several(name: str, given: Any, kind: Any) -> list[Any]:
    """Return one value of a type, or several, as a list; `kind` is a type or a tuple of types."""
    items = [given] if isinstance(given, kind) else list(given) if isinstance(given, Iterable) else None
    if items is None or not all(isinstance(item, kind) for item in items):
        raise OptionError(f"{name} is {given!r}; give one, or a list of them")
    return items


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """Return a value that is one of those known."""
    known = list(known)
    if value not in known:
        raise OptionError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    return str(value)
