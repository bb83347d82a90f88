"""`score` against its lower bound: the two bare forward passes over the same batches.

The models have BERT-base's shape (12 blocks, d = 768) with random weights and a small vocabulary, and differ in every
layer; 13 layers are compared on tokens of sentences as long as Wikipedia's: 5,000 tokens of the 1,000 sentences that
`score` draws by default, or all 12,000 of 400.  Loading is in neither time.

RSA and CKA are checked against float64 over the drawn hidden states of plain forward passes: at the bottom and the top
layer where 1,000 sentences are read, at all 13 where 400 are.
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
"""By model and batch, the states of the last layer."""

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
def bare_passes(checkpoints: tuple[Checkpoint, Checkpoint]) -> Callable[[int, int | None], BarePasses]:
    """The bare passes over so many sentences, of which so many tokens are drawn; made once."""
    return cache(lambda sentences, tokens: BarePasses(checkpoints, made_corpus(sentences), tokens))


def made_corpus(sentences: int) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEAN_LENGTH) - 0.125, 0.5, size=sentences), 3, 300).astype(int)
    return corpus_from_texts([" ".join(rng.choice(WORDS, size=length)) for length in lengths])


class BarePasses:
    """Both models over the batches `score` makes, and nothing else."""

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
        """RSA and CKA in float64 by name and layer, computed once: of the bottom and the top layer, or of all."""
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
        """From passes that keep all states, which the timed ones do not."""
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
    # RSA takes unit rows and CKA raw ones: moments of their own.
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
