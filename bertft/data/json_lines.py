"""JSON lines: one object a line, as MNLI and edge-probing data are published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bertft.data.text_file import TextFile


def read_objects(file: TextFile, what: str, fields: str, advice: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line that is not blank, counted from 1, and its object; raises `DataError` naming the line.

    Errors say that `what` was expected, an object with `fields`, and give the advice.

    >>> from pathlib import Path
    >>> file = TextFile(Path("rain.jsonl"), '{"text": "It rains."}\\n\\n', "0f")
    >>> list(read_objects(file, "a record", "text", "write JSON"))
    [(1, {'text': 'It rains.'})]
    """
    for number, line in enumerate(file.lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise file.error(
                number, f"expected {what} of JSON a line, got {line[:40]!r} ({error}); {advice}"
            ) from error
        if not isinstance(found, dict):
            raise file.error(number, f"expected a JSON object with {fields}, got {line[:40]!r}")
        yield number, found
