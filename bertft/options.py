"""Checks of options. Each returns the checked value, or raises an `OptionError` with what was given and expected."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable
from typing import Any

from bertft.errors import OptionError

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Types of weights and activations."""

_LAYERS = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


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
        raise OptionError(f"unknown {name} {value!r}{suggestion(value, known)}; choose one of {', '.join(known)}")
    return str(value)


def suggestion(value: Any, known: Iterable[str]) -> str:
    """Return a question for a message, where a known name resembles a value, or else an empty string.

    >>> suggestion("float23", ["float32", "float64"]), suggestion("x", ["float32"])
    (" (did you mean 'float32'?)", '')
    """
    close = difflib.get_close_matches(str(value), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def layer_ranges(layers: str | int | Iterable[int], known: str = "") -> list[tuple[int, int]] | None:
    """Return the first and last layer of each part of a choice of layers as given, or None for "all".

    `known` is added to the message of the error.

    >>> layer_ranges("0,3-5,-1"), layer_ranges(2), layer_ranges("all")
    ([(0, 0), (3, 5), (-1, -1)], [(2, 2)], None)
    """
    if layers == "all":
        return None
    ranges = []
    parts = layers.split(",") if isinstance(layers, str) else layers if isinstance(layers, Iterable) else [layers]
    for part in parts:
        match = _LAYERS.fullmatch(str(part))
        if match is None:
            raise OptionError(f"{part!r} is not a layer; {known}give all, a number, or a list such as 0,3-5,-1")
        first, last = match.groups()
        ranges.append((int(first), int(last if last is not None else first)))
    return ranges


def device_name(name: str) -> str:
    """Return the name of a device in a form that is known; whether it is there is another question."""
    if not _DEVICE.fullmatch(name):
        meant = suggestion("cuda" if name in ("gpu", "nvidia") else name, ("auto", "cpu", "cuda"))
        raise OptionError(f"unknown device {name!r}{meant}; use auto, cpu, cuda or cuda:N")
    return name
