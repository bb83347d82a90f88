"""Shared parts of the terminal tables: an empty table, cells, ASCII spellings of marks, a line of text.

Texts reach the terminal only as `Text` objects made here, of which rich reads no markup, and which hold no character
that a terminal would obey.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertft.untrusted import shown


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text without markup, wrapped at words, in ASCII where the console needs it."""
    console.print(cell(text, console.options.ascii_only, style))


def cell(text: str, ascii_only: bool = False, style: str = "") -> Text:
    """Return a text as a cell of a table: as it is, but for control characters, which become escapes."""
    text = shown(text)
    return Text(plain_marks(text) if ascii_only else text, style=style)


def plain_marks(text: str) -> str:
    """Return a text with the special characters of this package spelled in ASCII."""
    return text.translate({ord("±"): "+/-", ord("–"): "-", ord("→"): "->", ord("…"): "...", ord("σ"): "sd"})


def empty_table(console: Console) -> Table:
    """Return an empty table in the style of this package."""
    style = box.ASCII2 if console.options.ascii_only else box.SIMPLE_HEAD
    return Table(box=style, show_edge=False, pad_edge=False)
