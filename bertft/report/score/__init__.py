"""The report of `bertft score`: tables for the terminal, a figure for each measure, and an HTML page.

`series` groups the rows into curves and states the findings, `table` prints them, `figure` draws them, and `page`
writes the HTML. All take the rows and the run record as plain dicts and lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.score.series import Series, series

__all__ = ["Row", "Series", "series", "write"]


def write(rows: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `scores.json`, `scores.csv`, a figure for each measure (`rsa.png`) and `report.html`; return the paths.

    All files are written, or none. Raises `BertftError` where the directory cannot be written.

    >>> paths = write(scores.rows, scores.run, "out")  # doctest: +SKIP
    """
    from bertft.report.drawing import png
    from bertft.report.score.figure import figure
    from bertft.report.score.page import page

    files = {"scores.json": json_bytes(rows, run), "scores.csv": csv_bytes(rows)}
    for measure in dict.fromkeys(curve.measure for curve in series(rows)):
        files[f"{measure}.png"] = png(figure(rows, measure))
    files["report.html"] = page(rows, run).encode(errors="backslashreplace")
    return write_files(folder, files)
