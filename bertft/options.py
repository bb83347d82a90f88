"""Checks of options. Each returns the checked value, or raises an `OptionError` with what was given and expected."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bertft.errors import OptionError

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Types of weights and activations."""

FORMATS = ("png", "svg", "pdf")
"""Formats of figures."""

LEAST_TOKENS = 3
"""The fewest tokens to draw: three have three pairs, the fewest that can be correlated."""

_RANGE = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")
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


def rate(value: Any) -> float:
    """Return a learning rate, which is between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise OptionError(f"learning_rate is {value!r}; give a number between 0 and 1, such as 3e-5")
    return float(value)


def share(name: str, value: Any) -> float:
    """Return a number above 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise OptionError(f"{name} is {value!r}; give a share above 0 and below 1")
    return float(value)


def check_changes(*, truncate: Any, lora: Any) -> None:
    """Raise `OptionError` for changes of a model that exclude each other, or are out of range."""
    optional_integer("truncate", truncate, least=1)
    optional_integer("lora", lora, least=1)
    if lora is not None and truncate is not None:
        raise OptionError("an adapter is saved without the blocks that it belongs to; give either truncate or lora")


def check_bases(bases: Any, *, compare: bool) -> None:
    """Raise `OptionError` where bases are to be compared with one another and there are not at least two.

    bases: one base, or a list of them.
    """
    if compare and not (isinstance(bases, Sequence) and not isinstance(bases, str)):
        raise OptionError("only one base was given; give a list of bases to compare them with one another")


def check_sweep(*, freeze: Any, truncate: Any) -> None:
    """Raise `OptionError` where there is nothing to sweep, and for cells that are neither numbers nor ranges."""
    if freeze is None and truncate is None:
        raise OptionError("there is nothing to sweep; give layers to freeze, numbers of blocks to truncate to, or both")
    for name, asked in (("freeze", freeze), ("truncate", truncate)):
        if asked is not None:
            cell_ranges(name, asked)


def cell_ranges(name: str, asked: str | int | Iterable[int]) -> list[tuple[int, int]] | None:
    """Return the first and last number of each part of the cells asked for, or None for "all".

    >>> cell_ranges("freeze", "0,3-5"), cell_ranges("truncate", "all")
    ([(0, 0), (3, 5)], None)
    """
    return _ranges(asked, f"cannot {name} {{}}; write all, a number, or a list such as 1,3-5")


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
    return _ranges(layers, f"{{}} is not a layer; {known}give all, a number, or a list such as 0,3-5,-1")


def _ranges(asked: str | int | Iterable[int], error: str) -> list[tuple[int, int]] | None:
    if asked == "all":
        return None
    ranges = []
    parts = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, Iterable) else [asked]
    for part in parts:
        match = _RANGE.fullmatch(str(part))
        if match is None:
            raise OptionError(error.format(repr(part)))
        ranges.append((int(match[1]), int(match[1] if match[2] is None else match[2])))
    return ranges


def device_name(name: str) -> str:
    """Return the name of a device in a form that is known; whether it is there is another question."""
    if not _DEVICE.fullmatch(name):
        meant = suggestion("cuda" if name in ("gpu", "nvidia") else name, ("auto", "cpu", "cuda"))
        raise OptionError(f"unknown device {name!r}{meant}; use auto, cpu, cuda or cuda:N")
    return name
