"""Time `score` against its lower bound: two forward passes over the same batches.

The models have the shape of BERT-base (12 blocks, d = 768) and a small vocabulary. They are randomly initialised and
differ in every layer. All 13 layers are compared. The sentences are as long as those of Wikipedia. `score` uses 5,000
tokens of 1,000 sentences, as it does by default, or all 12,000 tokens of 400 sentences. Loading is not timed.

RSA and CKA are checked in float64, from the hidden states of plain forward passes. The check covers the bottom and the
top layer for 1,000 sentences, and all 13 layers for 400.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import competitors
import costs
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bertft import Scores, score
from bertft.activations.batches import BATCH_TOKENS
from bertft.activations.stimuli import Stimuli
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data import Corpus, corpus_from_texts

ROUNDS = 3
MEAN_LENGTH = 32
WORDS = [f"word{number}" for number in range(996)]
BLOCKS, D = 12, 768
TRUTH = {"rsa": competitors.moment_truth, "cka": competitors.debiased_cka}

Passes = list[list[torch.Tensor]]
"""The hidden states of the last layer, by model and batch."""

pytestmark = pytest.mark.long


def made_checkpoint(name: str, seed: int) -> Checkpoint:
    """Return a randomly initialised BERT-base with a word-level tokenizer."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(BertConfig(vocab_size=len(vocabulary)), add_pooling_layer=False).eval().requires_grad_(False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    return Checkpoint(name, model, fast, f"seed {seed}")


@pytest.fixture(scope="module")
def checkpoints() -> tuple[Checkpoint, Checkpoint]:
    return made_checkpoint("base", seed=0), made_checkpoint("tuned", seed=1)


@pytest.fixture(scope="module")
def bare_passes(checkpoints: tuple[Checkpoint, Checkpoint]) -> Callable[[int, int | None], BarePasses]:
    """Return a function from the numbers of sentences and drawn tokens to the forward passes, cached."""
    return cache(lambda sentences, tokens: BarePasses(checkpoints, made_corpus(sentences), tokens))


def made_corpus(sentences: int) -> Corpus:
    """Return a corpus of random words."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEAN_LENGTH) - 0.125, 0.5, size=sentences), 3, 300).astype(int)
    return corpus_from_texts([" ".join(rng.choice(WORDS, size=length)) for length in lengths])


class BarePasses:
    """Forward passes of both models over the batches of `score`, and nothing else."""

    def __init__(self, checkpoints: tuple[Checkpoint, Checkpoint], corpus: Corpus, tokens: int | None) -> None:
        self.corpus = corpus
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
        self.known: dict[tuple[str, int], float] = {}

    @torch.inference_mode()
    def run(self) -> Passes:
        return [
            [model(input_ids=b.input_ids, attention_mask=b.attention_mask).last_hidden_state for b in self.batches]
            for model in self.models
        ]

    def truth(self, passes: Passes, every_layer: bool) -> dict[tuple[str, int], float]:
        """Return RSA and CKA in float64 by name and layer, of all layers or of the bottom and the top one.

        The values are computed once.
        """
        if not self.known:
            layers = self._all_layers() if every_layer else self._outer_layers(passes)
            self.known = {
                (measure, layer): of(x, y) for layer, (x, y) in layers.items() for measure, of in TRUTH.items()
            }
        return self.known

    @torch.inference_mode()
    def _outer_layers(self, passes: Passes) -> dict[int, list[np.ndarray]]:
        bottom = [[model.embeddings(b.input_ids) for b in self.batches] for model in self.models]
        return {0: [*map(self._drawn, bottom)], BLOCKS: [*map(self._drawn, passes)]}

    @torch.inference_mode()
    def _all_layers(self) -> dict[int, list[np.ndarray]]:
        """Return the hidden states of all layers. The timed passes keep only the last layer."""
        found: dict[int, list[np.ndarray]] = {}
        for model in self.models:
            of_batches = []
            for b in self.batches:
                output = model(input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
                of_batches.append([state.flatten(0, 1)[b.rows] for state in output.hidden_states])
            for layer, parts in enumerate(zip(*of_batches, strict=True)):
                found.setdefault(layer, []).append(torch.cat(parts).numpy())
        return found

    def _drawn(self, states: list[torch.Tensor]) -> np.ndarray:
        return torch.cat([state.flatten(0, 1)[b.rows] for state, b in zip(states, self.batches, strict=True)]).numpy()


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
    race: Callable[..., None],
    checkpoints: tuple[Checkpoint, Checkpoint],
    bare_passes: Callable[[int, int | None], BarePasses],
    sentences: int,
    tokens: int | None,
    measures: tuple[str, ...],
    most: float,
) -> None:
    bare = bare_passes(sentences, tokens)
    phases: dict[str, list[float]] = {}

    def ours() -> Scores:
        scores = score(*checkpoints, bare.corpus, tokens=tokens, sentences=None, measures=measures)
        for phase, seconds in scores.run["timings"].items():
            phases.setdefault(phase, []).append(seconds)
        return scores

    def check(name: str, scores: Scores, passes: Passes) -> float:
        found = {(row["measure"], row["layer"]): row["value"] for row in scores.rows}
        assert len(found) == len(scores.rows) == len(measures) * (BLOCKS + 1)
        truth = bare.truth(passes, every_layer=tokens is None)
        return max(abs(found[key] - value) for key, value in truth.items() if key in found)

    passes = costs.forward_passes((b.input_ids.shape for b in bare.batches), BLOCKS, D, models=2)
    # RSA uses unit rows and CKA uses raw rows, so each needs its own moments.
    moments = len(measures) * (BLOCKS + 1) * costs.moments(bare.stimuli.draw.n_tokens, D)["flops"]
    race(
        ours,
        {"two forward passes": bare.run},
        check,
        tolerances={"bertft": 1e-6},
        reference="two forward passes",
        rounds=ROUNDS,
        warm_up=lambda: score(*checkpoints, made_corpus(8), tokens=None, measures=measures),
        costs={"bertft": {"flops": passes["flops"] + moments}, "two forward passes": passes},
        goals={"two forward passes": ("at most", most)},
        phases=phases,
    )
