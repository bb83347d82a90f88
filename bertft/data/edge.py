"""Edge-probing records (Tenney et al. 2019): one sentence a line of JSON, with labelled spans or pairs of spans.

    {"text": "It rains", "targets": [{"span1": [0, 1], "span2": [1, 2], "label": "nsubj"}], "info": {}}

Spans are half-open ranges of words; words are separated by single spaces in `text`. A label is a string, or a list of
strings where a target can have several labels or none. The folder of a task contains `train.jsonl`, `dev.jsonl` and
optionally `test.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft.data.json_lines import read_objects
from bertft.data.text_file import TextFile, brief, local_path, read_text_file
from bertft.errors import DataError

SPLITS = ("train", "dev", "test")

Span = tuple[int, int]

_WANTED = "edge-probing records, one JSON object a line with text and targets"


@dataclass(frozen=True)
class Target:
    """A span, or a pair of spans, as half-open ranges of words, with any number of labels."""

    span1: Span
    span2: Span | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class EdgeRecord:
    """A sentence of words with its targets; `where` is its location for messages.

    Raises `DataError` where there are no words, a word is empty or contains a space, or a span is empty or out of
    range.

    >>> EdgeRecord(("It", "rains"), (Target((0, 1), (1, 3), ("nsubj",)),), {}, "rain.jsonl:1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.DataError: rain.jsonl:1: targets[0].span2 is [1, 3]; a span of 2 words is [start, end) ...
    """

    words: tuple[str, ...]
    targets: tuple[Target, ...]
    info: Mapping[str, Any]
    where: str

    def __post_init__(self) -> None:
        if problem := _problem(self.words, self.targets):
            raise DataError(f"{self.where}: {problem}")


@dataclass(frozen=True)
class EdgeCorpus:
    """The records of one task by split, in file order; `content_hash` is a sha256 of the data they come from."""

    name: str
    splits: Mapping[str, tuple[EdgeRecord, ...]]
    content_hash: str


def read_edge_records(path: str | Path) -> tuple[EdgeRecord, ...]:
    """Read and check a file of edge-probing records; raise `DataError` with file, line and field.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dev.jsonl")
    ...     _ = path.write_text('{"text": "It rains", "targets": [{"span1": [1, 2], "label": "VBZ"}]}\\n')
    ...     (record,) = read_edge_records(path)
    >>> record.words, record.targets
    (('It', 'rains'), (Target(span1=(1, 2), span2=None, labels=('VBZ',)),))

    Source: Tenney et al. 2019, in the format of their release.
    """
    return tuple(_records(read_text_file(path, _WANTED)))


def read_edge_corpus(folder: str | Path, name: str | None = None) -> EdgeCorpus:
    """Read the splits of a task from its folder; the default `name` is that of the folder.

    Raises `DataError` where `train.jsonl` or `dev.jsonl` is missing, and for malformed records.
    """
    folder = local_path(folder)
    missing = [f"{split}.jsonl" for split in SPLITS[:2] if not (folder / f"{split}.jsonl").is_file()]
    if missing:
        found = "has no " + " and no ".join(missing) if folder.is_dir() else "is not a folder"
        raise DataError(f"{folder}: {found}; give the folder of a task, with train.jsonl, dev.jsonl and test.jsonl")
    files = {
        split: read_text_file(folder / f"{split}.jsonl", _WANTED)
        for split in SPLITS
        if (folder / f"{split}.jsonl").is_file()
    }
    digest = hashlib.sha256("".join(file.content_hash for file in files.values()).encode()).hexdigest()
    return EdgeCorpus(name or folder.name, {split: tuple(_records(file)) for split, file in files.items()}, digest)


def edge_bytes(records: Iterable[EdgeRecord]) -> bytes:
    """Return records as the bytes of a file, one on each line; a single label is written as a string, others as a list.

    >>> edge_bytes([EdgeRecord(("Rain",), (Target((0, 1), None, ("NN",)),), {"id": 1}, "memory")])
    b'{"text": "Rain", "targets": [{"span1": [0, 1], "label": "NN"}], "info": {"id": 1}}\\n'
    """
    return b"".join(_line(record).encode() + b"\n" for record in records)


def _line(record: EdgeRecord) -> str:
    targets = []
    for target in record.targets:
        spans = {"span1": target.span1} if target.span2 is None else {"span1": target.span1, "span2": target.span2}
        targets.append({**spans, "label": target.labels[0] if len(target.labels) == 1 else target.labels})
    found = {"text": " ".join(record.words), "targets": targets, "info": dict(record.info)}
    return json.dumps(found, ensure_ascii=False)


def _records(file: TextFile) -> Iterator[EdgeRecord]:
    advice = "edge-probing data is JSON lines with text and targets"
    for number, found in read_objects(file, "one edge-probing record", "text and targets", advice):
        try:
            words = _words(found)
            targets = _targets(found)
            info = found.get("info") or {}
            if not isinstance(info, dict):
                raise DataError(f"info is {_shown(info)}; expected an object")
            if problem := _problem(words, targets):
                raise DataError(problem)
        except DataError as error:
            raise file.error(number, str(error)) from None
        yield EdgeRecord(words, targets, info, file.where(number))


def _words(found: Mapping[str, Any]) -> tuple[str, ...]:
    text = found.get("text")
    if not isinstance(text, str):
        raise DataError(f"text is {_shown(text)}; expected a string of words separated by single spaces")
    return tuple(text.split(" "))


def _targets(found: Mapping[str, Any]) -> tuple[Target, ...]:
    targets = found.get("targets")
    if not isinstance(targets, list):
        raise DataError(f"targets is {_shown(targets)}; expected a list of objects with span1, span2 and label")
    return tuple(_target(target, f"targets[{number}]") for number, target in enumerate(targets))


def _target(target: Any, field: str) -> Target:
    if not isinstance(target, dict):
        raise DataError(f"{field} is {_shown(target)}; expected an object with span1, span2 and label")
    label = target.get("label")
    labels = [label] if isinstance(label, str) else label
    if not isinstance(labels, list) or not all(isinstance(each, str) and each for each in labels):
        raise DataError(f"{field}.label is {_shown(label)}; expected a string or a list of strings")
    second = target.get("span2")
    return Target(
        _span(target.get("span1"), f"{field}.span1"),
        None if second is None else _span(second, f"{field}.span2"),
        tuple(dict.fromkeys(labels)),
    )


def _span(span: Any, field: str) -> Span:
    if not isinstance(span, list) or len(span) != 2 or not all(type(end) is int for end in span):
        raise DataError(f"{field} is {_shown(span)}; expected two whole numbers, [start, end)")
    return span[0], span[1]


def _problem(words: Sequence[str], targets: Sequence[Target]) -> str | None:
    """Return what is wrong with the words and spans of a record, or None."""
    try:
        " ".join(words).encode()
    except UnicodeEncodeError:
        return "text has half of a surrogate pair, which is not a character; write the text again as UTF-8"
    for word in words:
        if not word or " " in word:
            return f"text has the word {word!r}; separate words by single spaces, with none at the start or end"
    for number, target in enumerate(targets):
        for name, span in (("span1", target.span1), ("span2", target.span2)):
            if span is not None and not 0 <= span[0] < span[1] <= len(words):
                return (
                    f"targets[{number}].{name} is [{span[0]!s:.20}, {span[1]!s:.20}]; a span of {len(words)} words is "
                    f"[start, end) with 0 <= start < end <= {len(words)}"
                )
    return None


def _shown(value: Any) -> str:
    return "missing" if value is None else brief(value)
