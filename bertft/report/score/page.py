"""The report page of `bertft score`: one HTML file that needs nothing else, neither network access nor scripts.

The page shows what was compared, the main finding, the figures, the scores with their intervals, how to read them, what
makes them less reliable, and the run record. The style sheet and the figures are inline. The page follows the reader's
light or dark setting, and wide tables scroll on a phone.

This module prepares the values; the template `page.html.jinja` holds the HTML and the prose. Jinja escapes
every text; only the style sheet and the figures, which bertft and matplotlib make, are inserted as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2

from bertft.records import TOLD, Row, plain
from bertft.report.drawing import LINES, svg
from bertft.report.rows import short_names
from bertft.report.score.figure import figure
from bertft.report.score.series import Panel, Series, base_names, findings, headline, panels, series, size, title

FEW_SENTENCES = 50
"""From here on, simulations put the coverage of a 95 % interval within 92 and 97 %; below, at about 90 %."""

MOST_FINDINGS = 6
"""A longer list of findings is collapsed."""


@dataclass(frozen=True)
class Picture:
    """A figure as an `<svg>` element, the text for readers who cannot see it, and whether it has several panels."""

    svg: str
    alternative: str
    wide: bool


@dataclass(frozen=True)
class Cell:
    """A score in the table: its bar in percent, the number, and its ± or σ ("" where there is none)."""

    share: float
    number: str
    half_width: str


@dataclass(frozen=True)
class ScoreTable:
    """The table of a panel: a row for each layer, a column for each name, None where a model lacks the layer."""

    heading: str
    detail: str
    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[Cell | None, ...]], ...]


def page(rows: Sequence[Row], run: Mapping[str, Any]) -> str:
    """Return the report of the rows and their run record as one self-contained HTML document."""
    curves = series(rows)
    measures = list(dict.fromkeys(curve.measure for curve in curves))
    found = findings(rows)
    return template().render(
        css=packaged("page.css"),
        base=", ".join(base_names(curves).values()),
        tuned=list(short_names(curve.tuned for curve in curves if curve.n_pairs == 1).values()),
        texts=list(dict.fromkeys(f"{curve.corpus} ({size(curve)})" for curve in curves)),
        headline=headline(rows),
        findings=[(subject[:1].upper() + subject[1:], text) for subject, text in found],
        most_findings=MOST_FINDINGS,
        pictures=[picture(rows, measure) for measure in measures],
        tables=[table(panel) for panel in panels(rows)],
        # The mean cosines of the base and of the tuned model share one explanation.
        measures=list(dict.fromkeys("mean-cosine" if m.startswith("mean-cosine") else m for m in measures)),
        averaged=any(curve.n_pairs > 1 for curve in curves),
        cautions=cautions(curves, run),
        record=record(run),
        colours=LINES,
        version=plain(run).get("versions", {}).get("bertft", ""),
    )


def template() -> jinja2.Template:
    """Return the template of the page, with autoescaping on."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(packaged("page.html.jinja"))


def packaged(name: str) -> str:
    """Return the text of a file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def picture(rows: Sequence[Row], measure: str) -> Picture:
    """Return the figure of one measure."""
    drawing = figure(rows, measure)
    alternative = f"{title(measure)} by layer, one line for each comparison; the numbers are in the table below."
    return Picture(svg(drawing, measure), alternative, len(drawing.axes) > 1)


def table(panel: Panel) -> ScoreTable:
    """Return the table of a panel."""
    known = [dict(zip(c.layers, zip(c.values, c.estimates(), strict=True), strict=True)) for c in panel.lines.values()]
    layers = sorted({layer for numbers in known for layer in numbers})
    return ScoreTable(
        panel.heading,
        panel.detail,
        tuple(panel.lines),
        tuple(
            (layer, tuple(cell(*numbers[layer]) if layer in numbers else None for numbers in known)) for layer in layers
        ),
    )


def cell(value: float, estimate: str) -> Cell:
    """Return the table cell of a value and of its text, such as `0.8123 ± 0.0078`."""
    number, _, half_width = estimate.partition(" ")
    if number in ("undefined", "1"):
        number, half_width = estimate, ""
    share = 100 * min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    return Cell(share, number, half_width)


def cautions(curves: Sequence[Series], run: Mapping[str, Any]) -> list[str]:
    """Return the notes of the run, and what makes its scores less reliable."""
    found = [str(note) for note in run.get("notes", ())]
    few = min((curve.n_sentences for curve in curves), default=FEW_SENTENCES)
    if few < FEW_SENTENCES:
        found.append(f"At least one curve rests on only {few} sentences: its intervals cover about 90 %, not 95 %.")
    if any(not math.isfinite(value) for curve in curves for value in curve.values):
        found.append("An undefined score means that all pairs of tokens were equally similar in one of the models.")
    return found


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
