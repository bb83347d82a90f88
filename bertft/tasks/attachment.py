"""How many words of a treebank a parser attaches as the treebank does, by the measures of the CoNLL 2017 shared task.

*UAS*, the unlabelled attachment score: the share of words that have the right head.  *LAS*, the labelled one: of words
that have the right head and the right relation, subtypes left out (`nsubj:pass` is `nsubj`).  Every word counts alike,
punctuation too, and one that was given no head is wrong.  The words are those of the treebank; on these the shared
task's F1, which forgives a parser nothing it did not segment as the treebank does, is the same number.

The other convention, that of the Penn Treebank, leaves out punctuation: here words of Unicode's P categories alone.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from bertft.data import Tree
from bertft.errors import DataError, UndefinedWarning


@dataclass(frozen=True)
class AttachmentEvaluation:
    """How many words count, and how many of them are right by head, and by head and relation."""

    words: int
    correct_heads: int
    correct_arcs: int

    @property
    def uas(self) -> float:
        """Unlabelled attachment score; nan, with a warning, where no word counts."""
        return _share(self.correct_heads, self.words)

    @property
    def las(self) -> float:
        """Labelled attachment score; nan, with a warning, where no word counts."""
        return _share(self.correct_arcs, self.words)


def evaluate_attachment(
    trees: Sequence[Tree],
    heads: Sequence[Sequence[int]],
    relations: Sequence[Sequence[str]],
    *,
    punctuation: bool = True,
    subtypes: bool = False,
) -> AttachmentEvaluation:
    """Compare predicted heads and relations with those of the trees, sentence by sentence.

    Heads count words from 1, and 0 is the root; whatever is no word's number, -1 say, is wrong.  `punctuation` says
    whether it counts, `subtypes` whether a relation is right only if its subtype is.  Raises `DataError` where the
    predictions are not of as many sentences or words as the trees.

    >>> tree = Tree("rain", "made", ("It", "rains", "."), ("",) * 3, ("",) * 3, (2, 0, 2), ("nsubj", "root", "punct"))
    >>> found = evaluate_attachment([tree], [(2, 0, 1)], [("nsubj:expl", "root", "punct")])
    >>> round(found.uas, 3), round(found.las, 3)
    (0.667, 0.667)

    Source: Zeman et al. 2017, `conll17_ud_eval.py`; Dozat and Manning 2017 on punctuation.
    """
    if not len(trees) == len(heads) == len(relations):
        raise DataError(
            f"{len(trees)} trees, heads of {len(heads)} sentences and relations of {len(relations)}; give one of each "
            "a sentence"
        )
    words = correct_heads = correct_arcs = 0
    for tree, found_heads, found_relations in zip(trees, heads, relations, strict=True):
        if not len(tree) == len(found_heads) == len(found_relations):
            raise DataError(
                f"{tree.where}: {len(tree)} words, {len(found_heads)} predicted heads and {len(found_relations)} "
                "relations; give one of each a word"
            )
        for form, head, relation, found_head, found_relation in zip(
            tree.forms, tree.heads, tree.relations, found_heads, found_relations, strict=True
        ):
            if not punctuation and is_punctuation(form):
                continue
            words += 1
            if head == found_head:
                correct_heads += 1
                correct_arcs += relation == found_relation if subtypes else _universal(relation, found_relation)
    return AttachmentEvaluation(words, correct_heads, correct_arcs)


def is_punctuation(form: str) -> bool:
    """Whether all characters of a word are punctuation to Unicode; signs such as $, + and emoji are not.

    >>> is_punctuation("..."), is_punctuation("$"), is_punctuation("'s")
    (True, False, False)
    """
    return all(unicodedata.category(character).startswith("P") for character in form)


def _universal(relation: str, other: str) -> bool:
    return relation.partition(":")[0] == other.partition(":")[0]


def _share(correct: int, words: int) -> float:
    if words == 0:
        warnings.warn("no word counts, so the attachment score is nan", UndefinedWarning, stacklevel=3)
        return float("nan")
    return correct / words
