"""The page of a set of results: one HTML file that needs nothing else and asks no other host for anything.

It begins with the findings, then shows what makes them less reliable, the figures, the table, and the run record. The
style sheet, the figures and the files to save are inside. The page follows the reader's light or dark setting; wide
tables and figures scroll on a phone. A script of a few lines sorts tables; without scripts they are plain tables.

The template `page.html.jinja` holds the HTML. Jinja escapes every text; only the style sheet, the script and the
figures, which bertft and matplotlib make, are inserted as they are. Features with a page of their own extend it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from bertft.records import TOLD, plain
from bertft.report.drawing import Figures, svg

TYPES = {"csv": "text/csv", "tex": "application/x-tex", "md": "text/markdown"}
"""The media type of a file to save, by its ending."""

MOST_FINDINGS = 6
"""A longer list of findings is collapsed."""

WIDE = 7.0
"""A figure that is wider, in inches, gets more room than the text, and scrolls where there is none."""


@dataclass(frozen=True)
class Picture:
    """A figure as an `<svg>` element, the text for readers who cannot see it, and its width in inches."""

    svg: str
    alternative: str
    inches: float
    wide: bool


@dataclass(frozen=True)
class File:
    """A file inside a page, to be saved under its name."""

    name: str
    address: str


def page(
    *,
    title: str,
    lead: str,
    findings: Sequence[str],
    cautions: Sequence[str],
    figures: Figures,
    table: tuple[Sequence[str], Sequence[Sequence[str]], int, Sequence[str]],
    downloads: Mapping[str, bytes],
    record: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    stem: str,
) -> str:
    """Return a page of findings, figures and a table.

    table: the heading, the lines, how many cells at the start of a line are names, and the notes below the table.
    """
    heading, lines, names, notes = table
    return template("page.html.jinja").render(
        title=title,
        lead=lead,
        findings=findings,
        most_findings=MOST_FINDINGS,
        cautions=cautions,
        pictures=[picture(figures, name, f"{title}: {name}; the numbers are in the table below.") for name in figures],
        heading=heading,
        lines=lines,
        names=names,
        notes=notes,
        downloads=saved(downloads),
        record=record,
        stem=stem,
        **shared(),
    )


def shared() -> dict[str, str]:
    """Return what every page has: its style sheet and its script."""
    return {"css": packaged("page.css"), "script": packaged("page.js")}


def picture(figures: Figures, name: str, alternative: str) -> Picture:
    """Return a figure for a page."""
    drawing = figures[name]()
    inches = drawing.get_figwidth()
    return Picture(svg(drawing, name), alternative, inches, inches > WIDE)


def saved(files: Mapping[str, bytes]) -> list[File]:
    """Return files as addresses that hold their content."""
    found = []
    for name, content in files.items():
        kind = TYPES[name.rpartition(".")[2]]
        found.append(File(name, f"data:{kind};charset=utf-8;base64,{base64.b64encode(content).decode()}"))
    return found


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of this package, with autoescaping on."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(packaged),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def packaged(name: str) -> str:
    """Return the text of a file of this package."""
    return files("bertft.report").joinpath(*name.split("/")).read_text(encoding="utf-8")


def record(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the run record as (heading, entries) parts, the single values first, without a heading."""
    parts: list[tuple[str, list[tuple[str, str]]]] = []
    single: list[tuple[str, str]] = []
    for key, value in plain(run).items():
        if key == "notes" or key in TOLD:
            continue
        if isinstance(value, dict) and value:
            parts.append((key.replace("_", " ").capitalize(), [(name, words(item)) for name, item in value.items()]))
        else:
            single.append((key, words(value)))
    return [("", single), *parts] if single else parts


def words(value: Any) -> str:
    """Return a value of the run record as text."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(words(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
