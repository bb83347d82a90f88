"""The records that leave a data file: a sentence or a pair of texts, and a corpus of them.

Readers make these and nothing else; everything downstream (tokenisation, sampling, reports) takes these and never
looks at a file again.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertft.errors import DataError


@dataclass(frozen=True)
class Example:
    """One text, or a pair that a model reads as `text [SEP] pair`; `where` names its place, for messages.

    Raises `DataError` where a part is blank or cannot be written as UTF-8, since no tokeniser takes it.

    >>> Example("Does it rain?", "It rains.", "dev.jsonl:1").pair
    'It rains.'
    """

    text: str
    pair: str | None
    where: str

    def __post_init__(self) -> None:
        for part in (self.text, self.pair):
            if part is None:
                continue
            if not part.strip():
                raise DataError(f"{self.where}: a text is blank; every text needs at least one word: delete this one")
            try:
                part.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{self.where}: character {error.start} of {part[:40]!r} is half of a surrogate pair, "
                    "which is no character; write the text again as UTF-8"
                ) from error


@dataclass(frozen=True)
class Corpus:
    """Examples in file order; `content_hash` is the sha256 of the file's bytes, or of the texts held in memory.

    >>> Corpus("two", (Example("a b", None, "two:1"), Example("c", None, "two:2")), "0f").name
    'two'
    """

    name: str
    examples: tuple[Example, ...]
    content_hash: str
