"""BERT's pre-training: words under a mask, and whether one segment follows another, learnt from tokenised text alone.

`bertft.tasks.training` trains it as it trains a task; instead of a checkpoint it begins with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerBase

from bertft.tasks.sentence_pairs import IGNORED, Collate, SentencePairs, Tokens
from bertft.tasks.task import Features, Prediction, Recipe, Records

PAPER = Recipe(
    epochs=0,
    steps=1_000_000,
    learning_rate=1e-4,
    batch_size=256,
    max_length=128,
    warmup=0.01,
    bias_correction=False,
    decay_from="start",
    extras={"duplicates": 10},
)
"""As in Devlin et al. 2019, appendix A.2, but for the last tenth of the steps, which they took at length 512.

duplicates: so many packings of the text with masks of their own are drawn before a masked sentence is met again.
"""

HELD_OUT_SEED = 0
"""Of the held-out pairs and masks, which are the same for every seed."""


def new_model(config: BertConfig, seed: int) -> BertForPreTraining:
    """A model with random weights, the same for the same config and seed; torch's generators are left as they were."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return BertForPreTraining(config)


@dataclass(frozen=True)
class Pretraining:
    """Both objectives at once, on the pairs and masks of one seed; the best checkpoint is surest of masked words."""

    seed: int

    name = "pretraining"
    metric = "mlm_loss"

    def encode(
        self,
        records: Records[Tokens],
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """The pairs of a corpus: to train on, in so many packings as the recipe says; to judge by, in one."""
        (tokens,) = records.items
        passes, seed = (recipe.extras["duplicates"], self.seed) if training else (1, HELD_OUT_SEED)
        pairs = SentencePairs(tokens, tokenizer, recipe.max_length, passes=passes, seed=seed)
        return Features(pairs)  # type: ignore[arg-type]  # a torch data set has what the Trainer asks of a sequence

    def collator(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Collate:
        """Pads the pairs of a batch to its longest."""
        return Collate(tokenizer)

    def condense(
        self, outputs: tuple[torch.Tensor, torch.Tensor], labels: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Of each pair the nats of its masked tokens, how many were guessed, how many there are, and 1 for B guessed.

        outputs: logits of tokens (pairs, length, vocabulary) and of B (pairs, 2).  Returns (pairs, 4).
        """
        scores, follows = outputs
        tokens, false = labels
        pair, place = torch.nonzero(tokens != IGNORED, as_tuple=True)
        wanted, guessed = tokens[pair, place], scores[pair, place].float()
        nats = torch.nn.functional.cross_entropy(guessed, wanted, reduction="none")
        right = (guessed.argmax(dim=1) == wanted).float()
        of_pair = torch.zeros(len(tokens), 4, device=scores.device)
        of_pair[:, :3].index_add_(0, pair, torch.stack([nats, right, torch.ones_like(nats)], dim=1))
        of_pair[:, 3] = (follows.argmax(dim=1) == false.flatten()).float()
        return of_pair

    def evaluate(
        self, predictions: Sequence[Prediction], features: Features, records: Records[Tokens]
    ) -> dict[str, float]:
        """Mean nats of a masked token, and the shares of masked tokens and of second segments that are guessed."""
        nats, right, masked, follows = np.stack([row for (row,) in predictions]).sum(axis=0, dtype=np.float64).tolist()
        return {
            "mlm_loss": nats / masked,
            "mlm_accuracy": right / masked,
            "nsp_accuracy": follows / len(predictions),
        }


def baselines(train: Tokens, held_out: SentencePairs, vocabulary: int) -> dict[str, float]:
    """What the metrics must beat: the same of guesses that look at no context.

    Every masked token is guessed by how often each of `vocabulary` tokens stands in the training text, one added to
    each count; of second segments the more frequent answer is given.
    """
    counts = np.bincount(train.numbers, minlength=vocabulary) + 1
    labels = np.concatenate([item["labels"] for item in held_out])
    wanted = labels[labels != IGNORED]
    false = held_out.pairs[:, 4].mean()
    return {
        "mlm_loss": float(-np.log(counts[wanted] / counts.sum()).mean()),
        "mlm_accuracy": float((wanted == counts.argmax()).mean()),
        "nsp_accuracy": float(max(false, 1 - false)),
    }
