"""Dependency trees from treebanks in CoNLL-U, with the path lengths and depths that structural probes are trained on.

The words of a tree are the words of the annotation, without multiword ranges (`3-4`) and empty nodes (`3.1`). With
`keep_ranges` these are words too, as in the code of Hewitt and Manning, for comparison with its numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft.data.conllu import ConlluRow, Sentence, read_sentences
from bertft.data.hub import is_file, read_hub
from bertft.data.text_file import TextFile, field_names, local_path, read_text_file
from bertft.errors import DataError

# The training split of the largest UD treebanks has several files, such as cs_pdt-ud-train-c.conllu.
_SPLIT_FILE = re.compile(r"(?P<treebank>.+)-ud-(?P<split>train|dev|test)(-\w+)?\.conllu")


@dataclass(frozen=True)
class Tree:
    """A sentence of n words with its tree; heads are word numbers from 1, or 0 for the root; `where` is `file:line`.

    Several words may have head 0; paths between them then lead through the root. Raises `DataError` where a head is out
    of range or the heads form a cycle.

    >>> Tree("rain-1", "rain.conllu:1", ("It", "rains"), ("PRON", "VERB"), ("PRP", "VBZ"), (2, 0), ("nsubj", "root"))
    ... # doctest: +ELLIPSIS
    Tree(sentence_id='rain-1', ...)
    """

    sentence_id: str
    where: str
    forms: tuple[str, ...]
    upos: tuple[str, ...]
    xpos: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    empty_nodes: int = 0
    """The number of nodes of the annotation without a token in the text (`3.1`)."""

    def __post_init__(self) -> None:
        if problem := _problem(self.heads):
            raise DataError(f"{self.where}: sentence {self.sentence_id}: {problem[1]}")

    def __len__(self) -> int:
        return len(self.forms)

    def depths(self) -> NDArray[np.int16]:
        """Return the number of edges from the root word to each word, (n,); 0 for the root word."""
        depths = [-1] * (len(self) + 1)
        for word in _from_the_root(self.heads):
            depths[word] = depths[self.heads[word - 1]] + 1
        return np.array(depths[1:], dtype=np.int16)

    def distances(self) -> NDArray[np.int16]:
        """Return the number of edges between all pairs of words, (n, n), in O(n²) time."""
        distances = np.zeros((len(self) + 1, len(self) + 1), dtype=np.int16)
        # A word is one edge further than its head from all earlier words. The columns of later words are overwritten
        # when those words are reached.
        for word in _from_the_root(self.heads):
            distances[word] = distances[self.heads[word - 1]] + 1
            distances[word, word] = 0
            distances[:, word] = distances[word]
        return distances[1:, 1:]


@dataclass(frozen=True)
class Treebank:
    """The trees of each split, in file order; `content_hash` is the sha256 of the file, or of the files' hashes."""

    name: str
    splits: Mapping[str, tuple[Tree, ...]]
    content_hash: str

    def split(self, name: str) -> tuple[Tree, ...]:
        """Return the trees of one split; raise `DataError` where the treebank has no such split."""
        if name not in self.splits:
            raise DataError(f"{self.name}: no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


def check_treebank(path: str | Path) -> Path:
    """Return the path of a treebank; raise `DataError` where there is no file, or no treebank in the folder."""
    path = local_path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a CoNLL-U file, or a folder of *-ud-*.conllu files")
    if path.is_dir():
        _split_files(path)
    return path


def read_treebank(path: str | Path, *, keep_ranges: bool = False) -> Treebank:
    """Read a `.conllu` file, or a folder of `*-ud-train.conllu`, `*-ud-dev.conllu` and `*-ud-test.conllu`.

    A single file is the split in its name, or else the split `all`. With `keep_ranges`, ranges and empty nodes are
    words too. They depend on the root, and after k of them every head is increased by k, including heads of 0 and heads
    that refer to earlier words.

    Raises `DataError` with file, line and sentence for a malformed line, a head out of range, a cycle, and a sentence
    without a root or with several roots.

    >>> import tempfile
    >>> rows = [
    ...     "1\\tIt\\tit\\tPRON\\tPRP\\t_\\t2\\tnsubj\\t_\\t_",
    ...     "2\\trains\\train\\tVERB\\tVBZ\\t_\\t0\\troot\\t_\\t_",
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "en_rain-ud-dev.conllu")
    ...     _ = path.write_text("\\n".join([*rows, ""]))
    ...     (tree,) = read_treebank(folder).split("dev")
    >>> tree.heads, tree.depths().tolist(), tree.distances().tolist()
    ((2, 0), [1, 0], [[0, 1], [1, 0]])

    Source: universaldependencies.org/format.html; Hewitt and Manning 2019.
    """
    path = check_treebank(path)
    if not path.is_dir():
        file = read_text_file(path)
        match = _SPLIT_FILE.fullmatch(path.name)
        trees = tuple(_read_trees(file, keep_ranges=keep_ranges))
        return Treebank(path.stem, {match["split"] if match else "all": trees}, file.content_hash)
    splits: dict[str, tuple[Tree, ...]] = {}
    digest = hashlib.sha256()
    name, found = _split_files(path)
    for split, files in found.items():
        texts = [read_text_file(file) for file in files]
        splits[split] = tuple(chain.from_iterable(_read_trees(text, keep_ranges=keep_ranges) for text in texts))
        digest.update("".join(text.content_hash for text in texts).encode())
    return Treebank(name, splits, digest.hexdigest())


def read_split(source: str) -> Treebank:
    """Return the trees of a source as a treebank with one split.

    A source is a `.conllu` file; `FOLDER:SPLIT` for a folder that `read_treebank` accepts; or `NAME:SPLIT` or
    `NAME:CONFIG:SPLIT` for a data set on the hub with the columns of Universal Dependencies, `tokens`, `head` and
    `deprel`. Raises `DataError` as `read_treebank` does, and for a folder without a split.

    >>> read_split("no/such/file.conllu")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.DataError: no/such/file.conllu: no such file or folder; give ...
    """
    folder, _, split = source.rpartition(":")
    if local_path(source).is_dir():
        splits = ", ".join(_split_files(local_path(source))[1])
        raise DataError(f"{source}: a folder with the splits {splits}; add one of them, for example {source}:train")
    if is_file(source):
        return read_treebank(source)
    if folder and any(local_path(folder).glob("*.conllu")):
        treebank = read_treebank(folder)
        return Treebank(f"{treebank.name}:{split}", {split: treebank.split(split)}, treebank.content_hash)
    hub = read_hub(source)
    trees = tuple(_hub_tree(f"{hub.name}[{place}]", row) for place, row in enumerate(hub.rows))
    if not trees:
        raise DataError(f"{source}: contains no sentences; give another split")
    return Treebank(hub.name, {"all": trees}, hub.content_hash)


def _hub_tree(where: str, row: Mapping[str, Any]) -> Tree:
    columns = [row[name] for name in ("tokens", "head", "deprel") if isinstance(row.get(name), list)]
    if len(columns) != 3 or len(set(map(len, columns))) != 1:
        raise DataError(
            f"{where}: expected lists of equal length tokens, head and deprel, got the columns {field_names(row)}; "
            "give a data set with the columns of Universal Dependencies, or a CoNLL-U file"
        )
    # Ranges and empty nodes have no head, and the numbers of heads skip them.
    words = [word for word in zip(*columns, strict=True) if str(word[1]).isdecimal()]
    for _, head, _ in words:
        if len(str(head)) > 9:
            raise DataError(f"{where}: expected the number of a word as a head, got {head!s:.40}")
    forms, heads, relations = ([word[column] for word in words] for column in range(3))
    tree = Tree(
        where, where, tuple(forms), ("_",) * len(words), ("_",) * len(words), tuple(map(int, heads)), tuple(relations)
    )
    if problem := _root_problem(tree.heads):
        raise DataError(f"{where}: {problem[1]}")
    return tree


def _split_files(folder: Path) -> tuple[str, dict[str, list[Path]]]:
    """Return the name of the only treebank in a folder, and the files of each split in the order train, dev, test."""
    found = {path: match for path in sorted(folder.iterdir()) if (match := _SPLIT_FILE.fullmatch(path.name))}
    if others := [path for path in found if not path.is_file()]:
        raise DataError(f"{others[0]}: a folder, a pipe or a device, not a file; give a folder of CoNLL-U files")
    names = sorted({match["treebank"] for match in found.values()})
    if not names:
        single = [path.name for path in sorted(folder.glob("*.conllu"))]
        advice = f"; to read a single file, give {folder / single[0]}" if single else ""
        raise DataError(f"{folder}: no file named *-ud-train.conllu, *-ud-dev.conllu or *-ud-test.conllu{advice}")
    if len(names) > 1:
        raise DataError(
            f"{folder}: files of {len(names)} treebanks, {', '.join(names)}; give a folder with one treebank"
        )
    splits = {
        split: [path for path, match in found.items() if match["split"] == split] for split in ("train", "dev", "test")
    }
    return names[0], {split: files for split, files in splits.items() if files}


def _read_trees(file: TextFile, *, keep_ranges: bool) -> Iterator[Tree]:
    for sentence in read_sentences(file):
        places = [place for place, row in enumerate(sentence.rows) if keep_ranges or row.is_word]
        rows = [sentence.rows[place] for place in places]
        sentence_id = sentence.sentence_id or file.where(sentence.line)
        heads = [_head(file, sentence, place, keep_ranges=keep_ranges) for place in places]
        if keep_ranges:
            heads = _shifted(rows, heads)
        if problem := (None if keep_ranges else _root_problem(heads)) or _problem(heads):
            word, text = problem
            line = sentence.line_of(places[word - 1]) if places else sentence.line
            advice = " (keep_ranges shifts the heads; read the treebank without it)" if keep_ranges else ""
            raise file.error(line, f"sentence {sentence_id}: {text}{advice}")
        yield Tree(
            sentence_id,
            file.where(sentence.line),
            forms=tuple(row.form for row in rows),
            upos=tuple(row.upos for row in rows),
            xpos=tuple(row.xpos for row in rows),
            heads=tuple(heads),
            relations=tuple(row.deprel for row in rows),
            empty_nodes=sum(row.is_empty for row in sentence.rows),
        )


def _head(file: TextFile, sentence: Sentence, place: int, *, keep_ranges: bool) -> int:
    row = sentence.rows[place]
    if keep_ranges and row.head == "_":
        return 0
    if not (row.head.isascii() and row.head.isdecimal() and len(row.head) < 10):
        raise file.error(
            sentence.line_of(place),
            f"sentence {sentence.sentence_id or file.where(sentence.line)}: expected the number of the head of word "
            f"{row.id} ({row.form}) in column 7, 0 for the root, got {row.head!r:.40}",
        )
    return int(row.head)


def _shifted(rows: Iterable[ConlluRow], heads: Iterable[int]) -> list[int]:
    """Return the heads increased by the number of earlier rows without a head; rows without a head get 0."""
    shifted, without_head = [], 0
    for row, head in zip(rows, heads, strict=True):
        without_head += row.head == "_"
        shifted.append(0 if row.head == "_" else head + without_head)
    return shifted


def _problem(heads: Sequence[int]) -> tuple[int, str] | None:
    """Return the word and the reason why the heads do not form a tree, or None."""
    n = len(heads)
    if n > np.iinfo(np.int16).max - 1:
        return 1, f"{n} words; a sentence can have at most {np.iinfo(np.int16).max - 1}"
    for word, head in enumerate(heads, start=1):
        if not 0 <= head <= n:
            return word, f"word {word} has head {head}, but the sentence has {n} words; heads are 0 to {n}"
    reached = _from_the_root(heads)
    if len(reached) == n:
        return None
    word = min(set(range(1, n + 1)) - set(reached))
    path: list[int] = []
    while word not in path:
        path.append(word)
        word = heads[word - 1]
    cycle = [*path[path.index(word) :], word]
    return word, f"the heads form a cycle, {' → '.join(map(str, cycle))}, and never reach the root"


def _root_problem(heads: Sequence[int]) -> tuple[int, str] | None:
    roots = [word for word, head in enumerate(heads, start=1) if head == 0]
    if len(roots) == 1:
        return None
    if not roots:
        return 1, "no word has head 0; a tree has one root"
    return roots[1], f"words {', '.join(map(str, roots))} have head 0; a tree has one root"


def _from_the_root(heads: Sequence[int]) -> list[int]:
    """Return the numbers, from 1, of all words that are connected to the root, every head before its dependents."""
    dependents: list[list[int]] = [[] for _ in range(len(heads) + 1)]
    for word, head in enumerate(heads, start=1):
        dependents[head].append(word)
    reached = list(dependents[0])
    for word in reached:  # grows during the loop
        reached += dependents[word]
    return reached
