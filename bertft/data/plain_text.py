"""Plain text: one sentence a line; blank lines are skipped, or separate documents.

Every UTF-8 file can be read as plain text, so files that are evidently something else are refused: a treebank, JSON, or
tab-separated MNLI with a misleading name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from bertft.data.records import Example
from bertft.data.text_file import TextFile
from bertft.untrusted import parse_json


def read_plain_text(file: TextFile) -> Iterator[Example]:
    """Yield an example for each line that is not blank; raise `DataError` for a file in another known format.

    >>> from pathlib import Path
    >>> [example.text for example in read_plain_text(TextFile(Path("rain.txt"), "It rains.\\n\\nIt pours.\\n", "0f"))]
    ['It rains.', 'It pours.']
    """
    first = True
    for number, line in enumerate(file.lines, start=1):
        if not line.strip():
            continue
        if first and (found := _another_format(file, line)):
            raise file.error(number, f"expected one sentence a line, got {'; '.join(found)}")
        first = False
        yield Example(line.strip(), None, file.where(number))


def read_documents(file: TextFile) -> list[tuple[str, ...]]:
    """Return the sentences of each document; blank lines separate documents.

    Raises `DataError` for a file in another known format.

    >>> from pathlib import Path
    >>> read_documents(TextFile(Path("rain.txt"), "It rains.\\nIt pours.\\n\\nThe sun shines.\\n", "0f"))
    [('It rains.', 'It pours.'), ('The sun shines.',)]
    """
    lines = [line.strip() for line in file.lines]
    number = next((number for number, line in enumerate(lines, start=1) if line), 1)
    if found := _another_format(file, file.lines[number - 1]):
        raise file.error(number, f"expected one sentence a line and a blank line between documents, got {found[0]}")
    return [tuple(group) for filled, group in itertools.groupby(lines, key=bool) if filled]


def _another_format(file: TextFile, line: str) -> tuple[str, str] | None:
    """Return the format that the first line reveals, and advice for plain text; None for an ordinary sentence."""
    columns = line.split("\t")
    if line.startswith(("# sent_id", "# text =", "# newdoc")) or (len(columns) == 10 and columns[0].isdecimal()):
        return "CoNLL-U", "give the file the suffix .conllu"
    if {"sentence1", "sentence2"} <= set(columns):
        return "a tab-separated table", "use the .jsonl file of the same release, or write one sentence a line"
    if file.path.suffix.lower() in (".csv", ".tsv"):
        return f"a table, by its suffix ({file.path.suffix})", "write the sentences to a .txt file, one on each line"
    if line.lstrip().startswith(("{", "[")) and (_is_json(line) or _is_json(file.text)):
        return "JSON", "use the suffix .jsonl for MNLI and .json for SQuAD, or write one sentence a line"
    return None


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError as error:
        # JSON that cannot be read, for its depth or its numbers, is JSON.
        return not isinstance(error.__context__, json.JSONDecodeError)
    return True
