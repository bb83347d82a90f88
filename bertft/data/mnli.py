"""MNLI JSON lines, in the field names it is published with (Williams et al. 2018): `sentence1` entails `sentence2`?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bertft.data.json_lines import read_objects
from bertft.data.records import Example
from bertft.data.text_file import TextFile


def read_mnli(file: TextFile, *, single: bool = False) -> Iterator[Example]:
    """One example a record: `premise [SEP] hypothesis`, or the premise alone; raises `DataError` naming the line.

    >>> from pathlib import Path
    >>> line = '{"sentence1": "It pours.", "sentence2": "It rains.", "gold_label": "entailment"}'
    >>> [(example.text, example.pair) for example in read_mnli(TextFile(Path("rain.jsonl"), line, "0f"))]
    [('It pours.', 'It rains.')]
    """
    advice = "give plain text as .txt"
    for number, record in read_objects(file, "one MNLI record", "sentence1 and sentence2", advice):
        premise, hypothesis = (_sentence(file, number, record, field) for field in ("sentence1", "sentence2"))
        yield Example(premise, None if single else hypothesis, file.where(number))


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
