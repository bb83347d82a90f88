"""Dependency parsing: a biaffine parser learns the head of each word, and its relation to it, from a treebank.

A parser learns relations with their subtypes, so that `nsubj:pass` differs from `nsubj`, as the parsers of the shared
task did. Its score is LAS over all words without subtypes, see `attachment`. The parser does not know relations that do
not occur in training: on dev they are always wrong, and the loss of such a word is that of its head alone.

A parser needs all words of a sentence. A sentence that has more tokens than `max_length`, or a word without any token,
is left out of training; on dev, all its words count as wrong. A note reports both.

Merchant et al. 2020 give the learning rate, 3e-5, Adam, warm-up over 10 % of the steps, and 20 epochs. They do not give
the batch size, here 32 as for their other tasks; the MLPs and their dropout, here those of Dozat's parser; the learning
rate of the head, here that of the encoder; the decay, here linear; and how the vector of a word is computed from its
subwords, here as their mean. The preset `today` uses 20 times the learning rate for the head, and half as many epochs,
as SuPar does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertft.activations.words import tokenise_words
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import with_head
from bertft.data.treebank import Tree, read_split
from bertft.errors import DataError
from bertft.tasks.attachment import evaluate_attachment
from bertft.tasks.biaffine import IGNORED, SIZES, BiaffineParser, biaffine_settings
from bertft.tasks.task import Features, Prediction, Records, TrainingRecipe

RECIPES = {
    "paper": TrainingRecipe(
        epochs=20,
        learning_rate=3e-5,
        batch_size=32,
        max_length=512,
        weight_decay=0.0,
        epsilon=1e-8,
        extras=SIZES,
    ),
    "today": TrainingRecipe(
        epochs=10,
        learning_rate=5e-5,
        batch_size=32,
        max_length=512,
        head_rate=20.0,
        epsilon=1e-8,
        extras=SIZES,
    ),
}

# The values that pad the shorter rows of a batch; `input_ids` are padded with the padding token.
_PADDING = {"attention_mask": 0, "words": 0, "head_labels": IGNORED, "relation_labels": IGNORED}


@dataclass(frozen=True)
class Sentences(Features):
    """Sentences that fit; `tree` is the index of each among the records, `labels` has the index of each relation."""

    labels: Mapping[str, int] = field(default_factory=dict)


class Dependency:
    """The task `dep`."""

    name = "dep"
    metric = "las"
    recipes = RECIPES

    def read(self, source: str) -> Records[Tree]:
        """Read a treebank; see `read_split`."""
        treebank = read_split(source)
        (trees,) = treebank.splits.values()
        return Records(treebank.name, trees, treebank.content_hash)

    def check(self, train: Records[Tree]) -> None:
        """Require a sentence with a word that depends on another."""
        if all(len(tree) < 2 for tree in train.items):
            got = f"all {len(train.items):,} sentences have one word" if train.items else "there is no sentence"
            raise DataError(f"{train.name}: {got}; training needs sentences of at least two words")

    def build(self, checkpoint: Checkpoint, train: Records[Tree]) -> PreTrainedModel:
        """Return the encoder with the scorer of a parser for the relations that occur in training."""
        relations = sorted({relation for tree in train.items for relation in tree.relations})
        return with_head(checkpoint, BiaffineParser, **biaffine_settings(relations))

    def encode(
        self,
        records: Records[Tree],
        tokenizer: PreTrainedTokenizerBase,
        recipe: TrainingRecipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Sentences:
        """Return one row for each sentence that fits."""
        found = tokenise_words([tree.forms for tree in records.items], tokenizer, recipe.max_length)
        rows: list[dict[str, Any]] = []
        unknown = 0
        for index, tree in enumerate(records.items):
            first_word, next_word = found.starts[index : index + 2]
            if first_word == next_word:
                continue
            tokens = slice(*found.texts.starts[index : index + 2])
            words = found.word_of_token[tokens]
            relations = [labels.get(relation, IGNORED) for relation in tree.relations]
            unknown += relations.count(IGNORED)
            rows.append(
                {
                    "tree": index,
                    "input_ids": found.texts.ids[tokens].tolist(),
                    "words": np.where(words >= 0, words - first_word + 1, 0).tolist(),
                    "head_labels": list(tree.heads),
                    "relation_labels": relations,
                }
            )
        if training and not rows:
            raise DataError(
                f"{records.name}: none of its {len(records.items):,} sentences fits into {recipe.max_length} tokens; "
                "give a treebank of shorter sentences, or a model that takes longer ones"
            )
        return Sentences(rows, _notes(records, rows, unknown, recipe, training=training), labels)

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, recipe: TrainingRecipe
    ) -> Callable[[list[Any]], dict[str, Any]]:
        """Return a function that pads the rows of a batch to the longest."""
        padding = {**_PADDING, "input_ids": tokenizer.pad_token_id or 0}

        def collate(rows: list[Any]) -> dict[str, Any]:
            columns = {name: [row[name] for row in rows] for name in rows[0] if name in padding}
            columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
            return {name: _padded(values, padding[name]) for name, values in columns.items()}

        return collate

    def evaluate(
        self, predictions: Sequence[Prediction], features: Features, records: Records[Tree]
    ) -> dict[str, float]:
        """Return LAS and UAS as defined by the shared task, and the same without punctuation."""
        assert isinstance(features, Sentences)
        names = {number: label for label, number in features.labels.items()}
        heads: list[Sequence[int]] = [[-1] * len(tree) for tree in records.items]
        relations: list[Sequence[str]] = [[""] * len(tree) for tree in records.items]
        for (found_heads, found_relations), row in zip(predictions, features.rows, strict=True):
            index, n = row["tree"], len(row["head_labels"])
            heads[index] = found_heads[:n].tolist()
            relations[index] = [names[number] for number in found_relations[:n].tolist()]
        return _metrics(records.items, heads, relations)

    def baselines(self, train: Records[Tree], dev: Records[Tree], *, seed: int) -> dict[str, dict[str, float]]:
        """Return the metrics if every word depends on its left neighbour by the most frequent relation."""
        ((relation, _),) = Counter(relation for tree in train.items for relation in tree.relations).most_common(1)
        heads = [list(range(len(tree))) for tree in dev.items]
        relations = [[relation] * len(tree) for tree in dev.items]
        return {"left neighbour": _metrics(dev.items, heads, relations)}


TASK = Dependency()


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def _metrics(
    trees: Sequence[Tree], heads: Sequence[Sequence[int]], relations: Sequence[Sequence[str]]
) -> dict[str, float]:
    every = evaluate_attachment(trees, heads, relations)
    words = evaluate_attachment(trees, heads, relations, punctuation=False)
    return {
        "las": every.las,
        "uas": every.uas,
        "las_without_punctuation": words.las,
        "uas_without_punctuation": words.uas,
    }


def _notes(
    records: Records[Tree], rows: Sequence[Mapping[str, Any]], unknown: int, recipe: TrainingRecipe, *, training: bool
) -> tuple[str, ...]:
    """Return notes on words that were left out or count as wrong, and on relations that are not known."""
    notes = []
    words = sum(map(len, records.items))
    lost = words - sum(len(row["head_labels"]) for row in rows)
    if lost:
        fate = "were left out" if training else "count as wrong"
        notes.append(
            f"{lost:,} of {words:,} words {fate}: their {len(records.items) - len(rows):,} sentences have more than "
            f"{recipe.max_length} tokens, or a word without any token"
        )
    if unknown:
        notes.append(f"{unknown:,} of {words:,} words have a relation that does not occur in training")
    return tuple(notes)
