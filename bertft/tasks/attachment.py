"""Attachment scores of a dependency parser, as defined by the CoNLL 2017 shared task.

UAS, the unlabelled attachment score, is the share of words with the correct head. LAS, the labelled attachment score,
is the share of words with the correct head and relation, where subtypes are ignored (`nsubj:pass` counts as `nsubj`).
All words count equally, punctuation included, and a word without a predicted head counts as wrong. The words are those
of the treebank, for which the F1 scores of the shared task equal these shares.

The convention of the Penn Treebank leaves out punctuation: here, words of Unicode's P categories.
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
    """How many words were counted, how many have the correct head, and how many also the correct relation."""

    words: int
    correct_heads: int
    correct_arcs: int

    @property
    def uas(self) -> float:
        """The unlabelled attachment score; nan, with a warning, if no word was counted."""
        return _share(self.correct_heads, self.words)

    @property
    def las(self) -> float:
        """The labelled attachment score; nan, with a warning, if no word was counted."""
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

    heads: the head of each word, counted from 1; 0 is the root, and any other number, such as -1, is wrong.
    relations: the relation of each word to its head.
    punctuation: whether punctuation is counted.  subtypes: whether the subtypes of relations must agree too.

    Raises `DataError` if the predictions have other numbers of sentences or words than the trees.

    >>> tree = Tree("rain", "made", ("It", "rains", "."), ("",) * 3, ("",) * 3, (2, 0, 2), ("nsubj", "root", "punct"))
    >>> found = evaluate_attachment([tree], [(2, 0, 1)], [("nsubj:expl", "root", "punct")])
    >>> round(found.uas, 3), round(found.las, 3)
    (0.667, 0.667)

    Source: Zeman et al. 2017, `conll17_ud_eval.py`; Dozat and Manning 2017 on punctuation.
    """
    if not len(trees) == len(heads) == len(relations):
        raise DataError(
            f"{len(trees)} trees, heads of {len(heads)} sentences and relations of {len(relations)}; give one of each "
            "for every sentence"
        )
    words = correct_heads = correct_arcs = 0
    for tree, found_heads, found_relations in zip(trees, heads, relations, strict=True):
        if not len(tree) == len(found_heads) == len(found_relations):
            raise DataError(
                f"{tree.where}: {len(tree)} words, {len(found_heads)} predicted heads and {len(found_relations)} "
                "relations; give one of each for every word"
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
    """Return whether all characters of a word are punctuation in Unicode; symbols such as $, + and emoji are not.

    >>> is_punctuation("..."), is_punctuation("$"), is_punctuation("'s")
    (True, False, False)
    """
    return all(unicodedata.category(character).startswith("P") for character in form)


def _universal(relation: str, other: str) -> bool:
    return relation.partition(":")[0] == other.partition(":")[0]


def _share(correct: int, words: int) -> float:
    if words == 0:
        warnings.warn("no word was counted, so the attachment score is nan", UndefinedWarning, stacklevel=3)
        return float("nan")
    return correct / words
