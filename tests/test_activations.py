"""Tokenising, the draw, batches, and hidden states read by hooks, against Hugging Face's own `hidden_states`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from bertft.activations.batches import MAX_PADDING, Batch, make_batch, padding_share, plan_batches
from bertft.activations.encode import TokenisedTexts, tokenise
from bertft.activations.forward import read_layers
from bertft.activations.sampling import draw_sentences, draw_tokens
from bertft.activations.standardize import Standardizer
from bertft.activations.stream import TunedModel, stream
from bertft.checkpoints.anatomy import block_stack
from bertft.data import Example
from bertft.errors import CheckpointError, OptionError

CPU = torch.device("cpu")
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "while", "rain", "fell"]
VOCAB = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}

DEPTH = 4
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": len(VOCAB),
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def bert() -> BertModel:
    return BertModel(BertConfig(**SHAPE, initializer_range=0.5))


def roberta() -> RobertaModel:
    return RobertaModel(RobertaConfig(**SHAPE, type_vocab_size=1))


def electra() -> ElectraModel:
    return ElectraModel(ElectraConfig(**SHAPE, embedding_size=16))


def distilbert() -> DistilBertModel:
    config = DistilBertConfig(
        dim=32,
        n_layers=DEPTH,
        n_heads=4,
        hidden_dim=48,
        vocab_size=len(VOCAB),
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return DistilBertModel(config)


def modernbert() -> ModernBertModel:
    # Both kinds of its attention, and a window shorter than a sentence: blocks must not change places.
    return ModernBertModel(ModernBertConfig(**SHAPE, global_attn_every_n_layers=2, local_attention=4))


def mpnet() -> MPNetModel:
    return MPNetModel(MPNetConfig(**SHAPE))  # its blocks return tuples


def deberta() -> DebertaV2Model:
    # Its first block is followed by a convolution that is no block.
    return DebertaV2Model(DebertaV2Config(**SHAPE, relative_attention=True, pos_att_type=["p2c"], conv_kernel_size=3))


def gpt2() -> GPT2Model:
    return GPT2Model(GPT2Config(n_embd=32, n_layer=DEPTH, n_head=4, vocab_size=len(VOCAB), n_positions=64))


def llama() -> LlamaModel:
    return LlamaModel(LlamaConfig(**SHAPE, num_key_value_heads=2))


ARCHITECTURES = (bert, roberta, electra, distilbert, modernbert, mpnet, deberta, gpt2, llama)


def tokenizer(*, types: bool = True) -> Any:
    names = ["input_ids", "attention_mask", *["token_type_ids"] * types]
    return tiny.tokenizer(WORDS, model_input_names=names)


def made(architecture: Any, seed: int = 0) -> Any:
    """A model with random weights, the same for the same seed, without moving torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture().eval()


def sentences_of(lengths: Any, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [Example(" ".join(rng.choice(WORDS, size=n)), None, f"made:{i}") for i, n in enumerate(lengths)]


def texts_of(lengths: Any, seed: int = 0) -> TokenisedTexts:
    return tokenise(sentences_of(lengths, seed), tokenizer(), 64)


def one_batch(texts: TokenisedTexts, members: Any, tokens: int | None = None, *, special_tokens: bool = True) -> Batch:
    draw = draw_tokens(texts, tokens, seed=3, special_tokens=special_tokens)
    return make_batch(texts, draw, np.asarray(members), 0, CPU)


def hidden_states(model: Any, batch: Batch) -> list[torch.Tensor]:
    """Every layer as Hugging Face gives it, the drawn rows alone."""
    arguments = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        arguments["token_type_ids"] = batch.token_type_ids
    with torch.inference_mode():
        states = model(**arguments, output_hidden_states=True).hidden_states
    return [state.reshape(-1, state.shape[-1])[batch.rows] for state in states]


def hook_count(model: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) + ("forward" in vars(m)) for m in model.modules())


# ---------------------------------------------------------------------------------------------------------- tokenising


def test_tokens_are_those_of_the_tokenizer_one_text_at_a_time() -> None:
    examples = [
        Example("the cat sat", None, "a"),
        Example("the dog", "rain fell on a mat", "b"),
        Example("rain fell", None, "c"),
    ]
    texts = tokenise(examples, tokenizer(), 64)
    for number, example in enumerate(examples):
        alone = tokenizer()(example.text, example.pair, return_special_tokens_mask=True)
        own = slice(texts.starts[number], texts.starts[number + 1])
        assert texts.ids[own].tolist() == alone["input_ids"]
        assert texts.types[own].tolist() == alone["token_type_ids"]
        assert texts.special[own].tolist() == [bool(mark) for mark in alone["special_tokens_mask"]]
    assert texts.lengths.tolist() == [5, 10, 4]
    assert texts.n_truncated == 0


def test_a_tokenizer_without_token_types_gives_zeros() -> None:
    texts = tokenise([Example("the cat", "a dog ran", "pair")], tokenizer(types=False), 64)
    assert texts.types.tolist() == [0] * 8


def test_cut_texts_are_counted_and_texts_that_just_fit_are_not() -> None:
    pair = Example(" ".join(WORDS[:5]), " ".join(WORDS[:5]), "pair")
    texts = tokenise([*sentences_of([4, 5, 6, 20]), pair], tokenizer(), 7)
    assert texts.lengths.tolist() == [6, 7, 7, 7, 7]
    assert texts.n_truncated == 3


def test_no_room_beside_the_special_tokens() -> None:
    with pytest.raises(OptionError, match="max_length is 2, but each sentence has 2 special tokens"):
        tokenise(sentences_of([3]), tokenizer(), 2)


# ------------------------------------------------------------------------------------------------------------ the draw


def test_sentences_are_drawn_without_replacement_in_order() -> None:
    drawn = draw_sentences(1000, 100, seed=0)
    assert len(set(drawn.tolist())) == 100
    assert (np.diff(drawn) > 0).all()
    assert 350 < drawn.mean() < 650
    assert drawn.tolist() == draw_sentences(1000, 100, seed=0).tolist()
    assert drawn.tolist() != draw_sentences(1000, 100, seed=1).tolist()
    assert draw_sentences(10, 11, seed=0).tolist() == list(range(10))


def test_tokens_are_drawn_uniformly_and_name_their_sentence() -> None:
    texts = texts_of([3, 1, 8, 5])
    counts = np.zeros(len(texts.ids))
    for seed in range(2000):
        draw = draw_tokens(texts, 6, seed)
        counts[draw.positions] += 1
        assert len(set(draw.positions.tolist())) == draw.n_tokens == 6
        assert (texts.starts[draw.sentences] <= draw.positions).all()
        assert (draw.positions < texts.starts[draw.sentences + 1]).all()
        assert draw.n_sentences == len(set(draw.sentences.tolist()))
    assert counts[texts.special].sum() == 0
    expected = 2000 * 6 / 17  # of 17 words, 6 are drawn each time
    assert np.abs(counts[~texts.special] - expected).max() < 5 * np.sqrt(expected)


def test_all_tokens_and_special_tokens() -> None:
    texts = texts_of([3, 1, 8])
    assert draw_tokens(texts, None, seed=0).positions.tolist() == np.flatnonzero(~texts.special).tolist()
    assert draw_tokens(texts, 1000, seed=0).n_tokens == 12
    assert draw_tokens(texts, None, seed=0, special_tokens=True).n_tokens == 18


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("batch_tokens", [1, 64, 512, 4096, 32768])
def test_every_sentence_is_in_one_batch_within_the_budget(batch_tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 200, size=500)
    chosen = np.flatnonzero(lengths % 3 > 0)
    batches = plan_batches(lengths, chosen, batch_tokens)
    assert sorted(np.concatenate(batches).tolist()) == chosen.tolist()
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= batch_tokens for batch in batches)


@pytest.mark.parametrize("batch_tokens", [1024, 4096, 32768])
@pytest.mark.parametrize("mean", [2.2, 3.0, 4.5])
@pytest.mark.parametrize("count", [20, 300, 3000])
def test_padding_stays_under_ten_percent(batch_tokens: int, mean: float, count: int) -> None:
    # Lengths of sentences are nearly log-normal; these means are those of short questions, news, and passages.
    lengths = np.clip(np.random.default_rng(0).lognormal(mean, 0.6, size=count).astype(np.int64) + 2, 3, 512)
    batches = plan_batches(lengths, np.arange(count), batch_tokens)
    assert 0 <= padding_share(lengths, batches) <= MAX_PADDING < 0.1


def test_nothing_to_batch() -> None:
    assert plan_batches(np.array([3, 4]), np.array([], dtype=np.int64), 64) == []
    assert padding_share(np.array([3, 4]), []) == 0.0


def test_a_batch_carries_its_tokens_and_where_the_drawn_ones_lie() -> None:
    texts = texts_of([3, 9, 1, 5])
    draw = draw_tokens(texts, 8, seed=1)
    batch = make_batch(texts, draw, np.array([1, 3, 0]), pad_id=7, device=CPU)
    assert batch.input_ids.shape == (3, 11)
    for row, sentence in enumerate([1, 3, 0]):
        length = texts.lengths[sentence]
        assert batch.input_ids[row, :length].tolist() == texts.ids[texts.starts[sentence] :][:length].tolist()
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (11 - length)
        assert (batch.input_ids[row, length:] == 7).all()
    drawn = [position for sentence in (1, 3, 0) for position in draw.positions[draw.sentences == sentence]]
    assert batch.input_ids.flatten()[batch.rows].tolist() == texts.ids[drawn].tolist()
    assert batch.attention_mask.flatten()[batch.rows].all()
    assert batch.sentences.tolist() == sorted(batch.sentences.tolist(), key=[1, 3, 0].index)
    assert len(batch.rows) == len(batch.sentences) == (draw.sentences != 2).sum()


# -------------------------------------------------------------------------------------------------------- hidden states
#
# Where bits are compared, the same operations run in one process, with one number of threads, on tensors of the same
# shapes in memory of torch's own, which begins at a multiple of 64 bytes. No library then has a reason to round
# differently.


@pytest.mark.equality
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_equal_the_hidden_states_of_transformers(architecture: Any) -> None:
    model = made(architecture)
    batch = one_batch(texts_of([3, 12, 7]), [1, 2, 0], tokens=15)
    expected = hidden_states(model, batch)
    before = hook_count(model)
    reading = read_layers(model, batch, range(DEPTH + 1))
    assert sorted(reading.rows) == list(range(DEPTH + 1))
    for layer, rows in reading.rows.items():
        assert rows.is_contiguous()
        torch.testing.assert_close(rows, expected[layer], rtol=0, atol=0)
    assert hook_count(model) == before


@pytest.mark.equality
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_does_not_move_a_row(architecture: Any) -> None:
    model = made(architecture)
    texts = texts_of([3, 12])
    padded = read_layers(model, one_batch(texts, [1, 0]), range(DEPTH + 1)).rows
    alone = [read_layers(model, one_batch(texts, [member]), range(DEPTH + 1)).rows for member in (1, 0)]
    for layer, rows in padded.items():
        torch.testing.assert_close(rows, torch.cat([part[layer] for part in alone]), rtol=1e-4, atol=1e-5)


def test_pairs_reach_the_model_with_their_token_types() -> None:
    model = made(bert)
    texts = tokenise([Example("the cat", "a dog ran", "pair")], tokenizer(), 64)
    batch = one_batch(texts, [0])
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    rows = read_layers(model, batch, [0]).rows[0]
    torch.testing.assert_close(rows, hidden_states(model, batch)[0], rtol=0, atol=0)
    plain = read_layers(model, batch._replace(token_type_ids=torch.zeros_like(batch.token_type_ids)), [0]).rows[0]
    assert not torch.equal(rows, plain)


@pytest.mark.equality
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_pass_ends_at_the_last_layer_wanted(architecture: Any) -> None:
    model = made(architecture)
    batch = one_batch(texts_of([3, 12]), [1, 0])
    calls = counted_calls(model)
    rows = read_layers(model, batch, [0, 2]).rows
    assert calls() == [1, 1, 0, 0]
    torch.testing.assert_close(rows[2], hidden_states(model, batch)[2], rtol=0, atol=0)


@pytest.mark.equality
@pytest.mark.parametrize("shared", range(DEPTH))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prefix_stands_for_the_blocks_below_it(architecture: Any, shared: int) -> None:
    base, tuned = made(architecture), made(architecture, seed=1)
    tuned.load_state_dict(base.state_dict())
    with torch.no_grad():
        for parameter in block_stack(tuned)[shared].parameters():
            parameter.mul_(1.25)
    batch = one_batch(texts_of([3, 12, 7]), [1, 2, 0], tokens=15)
    expected = hidden_states(tuned, batch)
    before = hook_count(tuned)
    prefix = read_layers(base, batch, [DEPTH], prefix_layers=[shared]).prefixes[shared]
    calls = counted_calls(tuned)
    rows = read_layers(tuned, batch, range(shared + 1, DEPTH + 1), prefix=prefix).rows
    assert calls() == [int(block >= shared) for block in range(DEPTH)]
    assert sorted(rows) == list(range(shared + 1, DEPTH + 1))
    for layer, own in rows.items():
        torch.testing.assert_close(own, expected[layer], rtol=0, atol=0)
    assert hook_count(tuned) == before


def test_hooks_are_removed_when_a_block_fails() -> None:
    model = made(bert)
    batch = one_batch(texts_of([3]), [0])
    prefix = read_layers(model, batch, [3], prefix_layers=[2]).prefixes[2]
    before = hook_count(model)
    broken = model.encoder.layer[3].attention
    broken.forward = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(CheckpointError, match=r"BertModel cannot run on 1 text of 5 tokens \(RuntimeError: broken\)"):
        read_layers(model, batch, [4], prefix=prefix)
    del broken.forward
    assert hook_count(model) == before


def test_a_stack_that_is_not_batch_by_token_is_refused() -> None:
    model = made(bert)
    batch = one_batch(texts_of([3, 12]), [1, 0])
    # As architectures do that put the sentence first.
    model.encoder.layer[1].register_forward_hook(lambda _module, _inputs, output: output.transpose(0, 1))
    with pytest.raises(CheckpointError, match=r"hidden layer 2 has shape \(14, 2, 32\), expected .* \(2, 14\) tokens"):
        read_layers(model, batch, range(DEPTH + 1))


def counted_calls(model: Any) -> Any:
    """A function that tells how often the attention of each block has run since."""
    counts = [0] * DEPTH

    def count(block: int) -> Any:
        def hook(*_: Any) -> None:
            counts[block] += 1

        return hook

    handles = []
    for number, block in enumerate(block_stack(model)):
        linear = next(module for module in block.modules() if hasattr(module, "weight") and module.weight.ndim == 2)
        handles.append(linear.register_forward_hook(count(number)))

    def calls() -> list[int]:
        for handle in handles:
            handle.remove()
        return counts

    return calls


# ------------------------------------------------------------------------------------------------------ several models


@pytest.mark.equality
def test_a_stream_reads_every_drawn_token_of_every_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertft.activations.stream.MIN_ROWS", 1000)
    base, near, far = made(bert), made(bert), made(bert, seed=5)
    with torch.no_grad():
        near.encoder.layer[2].output.dense.weight.mul_(2)
    texts = texts_of(np.random.default_rng(0).integers(20, 30, size=80))
    draw = draw_tokens(texts, 1500, seed=0)
    plan = plan_batches(texts.lengths, np.unique(draw.sentences), 512)
    batches = [make_batch(texts, draw, members, 0, CPU) for members in plan]
    runs = count_runs(base)
    chunks = list(stream(base, [TunedModel(near, 2), TunedModel(far, -1), TunedModel(base, DEPTH)], [1, 3, 4], batches))
    assert runs() == len(batches)
    assert len(chunks) == 2
    assert len(chunks[0].sentences) >= 1000
    for model, pick, layers in (
        (base, lambda chunk: chunk.base, [1, 3, 4]),
        (near, lambda chunk: chunk.tuned[0], [3, 4]),
        (far, lambda chunk: chunk.tuned[1], [1, 3, 4]),
        (base, lambda chunk: chunk.tuned[2], []),
    ):
        assert all(sorted(pick(chunk)) == layers for chunk in chunks)
        expected = [hidden_states(model, batch) for batch in batches]
        for layer in layers:
            rows = torch.cat([pick(chunk)[layer] for chunk in chunks])
            torch.testing.assert_close(rows, torch.cat([states[layer] for states in expected]), rtol=0, atol=0)
    assert np.concatenate([chunk.sentences for chunk in chunks]).tolist() == [s for b in batches for s in b.sentences]


def test_equal_models_are_not_run() -> None:
    base = made(bert)
    runs = count_runs(base)
    batches = [one_batch(texts_of([3]), [0])]
    assert list(stream(base, [TunedModel(base, DEPTH)], range(DEPTH + 1), batches)) == []
    assert list(stream(base, [TunedModel(base, 2)], [0, 2], batches)) == []
    assert runs() == 0
    (chunk,) = stream(base, [TunedModel(base, DEPTH)], [1, 2], batches, base_layers=[2])
    assert sorted(chunk.base) == [2]
    assert chunk.tuned == ({},)


def count_runs(model: Any) -> Any:
    counts = [0]

    def hook(*_: Any) -> None:
        counts[0] += 1

    handle = model.register_forward_pre_hook(hook)

    def runs() -> int:
        handle.remove()
        return counts[0]

    return runs


# ------------------------------------------------------------------------------------------------------------- z-scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_columns_that_are_constant_to_rounding_have_no_z_scores(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(dtype).eps
    given = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    noise = (torch.rand(500, generator=generator, dtype=torch.float64) - 0.5) * eps
    given[:, 1] = 0.3 + noise  # as sums in another order leave it
    given[:, 2] = noise * min(1.0, torch.finfo(torch.float32).eps / eps)  # a difference of sums in float32 or wider
    given[:, 3] = 1000 * (1 + noise)
    given[:, 4] = 2 + 100 * eps * given[:, 4]  # varies
    rows = given.to(dtype)
    standardizer = Standardizer()
    standardizer.update(rows)
    spread = standardizer.apply(rows).double().std(dim=0)
    assert not spread[1:4].any()
    assert spread[[0, 4, 5]].numpy() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_z_scores_of_parts_are_those_of_the_whole(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 6)) * [1, 1e-3, 100, 1, 1, 1] + [
        0,
        1e3 if dtype != torch.bfloat16 else 1,
        -500,
        0,
        0,
        4,
    ]
    rows[:, 4] = 0.1
    rows[0] *= 30
    rows[0, 4] = 0.1
    given = torch.from_numpy(rows).to(dtype)
    standardizer = Standardizer()
    for part in given.split([1, 0, 99, 400]):
        standardizer.update(part)
    scores = standardizer.apply(given)
    truth = given.double().numpy()
    spread = truth.std(axis=0)
    truth = (truth - truth.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(scores.numpy(), truth, rtol=1e-6, atol=1e-6)
    assert not scores[:, 4].any()
