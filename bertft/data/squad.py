"""SQuAD v1.1 JSON (Rajpurkar et al. 2016): articles of paragraphs, each a passage with its questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bertft.data.records import Example
from bertft.data.text_file import TextFile
from bertft.errors import DataError


def read_squad(file: TextFile, *, single: bool = False) -> Iterator[Example]:
    """One example a question: `question [SEP] passage`, or the question alone; raises `DataError` naming the place.

    >>> from pathlib import Path
    >>> paragraph = '{"context": "It rains.", "qas": [{"id": "q1", "question": "What falls?"}]}'
    >>> file = TextFile(Path("rain.json"), f'{{"data": [{{"paragraphs": [{paragraph}]}}]}}', "0f")
    >>> [(example.text, example.pair) for example in read_squad(file)]
    [('What falls?', 'It rains.')]
    """
    try:
        document = json.loads(file.text)
    except json.JSONDecodeError as error:
        advice = "name JSON lines .jsonl" if error.msg == "Extra data" else "is the file cut off?"
        raise file.error(error.lineno, f"expected one SQuAD document of JSON, got {error.msg!r}; {advice}") from error
    except RecursionError as error:
        raise file.error(1, "expected one SQuAD document of JSON, got brackets nested without end") from error
    for article, article_place in _items(file, document, "", "data"):
        for paragraph, place in _items(file, article, article_place, "paragraphs"):
            passage = _string(file, paragraph, place, "context")
            for question, question_place in _items(file, paragraph, place, "qas"):
                text = _string(file, question, question_place, "question")
                where = f"{file.path.name}: question {question.get('id', question_place)}"
                yield Example(text, None if single else passage, where)


def _items(file: TextFile, parent: Any, place: str, field: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of the list `field` of `parent`, each with its place, such as `data[0].paragraphs[2]`."""
    items = parent.get(field) if isinstance(parent, dict) else None
    if not isinstance(items, list):
        raise _not_squad(file, place, f"a list {field}", parent)
    for index, item in enumerate(items):
        item_place = f"{place}.{field}[{index}]".lstrip(".")
        if not isinstance(item, dict):
            raise _not_squad(file, item_place, "an object", item)
        yield item, item_place


def _string(file: TextFile, parent: dict[str, Any], place: str, field: str) -> str:
    value = parent.get(field)
    if not isinstance(value, str):
        raise _not_squad(file, place, f"a string {field}", parent)
    return value


def _not_squad(file: TextFile, place: str, wanted: str, got: Any) -> DataError:
    found = f"the fields {', '.join(got) or '(none)'}" if isinstance(got, dict) else f"{json.dumps(got)[:40]}"
    return DataError(
        f"{file.path}: {place or 'the document'}: expected {wanted}, as in SQuAD v1.1, got {found}; "
        "write other texts one a line, as .txt"
    )
