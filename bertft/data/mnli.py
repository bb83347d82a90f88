"""MNLI in its published formats (Williams et al. 2018): does `sentence1` entail `sentence2`?

The files are JSON lines or tab-separated. `read_mnli` gives texts, `read_pairs` gives labelled pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bertft.data.hub import is_file, read_hub
from bertft.data.json_lines import read_objects
from bertft.data.records import Example
from bertft.data.text_file import TextFile, brief, field_names, read_text_file
from bertft.errors import DataError

LABELS = ("contradiction", "entailment", "neutral")
"""The labels in the order of Devlin et al., which differs from the order of GLUE on the hub."""

UNLABELLED = "-"
"""The label of a pair on which the annotators did not agree."""

# The names of the fields in the published files and on the hub.
_FIELDS = {
    "premise": ("sentence1", "premise"),
    "hypothesis": ("sentence2", "hypothesis"),
    "label": ("gold_label", "label"),
}


@dataclass(frozen=True)
class Pair:
    """A premise, a hypothesis and one of `LABELS`; `where` is the location for messages."""

    premise: str
    hypothesis: str
    label: str
    where: str


@dataclass(frozen=True)
class Pairs:
    """The labelled pairs of a source, in order; `unlabelled` is the number of pairs without a gold label, left out."""

    name: str
    pairs: tuple[Pair, ...]
    unlabelled: int
    content_hash: str


def read_mnli(file: TextFile, *, single: bool = False) -> Iterator[Example]:
    """Yield an example for each record: `premise [SEP] hypothesis`, or with `single` only the premise.

    Raises `DataError` with the number of a malformed line.

    >>> from pathlib import Path
    >>> line = '{"sentence1": "It pours.", "sentence2": "It rains.", "gold_label": "entailment"}'
    >>> [(example.text, example.pair) for example in read_mnli(TextFile(Path("rain.jsonl"), line, "0f"))]
    [('It pours.', 'It rains.')]
    """
    for number, record in _records(file):
        premise, hypothesis = (_field(file, number, record, field) for field in ("sentence1", "sentence2"))
        yield Example(premise, None if single else hypothesis, file.where(number))


def read_pairs(source: str) -> Pairs:
    """Return the labelled pairs of a local file, JSON lines or tab-separated, or of a data set `NAME:SPLIT`.

    Pairs with the label "-" are left out and counted. Raises `DataError` with the number of a malformed line or row,
    and where no pair has another label.

    >>> read_pairs("no/such/file.jsonl")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.DataError: no/such/file.jsonl: no such file; give ...
    """
    if is_file(source):
        file = read_text_file(source)
        name, content_hash = file.path.name, file.content_hash
        found = [_pair(file, number, record) for number, record in _records(file)]
    else:
        hub = read_hub(source)
        name, content_hash = hub.name, hub.content_hash
        found = [_hub_pair(hub.name, place, row) for place, row in enumerate(hub.rows)]
    if not found:
        raise DataError(f"{source}: contains no pairs; give MNLI as JSON lines or tab-separated")
    pairs = tuple(pair for pair in found if pair.label != UNLABELLED)
    if not pairs:
        raise DataError(
            f"{source}: no pair has a gold label ({len(found)} have {UNLABELLED!r}, as in test sets); "
            "give labelled pairs"
        )
    return Pairs(name, pairs, len(found) - len(pairs), content_hash)


def _pair(file: TextFile, number: int, record: Mapping[str, Any]) -> Pair:
    premise, hypothesis, label = (
        _field(file, number, record, field) for field in ("sentence1", "sentence2", "gold_label")
    )
    if label not in (*LABELS, UNLABELLED):
        raise file.error(number, f"the label is {brief(label)}; expected {', '.join(LABELS)} or {UNLABELLED!r}")
    pair = Pair(premise, hypothesis, label, file.where(number))
    _check_texts(pair)
    return pair


def _hub_pair(name: str, place: int, row: Mapping[str, Any]) -> Pair:
    where = f"{name}[{place}]"
    values = {}
    for wanted, names in _FIELDS.items():
        values[wanted] = next((row[name] for name in names if isinstance(row.get(name), str)), None)
    label = values["label"]
    if None in values.values() or label not in (*LABELS, UNLABELLED):
        raise DataError(
            f"{where}: expected the texts premise and hypothesis and one of the labels {', '.join(LABELS)}, "
            f"got {brief(dict(row))}"
        )
    pair = Pair(str(values["premise"]), str(values["hypothesis"]), str(label), where)
    _check_texts(pair)
    return pair


def _check_texts(pair: Pair) -> None:
    Example(pair.premise, pair.hypothesis, pair.where)


def _records(file: TextFile) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Return the records with their line numbers, from JSON lines or from a table with a header."""
    lines = [(number, line) for number, line in enumerate(file.lines, start=1) if line.strip()]
    header = lines[0][1].split("\t") if lines else []
    if {"sentence1", "sentence2"} <= set(header):
        return _table(file, header, lines[1:])
    return read_objects(file, "one MNLI record", "sentence1 and sentence2", "plain text needs the suffix .txt")


def _table(
    file: TextFile, header: list[str], lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in lines:
        # Fields are not quoted, and the published files omit empty fields at the end of a line.
        fields = line.split("\t")
        if len(fields) > len(header):
            raise file.error(number, f"expected the {len(header)} columns of the header, got {len(fields)}")
        yield number, dict(zip(header, fields, strict=False))


def _field(file: TextFile, number: int, record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        got = f"the fields {field_names(record)}" if field not in record else f"{brief(value)} in {field}"
        wanted = "sentence1 and sentence2" + (", and a gold_label" if field == "gold_label" else "")
        raise file.error(
            number,
            f"expected an MNLI record with the strings {wanted}, got {got}; "
            "write other texts to a .txt file, one on each line",
        )
    return value
