"""The pre-training of BERT: masked words and next sentences, learned from tokenised text.

`bertft.tasks.training` trains it like a task, but from random weights instead of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerBase

from bertft.tasks.sentence_pairs import IGNORED, Collate, SentencePairs, Tokens
from bertft.tasks.task import Features, Prediction, Records, TrainingRecipe

PAPER = TrainingRecipe(
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
"""As in Devlin et al. 2019, appendix A.2, except that their last tenth of the steps has length 512.

duplicates: how many packings of the text, each with masks of its own, are drawn before examples repeat.
"""

HELD_OUT_SEED = 0
"""The seed of the held-out pairs and masks, which are the same for every seed of a model."""


def new_model(config: BertConfig, seed: int) -> BertForPreTraining:
    """Return a model with random weights that depend on the config and the seed alone."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return BertForPreTraining(config)


@dataclass(frozen=True)
class Pretraining:
    """Both objectives at once, on the pairs and masks of one seed; the best checkpoint has the lowest `mlm_loss`."""

    seed: int

    name = "pretraining"
    metric = "mlm_loss"

    def encode(
        self,
        records: Records[Tokens],
        tokenizer: PreTrainedTokenizerBase,
        recipe: TrainingRecipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """Return the pairs of a corpus: in as many packings as the recipe says for training, in one for evaluation."""
        (tokens,) = records.items
        passes, seed = (recipe.extras["duplicates"], self.seed) if training else (1, HELD_OUT_SEED)
        pairs = SentencePairs(tokens, tokenizer, recipe.max_length, passes=passes, seed=seed)
        return Features(pairs)  # type: ignore[arg-type]  # the Trainer also accepts a torch data set

    def collator(self, tokenizer: PreTrainedTokenizerBase, recipe: TrainingRecipe) -> Collate:
        """Return a function that pads the pairs of a batch to the longest."""
        return Collate(tokenizer)

    def condense(
        self, outputs: tuple[torch.Tensor, torch.Tensor], labels: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return what `evaluate` needs of each pair, (pairs, 4).

        The columns are the loss of the masked tokens in nats, the number of them that are predicted correctly, their
        number, and 1 if the answer about the next sentence is correct.

        outputs: logits of tokens (pairs, length, vocabulary) and of the next sentence (pairs, 2).
        """
        scores, follows = outputs
        tokens, false = labels
        pair, position = torch.nonzero(tokens != IGNORED, as_tuple=True)
        wanted, logits = tokens[pair, position], scores[pair, position].float()
        nats = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        right = (logits.argmax(dim=1) == wanted).float()
        of_pair = torch.zeros(len(tokens), 4, device=scores.device)
        of_pair[:, :3].index_add_(0, pair, torch.stack([nats, right, torch.ones_like(nats)], dim=1))
        of_pair[:, 3] = (follows.argmax(dim=1) == false.flatten()).float()
        return of_pair

    def evaluate(
        self, predictions: Sequence[Prediction], features: Features, records: Records[Tokens]
    ) -> dict[str, float]:
        """Return the mean loss of a masked token in nats, and the accuracies for masked tokens and next sentences."""
        nats, right, masked, follows = np.stack([row for (row,) in predictions]).sum(axis=0, dtype=np.float64).tolist()
        return {
            "mlm_loss": nats / masked,
            "mlm_accuracy": right / masked,
            "nsp_accuracy": follows / len(predictions),
        }


def baselines(train: Tokens, held_out: SentencePairs, vocabulary: int) -> dict[str, float]:
    """Return the metrics of predictions that use no context.

    Masked tokens are predicted from the frequencies of the `vocabulary` tokens in the training text, with one added to
    each count, and next sentences by the more frequent answer.
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
