"""`score` against the least it could cost: the two bare forward passes over the same batches.

The models have BERT-base's shape (12 blocks, d = 768) with random weights and a small vocabulary, and differ in every
layer; 13 layers are compared on tokens of sentences as long as Wikipedia's: 5,000 tokens of the 1,000 sentences that
`score` draws by default, or all 12,000 of 400.  Each round of `score`
follows a round of bare passes, so that a change of the machine's speed meets both; `extra_info` has the ratio of
their medians. Loading is in neither.  The score of the top layer is checked against dense float64 RSA over the bare
passes' own outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rivals
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bertft.activations.batches import BATCH_TOKENS
from bertft.activations.stimuli import Stimuli
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data import Corpus, corpus_from_texts
from bertft.experiments.score import score
from bertft.records import Scores

ROUNDS = 1
MEAN_LENGTH = 32
WORDS = [f"word{number}" for number in range(996)]

pytestmark = pytest.mark.long


def made_checkpoint(name: str, seed: int) -> Checkpoint:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    pieces = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(BertConfig(vocab_size=len(vocabulary)), add_pooling_layer=False).eval().requires_grad_(False)
    return Checkpoint(name, model, PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="[PAD]"), f"seed {seed}")


@pytest.fixture(scope="module")
def checkpoints() -> tuple[Checkpoint, Checkpoint]:
    return made_checkpoint("base", seed=0), made_checkpoint("tuned", seed=1)


def made_corpus(sentences: int) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEAN_LENGTH) - 0.125, 0.5, size=sentences), 3, 300).astype(int)
    return corpus_from_texts([" ".join(rng.choice(WORDS, size=length)) for length in lengths])


class BarePasses:
    """Both models over the batches `score` makes, and nothing else."""

    def __init__(self, checkpoints: tuple[Checkpoint, Checkpoint], corpus: Corpus, tokens: int | None) -> None:
        self.stimuli = Stimuli.drawn(
            corpus,
            checkpoints[0].tokenizer,
            tokens=tokens,
            sentences=None,
            seed=0,
            special_tokens=False,
            max_length=512,
            batch_tokens=BATCH_TOKENS["cpu"],
        )
        self.models = [checkpoint.model for checkpoint in checkpoints]
        self.batches = list(self.stimuli.batches(0, torch.device("cpu")))

    @torch.inference_mode()
    def run(self) -> list[list[torch.Tensor]]:
        return [
            [model(input_ids=b.input_ids, attention_mask=b.attention_mask).last_hidden_state for b in self.batches]
            for model in self.models
        ]

    def top_layer_rsa(self, passes: list[list[torch.Tensor]]) -> float:
        """Of the drawn rows of what `run` gave, in float64, block by block."""
        drawn = [
            torch.cat([state.flatten(0, 1)[b.rows] for state, b in zip(states, self.batches, strict=True)]).numpy()
            for states in passes
        ]
        return rivals.truth(*drawn)


@pytest.mark.benchmark(group="score, BERT-base shape, 13 layers")
@pytest.mark.parametrize(
    ("sentences", "tokens", "measures", "most"),
    [
        pytest.param(1000, 5000, ("rsa",), 1.03, id="RSA, 5,000 tokens of 1,000 sentences"),
        pytest.param(400, None, ("rsa",), 1.12, id="RSA, all tokens"),
        pytest.param(400, None, ("rsa", "cka"), 1.25, id="RSA and CKA, all tokens"),
    ],
)
def bench_score(
    race: Callable[..., Any],
    checkpoints: tuple[Checkpoint, Checkpoint],
    sentences: int,
    tokens: int | None,
    measures: tuple[str, ...],
    most: float,
) -> None:
    corpus = made_corpus(sentences)
    bare = BarePasses(checkpoints, corpus, tokens)
    timings: dict[str, float] = {}
    top: list[float] = []

    def ours() -> Scores:
        scores = score(*checkpoints, corpus, tokens=tokens, sentences=None, measures=measures)
        timings.update(scores.run["timings"])
        return scores

    def check(name: str, answer: Any) -> None:
        if name == "bertft":
            top.extend(row["value"] for row in answer.rows if row["layer"] == 12 and row["measure"] == "rsa")
        else:
            assert top == [pytest.approx(bare.top_layer_rsa(answer), abs=1e-6)]

    goals = {"two forward passes": ("at most", most)}
    race(ours, {"two forward passes": bare.run}, check, ROUNDS, goals=goals, phases=timings)
