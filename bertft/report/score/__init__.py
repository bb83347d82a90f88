"""The report of `bertft score`: tables for the terminal, a figure for each measure, and an HTML page.

`series` groups the rows into curves and states the findings, `table` prints them, `figure` draws them, and `page`
writes the HTML. All take the rows and the run record as plain dicts and lists.
"""

from __future__ import annotations

from typing import Any

from bertft.files import ResultFiles
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.score.series import Series, series

__all__ = ["Row", "Series", "files", "series"]


def files(rows: list[Row], run: dict[str, Any]) -> ResultFiles:
    """Return `scores.json`, `scores.csv`, a figure for each measure (`rsa.png`) and `report.html`."""
    from bertft.report.drawing import png_of
    from bertft.report.score.figure import figure
    from bertft.report.score.page import page

    measures = dict.fromkeys(curve.measure for curve in series(rows))
    return ResultFiles(
        {"scores.json": json_bytes(rows, run), "scores.csv": csv_bytes(rows)},
        {
            **{f"{measure}.png": png_of(figure, rows, measure) for measure in measures},
            "report.html": lambda: page(rows, run).encode(errors="backslashreplace"),
        },
    )
