"""The page of `bertft score`: the findings, the figures, the scores with their intervals, and how to read them.

This module prepares the values; the template `page.html.jinja` extends that of `bertft.report.page`, with the prose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bertft.records import Row
from bertft.report.drawing import LINES
from bertft.report.page import MOST_FINDINGS, picture, record, saved, shared, template
from bertft.report.rows import short_names
from bertft.report.score.figure import figure
from bertft.report.score.series import Panel, Series, base_names, findings, headline, panels, series, size, title

FEW_SENTENCES = 50
"""From here on, simulations put the coverage of a 95 % interval within 92 and 97 %; below, at about 90 %."""


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


def page(rows: Sequence[Row], run: Mapping[str, Any], downloads: Mapping[str, bytes]) -> str:
    """Return the report of the rows and their run record as one HTML document; see `bertft.report.page`."""
    curves = series(rows)
    measures = list(dict.fromkeys(curve.measure for curve in curves))
    found = findings(rows)
    figures = {measure: partial(figure, rows, measure, run) for measure in measures}
    return template("score/page.html.jinja").render(
        **shared(),
        stem="scores",
        downloads=saved(downloads),
        base=", ".join(base_names(curves).values()),
        tuned=list(short_names(curve.tuned for curve in curves if curve.n_pairs == 1).values()),
        texts=list(dict.fromkeys(f"{curve.corpus} ({size(curve)})" for curve in curves)),
        headline=headline(rows),
        findings=[(subject[:1].upper() + subject[1:], text) for subject, text in found],
        most_findings=MOST_FINDINGS,
        pictures=[
            picture(figures, measure, f"{title(measure)} by layer, a line for each comparison; the numbers are below.")
            for measure in measures
        ],
        tables=[table(panel) for panel in panels(rows, run)],
        # The mean cosines of the base and of the tuned model share one explanation.
        measures=list(dict.fromkeys("mean-cosine" if m.startswith("mean-cosine") else m for m in measures)),
        averaged=any(curve.n_pairs > 1 for curve in curves),
        cautions=cautions(curves, run),
        record=record(run),
        colours=LINES,
    )


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
