"""The report of `bertft score`: tables for the terminal, a figure for each measure, and an HTML page.

`series` groups the rows into curves and states the findings, `table` prints them, `figure` draws them, and `page`
writes the HTML. All take the rows and the run record as plain dicts and lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bertft.records import Row
from bertft.report.score.series import Series, series

if TYPE_CHECKING:
    from bertft.report.drawing import Figures

__all__ = ["Row", "Series", "figures", "series"]


def figures(rows: Sequence[Row], run: dict[str, Any]) -> Figures:
    """Return a figure for each measure, such as `rsa`."""
    from bertft.report.score.figure import figure

    return {
        measure: partial(figure, rows, measure, run)
        for measure in dict.fromkeys(curve.measure for curve in series(rows))
    }
