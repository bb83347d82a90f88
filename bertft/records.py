"""Results of a run: rows of numbers and a record, and how they are written as JSON and CSV.

JSON has no nan: an undefined number is `null` in JSON and `nan` in CSV. Floats are written with as many digits as it
takes to read back the same float.

A text that begins with `=`, `+`, `-`, `@`, a tab or a line break gets a `'` before it in CSV, because a spreadsheet
would run it as a formula (OWASP, CSV injection). JSON has every text as it is.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""The first characters of what a spreadsheet takes for a formula, or skips before one."""

COLUMNS = (
    *("base", "tuned", "corpus", "layer", "measure", "value", "stderr", "n_tokens", "n_sentences"),
    "n_stderr_sentences",  # how many of the sentences the standard error rests on; 0 where there is none
)


def plain(value: Any) -> Any:
    """Return a value that JSON can represent: NumPy scalars and paths are converted, non-finite floats become None."""
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


def as_float(value: float | None) -> float:
    """Return a number of a row, with None (an undefined number read back from JSON) as nan."""
    return math.nan if value is None else float(value)


_UNSAFE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What some terminals obey, and halves of characters, which UTF-8 does not have."""


TOLD = ("date", "timings")
"""The parts of a record that differ between two runs of one command. They go to a file of their own, `run.json`."""


def json_bytes(rows: list[Row], run: Mapping[str, Any]) -> bytes:
    """Return a JSON object with the rows, one on each line, and the record of the run but for `TOLD`."""
    run = {key: value for key, value in run.items() if key not in TOLD}
    lines = ",\n    ".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows)
    record = json.dumps(plain(run), ensure_ascii=False, allow_nan=False, indent=2).replace("\n", "\n  ")
    return _escaped(f'{{\n  "rows": [\n    {lines}\n  ],\n  "run": {record}\n}}\n')


def told_bytes(run: Mapping[str, Any], more: Mapping[str, Any]) -> bytes:
    """Return a JSON object with `more`, and with the parts of a record that differ between two runs of one command."""
    told = {**{key: run[key] for key in TOLD if key in run}, **more}
    return _escaped(f"{json.dumps(plain(told), ensure_ascii=False, allow_nan=False, indent=2)}\n")


def _escaped(text: str) -> bytes:
    # In JSON an escape stands for the character itself.
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def csv_bytes(rows: list[Row], columns: Sequence[str] = COLUMNS) -> bytes:
    """Return CSV with a header and a line for each row; keys that are not in `columns` come last.

    >>> csv_bytes([{"corpus": "=1+1.txt", "value": -0.5}], ("corpus",))
    b"corpus,value\\n'=1+1.txt,-0.5\\n"
    """
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    text = io.StringIO()
    plainly, quoted = (
        csv.writer(text, lineterminator="\n", quoting=quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC)
    )
    for cells in (columns, *([row.get(column, "") for column in columns] for row in rows)):
        # Python quotes no carriage return, which other readers take for the end of the line.
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if returns else plainly).writerow(map(_cell, cells))
    return text.getvalue().encode(errors="backslashreplace")


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
