"""Edge-probing records from treebanks: parts of speech, and dependencies.

A part-of-speech target is one word with its tag: the tag of the treebank (XPOS; in English those of the Penn Treebank,
as in the data of Tenney et al. 2019) or the universal tag (UPOS). A dependency target is a pair of spans, the word and
its head, labelled with the full relation including its subtype. The head of the root word is the word itself.

Multiword ranges and empty nodes are not words. The converter released with Tenney et al. cannot read ranges, omits
sentences with empty nodes, and never writes the last sentence of a file; `released` omits those sentences too.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable

from bertft.data.edge import EdgeCorpus, EdgeRecord, Target
from bertft.data.treebank import Tree, Treebank
from bertft.errors import DataError, OptionError

TAGS = ("xpos", "upos")


def pos_records(trees: Iterable[Tree], tags: str = "xpos", source: str = "") -> tuple[EdgeRecord, ...]:
    """Return records with a target for each word: its tag in column 5 (`xpos`) or 4 (`upos`) of CoNLL-U.

    `source` is stored in `info`. Raises `OptionError` for other tags, and `DataError` for a word without a tag.

    >>> rain = Tree("r", "r:1", ("It", "rains"), ("PRON", "VERB"), ("PRP", "VBZ"), (2, 0), ("nsubj", "root"))
    >>> pos_records([rain])[0].targets[1]
    Target(span1=(1, 2), span2=None, labels=('VBZ',))
    """
    if tags not in TAGS:
        raise OptionError(f"unknown tags {tags!r}; choose one of {', '.join(TAGS)}")
    return tuple(_pos_record(tree, tags, source) for tree in trees)


def dep_records(trees: Iterable[Tree], source: str = "") -> tuple[EdgeRecord, ...]:
    """Return records with a target for each word: `span1` is the word, `span2` its head, or itself for the root word.

    `source` is stored in `info`.

    >>> rain = Tree("r", "r:1", ("It", "rains"), ("PRON", "VERB"), ("PRP", "VBZ"), (2, 0), ("nsubj", "root"))
    >>> [(target.span1, target.span2, target.labels) for target in dep_records([rain])[0].targets]
    [((0, 1), (1, 2), ('nsubj',)), ((1, 2), (1, 2), ('root',))]

    Source: the converter released with Tenney et al. 2019 (jiant, `probing/data/ud_to_json.py`).
    """
    return tuple(_dep_record(tree, source) for tree in trees)


def released(trees: Iterable[Tree]) -> tuple[Tree, ...]:
    """Return the trees that the released converter writes: not those with empty nodes, nor the last of each file."""
    files = itertools.groupby(trees, key=lambda tree: tree.where.rpartition(":")[0])
    return tuple(tree for _, of_file in files for tree in tuple(of_file)[:-1] if not tree.empty_nodes)


def edge_corpus(bank: Treebank, task: str, *, tags: str = "xpos", as_released: bool = False) -> EdgeCorpus:
    """Return the records of task `pos` or `dep` for each split of a treebank; `as_released` applies `released` first.

    Raises `OptionError` for another task, and `DataError` for a word without a tag.
    """
    makers: dict[str, Callable[[tuple[Tree, ...]], tuple[EdgeRecord, ...]]] = {
        "pos": lambda trees: pos_records(trees, tags, bank.name),
        "dep": lambda trees: dep_records(trees, bank.name),
    }
    if task not in makers:
        raise OptionError(f"unknown task {task!r} of a treebank; choose one of {', '.join(makers)}")
    splits = {name: makers[task](released(trees) if as_released else trees) for name, trees in bank.splits.items()}
    how = f"{bank.content_hash} {task} {tags if task == 'pos' else ''} {as_released}"
    return EdgeCorpus(task, splits, hashlib.sha256(how.encode()).hexdigest())


def _pos_record(tree: Tree, tags: str, source: str) -> EdgeRecord:
    found = tree.xpos if tags == "xpos" else tree.upos
    for word, tag in enumerate(found):
        if tag == "_":
            other = "upos" if tags == "xpos" else "xpos"
            raise DataError(
                f"{tree.where}: sentence {tree.sentence_id}: word {word + 1} ({tree.forms[word]}) has no {tags} tag; "
                f"use the tags {other} instead"
            )
    return _record(tree, tuple(Target((word, word + 1), None, (tag,)) for word, tag in enumerate(found)), source)


def _dep_record(tree: Tree, source: str) -> EdgeRecord:
    targets = []
    for word, (head, relation) in enumerate(zip(tree.heads, tree.relations, strict=True), start=1):
        head = head or word
        targets.append(Target((word - 1, word), (head - 1, head), (relation,)))
    return _record(tree, tuple(targets), source)


def _record(tree: Tree, targets: tuple[Target, ...], source: str) -> EdgeRecord:
    # A space inside a word becomes a no-break space, which does not separate words.
    words = tuple(form.replace(" ", "\N{NO-BREAK SPACE}") for form in tree.forms)
    info = {"source": source, "sent_id": tree.sentence_id} if source else {"sent_id": tree.sentence_id}
    return EdgeRecord(words, targets, info, tree.where)
