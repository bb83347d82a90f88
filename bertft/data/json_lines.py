"""JSON lines: one object on each line, the format of MNLI and of edge-probing data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bertft.data.text_file import TextFile
from bertft.untrusted import parse_json


def read_objects(file: TextFile, what: str, fields: str, advice: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number, from 1, and the object of each line that is not blank.

    Raises `DataError` with the line number; the message names what was expected, `what` with `fields`, and ends with
    `advice`.

    >>> from pathlib import Path
    >>> file = TextFile(Path("rain.jsonl"), '{"text": "It rains."}\\n\\n', "0f")
    >>> list(read_objects(file, "a record", "text", "write JSON"))
    [(1, {'text': 'It rains.'})]
    """
    for number, line in enumerate(file.lines, start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise file.error(
                number, f"expected {what} as JSON on each line, got {line[:40]!r} ({error}); {advice}"
            ) from None
        if not isinstance(found, dict):
            raise file.error(number, f"expected a JSON object with {fields}, got {line[:40]!r}")
        yield number, found
