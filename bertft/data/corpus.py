"""A corpus from a file in a supported format, or from texts in memory.

The suffix decides the format, and the reader checks the contents against it. A file with the wrong suffix is refused
rather than read as if its markup were language.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from bertft.data.conllu import read_conllu
from bertft.data.mnli import read_mnli
from bertft.data.plain_text import read_plain_text
from bertft.data.records import Corpus, Example
from bertft.data.squad import read_squad
from bertft.data.text_file import read_text_file
from bertft.errors import DataError


def read_corpus(path: str | Path, *, single: bool = False) -> Corpus:
    """Read `.conllu` (CoNLL-U), `.jsonl` (MNLI), `.json` (SQuAD v1.1), or any other UTF-8 file, one sentence a line.

    MNLI gives `premise [SEP] hypothesis` and SQuAD `question [SEP] passage`; with `single`, only the first part.
    Raises `DataError` with file and line for a file that is missing, empty, not UTF-8, or not in its format.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "rain.txt")
    ...     _ = path.write_text("It rains.\\n\\nIt pours.\\n")
    ...     [(example.text, example.where) for example in read_corpus(path).examples]
    [('It rains.', 'rain.txt:1'), ('It pours.', 'rain.txt:3')]
    """
    file = read_text_file(path)
    match file.path.suffix.lower():
        case ".conllu":
            examples = tuple(read_conllu(file))
        case ".jsonl":
            examples = tuple(read_mnli(file, single=single))
        case ".json":
            examples = tuple(read_squad(file, single=single))
        case _:
            examples = tuple(read_plain_text(file))
    if not examples:
        raise DataError(f"{file.path}: no text in the file; give at least one sentence")
    return Corpus(file.path.name, examples, file.content_hash)


def corpus_from_texts(texts: Iterable[str | tuple[str, str]], name: str = "texts") -> Corpus:
    """Return a corpus of strings or of (text, pair) tuples; raise `DataError` with the index of a wrong item.

    >>> corpus_from_texts(["It rains.", ("It pours.", "It rains.")]).examples[1].pair
    'It rains.'
    """
    if isinstance(texts, str):
        raise DataError(
            f"{name}: got one string, {texts[:40]!r}; give a list of texts, or read_corpus(path) for a file"
        )
    examples = tuple(_example(text, f"{name}[{index}]") for index, text in enumerate(texts))
    if not examples:
        raise DataError(f"{name}: no texts; give at least one sentence")
    parts = json.dumps([(example.text, example.pair) for example in examples])
    return Corpus(name, examples, hashlib.sha256(parts.encode()).hexdigest())


def _example(text: object, where: str) -> Example:
    match text:
        case str():
            return Example(text, None, where)
        case (str() as first, str() as second):
            return Example(first, second, where)
    raise DataError(f"{where}: expected a string or a pair of strings, got {text!r:.60}")
