"""SQuAD v1.1 JSON (Rajpurkar et al. 2016): articles of paragraphs, each a passage with its questions.

`read_squad` gives texts, `read_questions` gives questions with their answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bertft.data.hub import is_file, read_hub
from bertft.data.records import Example
from bertft.data.text_file import TextFile, brief, field_names, read_text_file
from bertft.errors import DataError
from bertft.untrusted import parse_json

_LONG_NUMBER = re.compile(r"[0-9]{4301}")
"""More digits than Python converts."""


@dataclass(frozen=True)
class Answer:
    """A text of the passage that begins at character `start`."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question on a passage with at least one answer; `where` is its location for messages.

    Raises `DataError` with the id of the question where it has no answer, or an answer is not at its position.

    >>> Question("q1", "What falls?", "It rains.", (Answer("rain", 4),), "rain.json")
    Traceback (most recent call last):
    ...
    bertft.errors.DataError: rain.json: question q1: the answer 'rain' is not at character 4 of its passage, which has \
'ains' there; correct the answer or leave the question out
    """

    id: str
    question: str
    passage: str
    answers: tuple[Answer, ...]
    where: str

    def __post_init__(self) -> None:
        place = f"{self.where}: question {self.id}"
        if not self.answers:
            raise DataError(f"{place}: has no answer; leave the question out")
        for answer in self.answers:
            found = self.passage[max(0, answer.start) : max(0, answer.start) + len(answer.text)]
            if not answer.text.strip() or answer.start < 0 or found != answer.text:
                raise DataError(
                    f"{place}: the answer {answer.text[:40]!r} is not at character {answer.start} of its passage, "
                    f"which has {found[:40]!r} there; correct the answer or leave the question out"
                )


@dataclass(frozen=True)
class Questions:
    """The questions of a source, in order."""

    name: str
    questions: tuple[Question, ...]
    content_hash: str


def read_squad(file: TextFile, *, single: bool = False) -> Iterator[Example]:
    """Yield an example for each question: `question [SEP] passage`, or with `single` only the question.

    Raises `DataError` with the location of a malformed record.

    >>> from pathlib import Path
    >>> paragraph = '{"context": "It rains.", "qas": [{"id": "q1", "question": "What falls?"}]}'
    >>> file = TextFile(Path("rain.json"), f'{{"data": [{{"paragraphs": [{paragraph}]}}]}}', "0f")
    >>> [(example.text, example.pair) for example in read_squad(file)]
    [('What falls?', 'It rains.')]
    """
    for text, passage, question, place in _questions(file, "JSON lines need the suffix .jsonl"):
        where = f"{file.path.name}: question {_id(question, place)}"
        yield Example(text, None if single else passage, where)


def read_questions(source: str) -> Questions:
    """Return the questions of a local SQuAD v1.1 file, or of a data set `NAME:SPLIT`.

    Raises `DataError` with the location of a malformed record, or of an answer that is not in its passage.

    >>> read_questions("no/such/file.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.DataError: no/such/file.json: no such file; give ...
    """
    if is_file(source):
        file = read_text_file(source)
        name, content_hash = file.path.name, file.content_hash
        found = [
            Question(_id(question, place), text, passage, tuple(_answers(file, question, place)), file.path.name)
            for text, passage, question, place in _questions(file, "give one document in the form of SQuAD v1.1")
        ]
    else:
        hub = read_hub(source)
        name, content_hash = hub.name, hub.content_hash
        found = [_hub_question(hub.name, place, row) for place, row in enumerate(hub.rows)]
    if not found:
        raise DataError(f"{source}: contains no questions; give SQuAD v1.1 as one JSON document")
    for question in found:
        Example(question.question, question.passage, f"{name}: question {question.id}")
    return Questions(name, tuple(found), content_hash)


def _questions(file: TextFile, advice: str) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield the text, the passage, the JSON object and the location in the document of each question.

    `advice` is for a file of JSON lines.
    """
    try:
        document = parse_json(file.text)
    except ValueError as error:
        wanted, found = "expected one SQuAD document as JSON", error.__context__
        if not isinstance(found, json.JSONDecodeError):
            number = next((number for number, line in enumerate(file.lines, 1) if _LONG_NUMBER.search(line)), 1)
            got = "too deeply nested brackets" if "deeply" in str(error) else error
            raise file.error(number, f"{wanted}, got {got}") from None
        if found.msg == "Extra data" and (lines := _json_lines(file)):
            raise file.error(found.lineno, f"{wanted}, got {lines}; {advice}") from None
        raise file.error(found.lineno, f"{wanted}, got {found.msg!r}; is the file truncated or damaged?") from None
    for article, article_place in _items(file, document, "", "data"):
        for paragraph, place in _items(file, article, article_place, "paragraphs"):
            passage = _string(file, paragraph, place, "context")
            for question, question_place in _items(file, paragraph, place, "qas"):
                yield _string(file, question, question_place, "question"), passage, question, question_place


def _json_lines(file: TextFile) -> str | None:
    """Return what a file is if its first line is a JSON object, which makes it JSON lines; otherwise None."""
    try:
        first = parse_json(next(line for line in file.lines if line.strip()))
    except (StopIteration, ValueError):
        return None
    if not isinstance(first, dict):
        return None
    # The files of MRQA begin with a header.
    return "JSON lines, as those of MRQA" if "header" in first else "JSON lines"


def _id(question: Mapping[str, Any], place: str) -> str:
    found = question.get("id", place)
    return found if isinstance(found, str) else brief(found)


def _answers(file: TextFile, question: dict[str, Any], place: str) -> Iterator[Answer]:
    for answer, answer_place in _items(file, question, place, "answers"):
        start = answer.get("answer_start")
        if not isinstance(start, int) or isinstance(start, bool):
            raise _not_squad(file, answer_place, "a whole number answer_start", answer)
        yield Answer(_string(file, answer, answer_place, "text"), start)


def _hub_question(name: str, place: int, row: Mapping[str, Any]) -> Question:
    """Return a question from a row of `datasets`, which has a list of answer texts and a list of starts."""
    where = f"{name}[{place}]"
    try:
        answers = tuple(
            Answer(text, start)
            for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        )
        return Question(row["id"], row["question"], row["context"], answers, where)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where}: expected the fields id, question, context and answers of SQuAD v1.1, got {brief(dict(row))}"
        ) from error


def _items(file: TextFile, parent: Any, place: str, field: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of the list `field` of `parent` with their locations, such as `data[0].paragraphs[2]`."""
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
    found = f"the fields {field_names(got)}" if isinstance(got, dict) else brief(got)
    return DataError(
        f"{file.path}: {place or 'the document'}: expected {wanted}, as in SQuAD v1.1, got {found}; "
        "write other texts to a .txt file, one on each line"
    )
