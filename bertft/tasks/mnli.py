"""Natural language inference on MNLI: does the premise entail the hypothesis, contradict it, or neither?

The classifier is a softmax over the pooled [CLS], as in Devlin et al. 2019. In a pair that is too long, the longer text
is cut first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertft.activations.encode import pair_lead
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import with_head
from bertft.data.mnli import LABELS, Pair, read_pairs
from bertft.errors import DataError
from bertft.tasks.padding import name_padding
from bertft.tasks.task import Features, Prediction, Records, TrainingRecipe

RECIPES = {
    "paper": TrainingRecipe(
        epochs=3,
        learning_rate=5e-5,
        batch_size=32,
        max_length=128,
        bias_correction=False,
        decay_from="start",
    ),
    "today": TrainingRecipe(epochs=3, learning_rate=2e-5, batch_size=32, max_length=128),
}


class Mnli:
    """The task `mnli`. In every config that it writes, the labels are in the order of `LABELS`."""

    name = "mnli"
    metric = "accuracy"
    recipes = RECIPES

    def read(self, source: str) -> Records[Pair]:
        """Read pairs; see `read_pairs`."""
        found = read_pairs(source)
        notes = (f"{found.unlabelled:,} pairs without a gold label were left out",) if found.unlabelled else ()
        return Records(found.name, found.pairs, found.content_hash, notes)

    def check(self, train: Records[Pair]) -> None:
        """Require at least two different labels."""
        found = {pair.label for pair in train.items}
        if len(found) < 2:
            got = f"all {len(train.items):,} pairs are labelled {found.pop()!r}" if found else "there is no pair"
            raise DataError(f"{train.name}: {got}; training needs pairs of at least two of {', '.join(LABELS)}")

    def build(self, checkpoint: Checkpoint, train: Records[Pair]) -> PreTrainedModel:
        """Return the encoder with a classifier of three labels."""
        model = with_head(
            checkpoint,
            AutoModelForSequenceClassification,
            id2label=dict(enumerate(LABELS)),
            label2id={label: number for number, label in enumerate(LABELS)},
        )
        name_padding(model, checkpoint.tokenizer)
        return model

    def encode(
        self,
        records: Records[Pair],
        tokenizer: PreTrainedTokenizerBase,
        recipe: TrainingRecipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """Return one row for each pair."""
        pairs = records.items
        lead = pair_lead(tokenizer)
        encoded = tokenizer(
            [pair.premise for pair in pairs],
            [lead + pair.hypothesis for pair in pairs],
            truncation="longest_first",
            max_length=recipe.max_length,
            return_length=True,
            return_overflowing_tokens=False,
            verbose=False,
        )
        columns = [name for name in encoded if name in tokenizer.model_input_names]
        rows = [
            {**{name: encoded[name][index] for name in columns}, "labels": labels[pair.label]}
            for index, pair in enumerate(pairs)
        ]
        # The tokenizer does not say which pairs it cut, so those of the greatest length are encoded again in full.
        full = [pair for pair, row in zip(pairs, rows, strict=True) if len(row["input_ids"]) == recipe.max_length]
        whole = tokenizer([p.premise for p in full], [lead + p.hypothesis for p in full], verbose=False) if full else {}
        cut = sum(len(ids) > recipe.max_length for ids in whole.get("input_ids", ()))
        notes = (f"{cut:,} of {len(pairs):,} pairs were cut to {recipe.max_length} tokens",) if cut else ()
        return Features(rows, notes)

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, recipe: TrainingRecipe
    ) -> Callable[[list[Any]], dict[str, Any]]:
        """Return a function that pads the rows of a batch to the longest."""
        return DataCollatorWithPadding(tokenizer)

    def evaluate(
        self, predictions: Sequence[Prediction], features: Features, records: Records[Pair]
    ) -> dict[str, float]:
        """Return the accuracy."""
        guessed = np.array([logits.argmax() for (logits, *_) in predictions])
        gold = np.array([row["labels"] for row in features.rows])
        return {"accuracy": float((guessed == gold).mean())}

    def baselines(self, train: Records[Pair], dev: Records[Pair], *, seed: int) -> dict[str, dict[str, float]]:
        """Return the accuracy of always predicting the most frequent label of the training set."""
        ((majority, _),) = Counter(pair.label for pair in train.items).most_common(1)
        return {"majority class": {"accuracy": float(np.mean([pair.label == majority for pair in dev.items]))}}


TASK = Mnli()
