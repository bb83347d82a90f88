"""What `bertft.score` gives back, and how it is written down: rows of numbers, and the record of the run.

JSON has no nan: an undefined number is `null` there and `nan` in CSV.  Floats are written with the digits that read
back to the same float.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

COLUMNS = (
    *("base", "tuned", "corpus", "layer", "measure", "value", "stderr", "n_tokens", "n_sentences"),
    "n_stderr_sentences",  # how many of the sentences the standard error rests on; 0 where there is none
)


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: NumPy scalars and paths converted, non-finite floats as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def json_bytes(rows: list[Row], run: dict[str, Any]) -> bytes:
    """Return `scores.json`: one object with the rows, one a line, and the run record."""
    lines = ",\n    ".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows)
    record = json.dumps(plain(run), ensure_ascii=False, allow_nan=False, indent=2).replace("\n", "\n  ")
    return f'{{\n  "rows": [\n    {lines}\n  ],\n  "run": {record}\n}}\n'.encode()


def csv_bytes(rows: list[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return `scores.csv`: a header and one line a row; further keys of the rows follow the usual columns."""
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(column, "") for column in columns])
    return text.getvalue().encode()


@dataclass(frozen=True)
class Scores:
    """What `bertft.score` found: one row for each tuned model, corpus, layer and measure, and a record of the run.

    >>> scores = Scores([{"layer": 0, "measure": "rsa", "value": 1.0, "stderr": 0.0}], {"seed": 0})
    >>> scores.to_frame().loc[0, "value"].item()
    1.0
    """

    rows: list[Row]
    run: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_json(self) -> str:
        """Rows and run as the text of `scores.json`; an undefined number is null."""
        return json_bytes(self.rows, self.run).decode()
