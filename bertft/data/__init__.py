"""Texts and trees from files and from memory, as records (`Example`, `Corpus`, `Tree`) that all of bertft takes."""

from __future__ import annotations

from bertft.data.corpus import corpus_from_texts as corpus_from_texts
from bertft.data.corpus import read_corpus as read_corpus
from bertft.data.records import Corpus as Corpus
from bertft.data.records import Example as Example
from bertft.data.treebank import Tree as Tree
from bertft.data.treebank import Treebank as Treebank
from bertft.data.treebank import read_treebank as read_treebank
