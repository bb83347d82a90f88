"""Turn scores into what people read: a table, a picture, a page, and the files that hold them.

Everything here takes the rows and the run record of a score as plain dicts and lists, and knows nothing of models:
`series` groups rows into curves and words, `terminal` prints, `figures` draws, `page` writes HTML, `files` puts
files on disk, whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertft.files import write_files
from bertft.records import Row, csv_bytes, json_bytes
from bertft.report.series import Series, series

__all__ = ["Row", "Series", "series", "write"]


def write(rows: list[Row], run: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `scores.json`, `scores.csv`, one picture a measure (`rsa.png`) and `report.html` to a folder.

    The files appear together or not at all; a folder that cannot be written raises `BertftError`. Returns the paths.

    >>> paths = write(scores.rows, scores.run, "out")  # doctest: +SKIP
    """
    from bertft.report.drawing import png
    from bertft.report.figures import figure
    from bertft.report.page import page

    files = {"scores.json": json_bytes(rows, run), "scores.csv": csv_bytes(rows)}
    for measure in dict.fromkeys(curve.measure for curve in series(rows)):
        files[f"{measure}.png"] = png(figure(rows, measure))
    files["report.html"] = page(rows, run).encode()
    return write_files(folder, files)
