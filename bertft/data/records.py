"""The records that the readers of texts return: a sentence or a pair of texts, and a corpus of them.

Tokenisation, sampling and reports use these records and do not read the files again.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertft.errors import DataError


@dataclass(frozen=True)
class Example:
    """One text, or a pair that a model reads as `text [SEP] pair`; `where` is its location for messages.

    Raises `DataError` where a part is blank or cannot be encoded as UTF-8, because no tokeniser accepts it.

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
                raise DataError(f"{self.where}: a text is blank; remove it, or write at least one word")
            try:
                part.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{self.where}: character {error.start} of {part[:40]!r} is half of a surrogate pair, "
                    "which is not a character; write the text again as UTF-8"
                ) from None


@dataclass(frozen=True)
class Corpus:
    """Examples in file order; `content_hash` is the sha256 of the bytes of the file, or of the texts in memory.

    >>> Corpus("two", (Example("a b", None, "two:1"), Example("c", None, "two:2")), "0f").name
    'two'
    """

    name: str
    examples: tuple[Example, ...]
    content_hash: str
