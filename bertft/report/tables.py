"""What the terminal tables share: an empty table, the marks that ASCII terminals can show, a line of text."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def say(console: Console, text: str, style: str = "") -> None:
    """Print a sentence as it stands: no markup, wrapped at words, in the console's characters."""
    console.print(Text(plain_marks(text) if console.options.ascii_only else text, style=style))


def plain_marks(text: str) -> str:
    """Return a text with the marks this package prints spelled in ASCII."""
    return text.translate({ord("±"): "+/-", ord("–"): "-", ord("→"): "->", ord("…"): "...", ord("σ"): "sd"})


def empty_table(console: Console) -> Table:
    """A table in the form of this package."""
    style = box.ASCII2 if console.options.ascii_only else box.SIMPLE_HEAD
    return Table(box=style, show_edge=False, pad_edge=False)


def marks(text: str, console: Console) -> str:
    """A text in the console's characters."""
    return plain_marks(text) if console.options.ascii_only else text
