"""Shared parts of the terminal tables: an empty table, ASCII spellings of marks, a line of text."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text without markup, wrapped at words, in ASCII where the console needs it."""
    console.print(Text(plain_marks(text) if console.options.ascii_only else text, style=style))


def plain_marks(text: str) -> str:
    """Return a text with the special characters of this package spelled in ASCII."""
    return text.translate({ord("±"): "+/-", ord("–"): "-", ord("→"): "->", ord("…"): "...", ord("σ"): "sd"})


def empty_table(console: Console) -> Table:
    """Return an empty table in the style of this package."""
    style = box.ASCII2 if console.options.ascii_only else box.SIMPLE_HEAD
    return Table(box=style, show_edge=False, pad_edge=False)


def marks(text: str, console: Console) -> str:
    """Return a text in ASCII where the console needs it."""
    return plain_marks(text) if console.options.ascii_only else text
