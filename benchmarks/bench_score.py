"""`score` against the least it could cost: the two bare forward passes over the same batches.

The models have BERT-base's shape (12 blocks, d = 768) with random weights and a small vocabulary, and differ in every
layer; 13 layers are compared on about 32,000 tokens in sentences as long as Wikipedia's.  Each round of `score`
follows a round of bare passes, so that a change of the machine's speed meets both; `extra_info` has the ratio of
their medians. Loading is in neither.  The score of the top layer is checked against dense float64 RSA over the bare
passes' own outputs.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bertft.activations.stimuli import Stimuli
from bertft.data import Corpus, corpus_from_texts
from bertft.models import Checkpoint
from bertft.records import Scores
from bertft.scoring import BATCH_TOKENS, score

ROUNDS = 3
SENTENCES = 1000
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


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEAN_LENGTH) - 0.125, 0.5, size=SENTENCES), 3, 300).astype(int)
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
        self.seconds: list[float] = []
        self.last: list[list[torch.Tensor]] = []

    @torch.inference_mode()
    def run(self) -> None:
        start = time.perf_counter()
        self.last = [
            [model(input_ids=b.input_ids, attention_mask=b.attention_mask).last_hidden_state for b in self.batches]
            for model in self.models
        ]
        self.seconds.append(time.perf_counter() - start)

    def top_layer_rsa(self) -> float:
        """Dense, in float64."""
        triangles = []
        for states in self.last:
            parts = [state.flatten(0, 1)[batch.rows] for state, batch in zip(states, self.batches, strict=True)]
            rows = torch.cat(parts).double().numpy()
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            triangles.append((rows @ rows.T)[np.triu_indices(len(rows), k=1)])
        return float(np.corrcoef(*triangles)[0, 1])


@pytest.mark.benchmark(group="score: BERT-base shape, 13 layers, about 32,000 tokens, float32")
@pytest.mark.parametrize(
    ("tokens", "measures", "most"),
    [
        pytest.param(5000, ("rsa",), 1.03, id="rsa-5000"),
        pytest.param(None, ("rsa",), 1.12, id="rsa-all"),
        pytest.param(None, ("rsa", "cka"), 1.25, id="rsa-cka-all"),
    ],
)
def test_score(
    benchmark: Any,
    checkpoints: tuple[Checkpoint, Checkpoint],
    corpus: Corpus,
    tokens: int | None,
    measures: tuple[str, ...],
    most: float,
) -> None:
    bare = BarePasses(checkpoints, corpus, tokens)
    scores: list[Scores] = []

    def run() -> None:
        scores.append(score(*checkpoints, corpus, tokens=tokens, sentences=None, measures=measures))

    benchmark.pedantic(run, setup=bare.run, rounds=ROUNDS)
    top = next(row for row in scores[-1].rows if row["layer"] == 12 and row["measure"] == "rsa")
    if tokens is not None:  # dense matrices of all tokens take gigabytes
        assert top["value"] == pytest.approx(bare.top_layer_rsa(), abs=1e-6)
    assert top["n_tokens"] == bare.stimuli.draw.n_tokens
    bare_seconds = statistics.median(bare.seconds)
    phases = {name: round(seconds, 3) for name, seconds in scores[-1].run["timings"].items()}
    benchmark.extra_info.update(
        tokens=top["n_tokens"],
        batches=len(bare.batches),
        padding=round(bare.stimuli.padding, 4),
        bare_seconds=bare_seconds,
        wanted_ratio=most,
        phases=phases,
    )
    if benchmark.stats is not None:
        benchmark.extra_info["ratio"] = benchmark.stats.stats.median / bare_seconds
