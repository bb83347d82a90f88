"""MNLI JSON lines, in the field names it is published with (Williams et al. 2018): `sentence1` entails `sentence2`?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bertft.data.records import Example
from bertft.data.text_file import TextFile


def read_mnli(file: TextFile, *, single: bool = False) -> Iterator[Example]:
    """One example a record: `premise [SEP] hypothesis`, or the premise alone; raises `DataError` naming the line.

    >>> from pathlib import Path
    >>> line = '{"sentence1": "It pours.", "sentence2": "It rains.", "gold_label": "entailment"}'
    >>> [(example.text, example.pair) for example in read_mnli(TextFile(Path("rain.jsonl"), line, "0f"))]
    [('It pours.', 'It rains.')]
    """
    for number, line in enumerate(file.lines, start=1):
        if not line.strip():
            continue
        record = _parse(file, number, line)
        premise, hypothesis = (_sentence(file, number, record, field) for field in ("sentence1", "sentence2"))
        yield Example(premise, None if single else hypothesis, file.where(number))


def _parse(file: TextFile, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise file.error(
            number, f"expected one MNLI record of JSON a line, got {line[:40]!r} ({error}); give plain text as .txt"
        ) from error
    if not isinstance(record, dict):
        raise file.error(number, f"expected a JSON object with sentence1 and sentence2, got {line[:40]!r}")
    return record


def _sentence(file: TextFile, number: int, record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        got = f"the fields {', '.join(record) or '(none)'}" if field not in record else f"{value!r} in {field}"
        raise file.error(
            number,
            f"expected an MNLI record with the strings sentence1 and sentence2, got {got}; "
            "write other texts one a line, as .txt",
        )
    return value
