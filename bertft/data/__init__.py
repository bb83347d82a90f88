"""Readers of data files: texts, trees and labelled spans as records (`Example`, `Corpus`, `Tree`, `EdgeRecord`)."""

from __future__ import annotations

from bertft.data.corpus import corpus_from_texts as corpus_from_texts
from bertft.data.corpus import read_corpus as read_corpus
from bertft.data.edge import EdgeCorpus as EdgeCorpus
from bertft.data.edge import EdgeRecord as EdgeRecord
from bertft.data.edge import Target as Target
from bertft.data.edge import read_edge_corpus as read_edge_corpus
from bertft.data.edge import read_edge_records as read_edge_records
from bertft.data.records import Corpus as Corpus
from bertft.data.records import Example as Example
from bertft.data.treebank import Tree as Tree
from bertft.data.treebank import Treebank as Treebank
from bertft.data.treebank import read_treebank as read_treebank
from bertft.data.treebank_edges import dep_records as dep_records
from bertft.data.treebank_edges import edge_corpus as edge_corpus
from bertft.data.treebank_edges import pos_records as pos_records
