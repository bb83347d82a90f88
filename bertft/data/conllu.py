"""CoNLL-U treebanks (universaldependencies.org/format.html): rows, sentences of rows, and their running text.

`parse_row` reads one token line, `read_sentences` groups rows and comments and checks the numbering of words, and
`read_conllu` gives only the text of each sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bertft.data.records import Example
from bertft.data.text_file import TextFile
from bertft.errors import DataError

_ID = re.compile(r"(?P<first>\d{1,9})(?:-(?P<last>\d{1,9})|\.(?P<empty>\d{1,9}))?")
"""Nine digits are more than any sentence has words. Python converts no more than 4,300."""


class ConlluRow(NamedTuple):
    """The ten columns of a token line, as written: a word (`3`), a multiword range (`3-4`) or an empty node (`3.1`)."""

    id: str
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: str
    deprel: str
    deps: str
    misc: str

    @property
    def is_range(self) -> bool:
        """Whether the row is the surface token of several words (`3-4`)."""
        return "-" in self.id

    @property
    def is_empty(self) -> bool:
        """Whether the row is a node without a token in the text (`3.1`)."""
        return "." in self.id

    @property
    def is_word(self) -> bool:
        """Whether the row is a word of the tree (`3`)."""
        return self.id.isdecimal()

    @property
    def space_after(self) -> str:
        """The text after the token in the running text: a space, or nothing."""
        return "" if "SpaceAfter=No" in self.misc.split("|") else " "


@dataclass(frozen=True)
class Sentence:
    """The comments and rows of one sentence; `line` is the number of its first line, counted from 1."""

    comments: tuple[str, ...]
    rows: tuple[ConlluRow, ...]
    line: int

    @property
    def text(self) -> str:
        """The `# text` comment, or else the tokens joined according to `SpaceAfter`."""
        joined = "".join(row.form + row.space_after for row in surface_tokens(self.rows)).strip()
        return comment_value(self.comments, "text") or joined

    @property
    def sentence_id(self) -> str | None:
        """The `# sent_id` comment, or None."""
        return comment_value(self.comments, "sent_id")

    def line_of(self, row: int) -> int:
        """Return the line number of the row with index `row`."""
        return self.line + len(self.comments) + row


def comment_value(comments: Iterable[str], wanted: str) -> str | None:
    """Return the value of the comment `# wanted = …` of a sentence, or None.

    >>> comment_value(["# newdoc", "# sent_id = rain-1"], "sent_id")
    'rain-1'
    """
    for comment in comments:
        key, equals, value = comment.removeprefix("#").partition("=")
        if equals and key.strip() == wanted and value.strip():
            return value.strip()
    return None


def surface_tokens(rows: tuple[ConlluRow, ...]) -> Iterator[ConlluRow]:
    """Yield the tokens as written: ranges instead of the words they cover, and no empty nodes."""
    covered = 0
    for row in rows:
        if row.is_range:
            covered = int(row.id.partition("-")[2])
            yield row
        elif row.is_word and int(row.id) > covered:
            yield row


def parse_row(line: str) -> ConlluRow:
    """Return the row of one token line; raise `DataError`, without file and line, where it is malformed.

    >>> parse_row("1\\tIt\\tit\\tPRON\\tPRP\\t_\\t2\\tnsubj\\t_\\t_").form
    'It'
    """
    columns = line.split("\t")
    if len(columns) != 10:
        raise DataError(f"expected 10 columns separated by tabs, got {len(columns)} in {line[:40]!r}")
    row = ConlluRow(*columns)
    if not _ID.fullmatch(row.id):
        raise DataError(f"expected a word number such as 3, 3-4 or 3.1 in column 1, got {row.id!r:.40}")
    if not row.form:
        raise DataError(f"word {row.id} has no form in column 2")
    return row


def read_sentences(file: TextFile) -> Iterator[Sentence]:
    """Yield the sentences of a treebank in file order; raise `DataError` with the number of a malformed line.

    >>> from pathlib import Path
    >>> row = "\\t".join(["1", "Rain", "rain", "NOUN", "NN", "_", "0", "root", "_", "_"])
    >>> file = TextFile(Path("rain.conllu"), f"# sent_id = 1\\n{row}\\n", "0f")
    >>> [sentence.text for sentence in read_sentences(file)]
    ['Rain']
    """
    comments: list[str] = []
    rows: list[ConlluRow] = []
    words = 0
    for number, line in enumerate([*file.lines, ""], start=1):
        if not line.strip():
            if rows:
                yield Sentence(tuple(comments), tuple(rows), number - len(comments) - len(rows))
            elif comments:
                raise file.error(number, "expected a token line after the comments of a sentence, got none")
            comments, rows, words = [], [], 0
        elif line.startswith("#"):
            if rows:
                raise file.error(number, "a comment among the words; is the blank line before this sentence missing?")
            comments.append(line)
        else:
            try:
                rows.append(parse_row(line))
                words = _next_word(words, rows[-1])
            except DataError as error:
                sentence_id = comment_value(comments, "sent_id")
                place = f"sentence {sentence_id}: " if sentence_id else ""
                raise file.error(number, f"{place}not CoNLL-U: {error}; plain text needs the suffix .txt") from None


def read_conllu(file: TextFile) -> Iterator[Example]:
    """Yield the running text of each sentence as an example; raise `DataError` with the number of a malformed line."""
    for sentence in read_sentences(file):
        yield Example(sentence.text, None, file.where(sentence.line))


def _next_word(words: int, row: ConlluRow) -> int:
    """Return the number of words up to and including `row`, after `words` words; words are numbered without gaps."""
    if row.is_empty:
        if int(row.id.partition(".")[0]) != words:
            raise DataError(f"empty node {row.id} follows word {words}")
        return words
    first, _, last = row.id.partition("-")
    if int(first) != words + 1:
        raise DataError(f"expected word {words + 1}, got {row.id}; is a blank line between sentences missing?")
    if row.is_range:
        if int(last) < int(first):
            raise DataError(f"range {row.id} ends before it begins")
        return words
    return words + 1
