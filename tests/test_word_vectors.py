"""Words from subwords and the cache of their vectors, against plain sums over `output_hidden_states`."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from bertft.activations import cache as cache_module
from bertft.activations.cache import default_cache, readable
from bertft.activations.subwords import tokenise_subwords
from bertft.activations.vectors import CachedVectors, subword_vectors, word_vectors
from bertft.activations.words import TokenisedWords, pooled, tokenise_words
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import randomised
from bertft.checkpoints.load import load_checkpoint
from bertft.data import read_treebank
from bertft.errors import ArrayError, BertftError, CheckpointError, DataError, OptionError

DEPTH, WIDTH = 3, 32
LIMIT = 40
SHAPE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.5,
}
TEXT = ["the cats sat on the mat , and it didn 't rain", "cats and dogs sat on mats", "raining on the mat ( again )"]
SENTENCES = [
    ["cats", "sat", "."],
    ["It", "did", "n't", "rain", "on", "the", "café", ",", "(", "again", ")"],
    ["rain"],
    ["中文", "🙂", "mats", "10 000", "…", "it's"],  # subwords of a space alone, many subwords, a space inside
    ["unbelievably", "the", "xylophones", "sat"],
    ["the"] * 20,
]


def fast(inner: Tokenizer, limit: int = LIMIT, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=limit, **names)


def wordpiece() -> PreTrainedTokenizerFast:
    letters = "abcdefghilmnoprstuvxy"
    words = ["the", "cat", "##s", "rain", "mat", "sat", "on", *",.()'10"]
    words += [*letters, *(f"##{letter}" for letter in letters), "##0"]
    return tiny.tokenizer(words, subwords=True, lowercase=True, model_max_length=LIMIT)


def byte_level(special: list[str], size: int = 300) -> Tokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXT, trainer)
    return inner


def roberta_bytes() -> PreTrainedTokenizerFast:
    inner = byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return fast(inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def gpt2_bytes() -> PreTrainedTokenizerFast:
    inner = byte_level(["<|endoftext|>"])
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    return fast(inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")


def unigram() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    inner.train_from_iterator(TEXT, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=None, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return fast(inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def bert_model(size: int) -> BertModel:
    return BertModel(BertConfig(vocab_size=size, max_position_embeddings=LIMIT, **SHAPE))


def roberta_model(size: int) -> RobertaModel:
    return RobertaModel(RobertaConfig(vocab_size=size, max_position_embeddings=LIMIT + 2, type_vocab_size=1, **SHAPE))


def gpt2_model(size: int) -> GPT2Model:
    return GPT2Model(
        GPT2Config(
            vocab_size=size, n_embd=WIDTH, n_layer=DEPTH, n_head=4, n_positions=LIMIT, bos_token_id=0, eos_token_id=0
        )
    )


def xlmr_model(size: int) -> XLMRobertaModel:
    config = XLMRobertaConfig(vocab_size=size, max_position_embeddings=LIMIT + 2, type_vocab_size=1, **SHAPE)
    return XLMRobertaModel(config)


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {
    "bert": (wordpiece, bert_model),
    "roberta": (roberta_bytes, roberta_model),
    "gpt2": (gpt2_bytes, gpt2_model),
    "xlm-r": (unigram, xlmr_model),
}


def made(family: str = "bert", seed: int = 0) -> Checkpoint:
    tokenizer, model = (build for build in FAMILIES[family])
    subwords = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = model(len(subwords.get_vocab())).eval().requires_grad_(False)
    return Checkpoint(family, body, subwords, f"{family}-{seed}")


def subwords_by_hand(checkpoint: Checkpoint, words: list[str]) -> list[list[int]]:
    """The subwords of each word on its own, with the space before it where the tokenizer marks spaces."""
    spaced = [word if place == 0 or checkpoint.name == "bert" else f" {word}" for place, word in enumerate(words)]
    return [checkpoint.tokenizer(word, add_special_tokens=False)["input_ids"] for word in spaced]


def by_hand(checkpoint: Checkpoint, words: list[str], pooling: str) -> np.ndarray:
    """The vectors of one sentence, (layers, words, d): the sentence alone, word by word."""
    subwords = subwords_by_hand(checkpoint, words)
    flat = [subword for of_word in subwords for subword in of_word]
    before = checkpoint.tokenizer("cats")["input_ids"].index(
        checkpoint.tokenizer("cats", add_special_tokens=False)["input_ids"][0]
    )
    whole = checkpoint.tokenizer(" ".join(words))["input_ids"]
    assert whole[before : before + len(flat)] == flat
    with torch.inference_mode():
        states = checkpoint.model(input_ids=torch.tensor([whole]), output_hidden_states=True).hidden_states
    stacked = torch.stack(states)[:, 0].double().numpy()
    vectors, start = [], before
    for of_word in subwords:
        own = stacked[:, start : start + len(of_word)]
        start += len(of_word)
        vectors.append({"mean": own.sum(1) / len(of_word), "first": own[:, 0], "last": own[:, -1]}[pooling])
    return np.stack(vectors, axis=1)


def forwards(checkpoint: Checkpoint) -> list[int]:
    """A list that grows by one with every forward pass from now on."""
    calls: list[int] = []
    checkpoint.model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def tokenised(sentences: list[list[str]], family: str = "bert", limit: int = LIMIT) -> TokenisedWords:
    return tokenise_words(sentences, FAMILIES[family][0](), limit)


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("family", FAMILIES)
def test_every_word_has_the_subwords_it_has_alone(family: str) -> None:
    checkpoint = made(family)
    words = tokenise_words(SENTENCES, checkpoint.tokenizer, 200)
    row = 0
    for sentence in SENTENCES:
        for subwords in subwords_by_hand(checkpoint, sentence):
            assert words.texts.ids[words.word_of_token == row].tolist() == subwords, sentence
            row += 1
    assert row == words.counts.kept_words == words.counts.words == len(words.subwords)
    assert words.subwords.sum() == words.counts.subwords == (words.word_of_token >= 0).sum()
    assert words.starts.tolist() == [0, *np.cumsum([len(sentence) for sentence in SENTENCES])]


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_a_subword_that_is_a_space_alone_belongs_to_the_word_after_it(family: str) -> None:
    words = tokenised([["on", "中", "on"]], family)
    tokens = FAMILIES[family][0]().convert_ids_to_tokens(words.texts.ids[words.word_of_token == 1])
    assert tokens[0] == "Ġ"
    assert len(tokens) == 4


def test_what_happened_to_the_words_is_counted() -> None:
    sentences = [
        ["the", "cats", "sat"],
        ["the", "日", "日", "sat"],  # unknown letters
        ["the", "\u200b", "mat"],  # nothing is left of a zero-width space
        ["the"] * 39,  # 41 tokens
        ["s" * 38],  # 40 tokens
        ["s" * 101],  # longer than WordPiece takes apart: unknown as a whole
        ["\u200b"] * 2 + ["the"] * 39,
    ]
    words = tokenised(sentences)
    counts = words.counts
    assert (counts.sentences, counts.words) == (7, 3 + 4 + 3 + 39 + 1 + 1 + 41)
    assert (counts.too_long_sentences, counts.incomplete_sentences, counts.empty_words) == (2, 1, 3)
    assert (counts.kept_sentences, counts.kept_words) == (4, 9)
    assert (counts.subwords, counts.most_subwords, counts.split_words) == (4 + 4 + 38 + 1, 38, 2)
    assert counts.unknown_words == 3
    assert words.starts.tolist() == [0, 3, 7, 7, 7, 8, 9, 9]
    assert (words.word_of_token >= 0).sum() == counts.subwords
    assert counts.notes(LIMIT) == (
        "2 of 7 sentences have more than 40 tokens and were dropped",
        "1 of 7 sentences were dropped because a word in them has no subwords",
        "3 of 9 words are unknown to the tokenizer",
    )
    assert tokenised(SENTENCES[:1]).counts.notes(LIMIT) == ()


def test_long_words_are_words() -> None:
    words = tokenised([["-" * 80, "ab" * 40, "."]], "gpt2", limit=200)
    assert words.counts.kept_words == 3
    assert words.counts.most_subwords >= 40


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "no sentences"),
        ([["a"], []], r"sentences\[1\]: no words"),
        (["It rains."], r"sentences\[0\]: got one string, 'It rains.'; give each sentence as a list"),
        ([["a", ""]], r"sentences\[0\]: expected words, got ''"),
        ([["a", 7]], r"sentences\[0\]: expected words, got 7"),
        ([["\ud83d"]], r"sentences\[0\]: character 0 .* surrogate"),
        ([[" "]], r"sentences\[0\]: a text is blank"),
    ],
)
def test_words_that_are_none(sentences: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tokenised(sentences)


def test_tokenizers_that_do_not_say_where_a_token_is_from() -> None:
    with pytest.raises(CheckpointError, match="SimpleNamespace: has no character offsets"):
        tokenise_words([["a"]], SimpleNamespace(is_fast=False), LIMIT)

    class Backwards:
        is_fast, unk_token_id = True, None

        def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
            return {"input_ids": [[5, 6]], "special_tokens_mask": [[0, 0]], "offset_mapping": [[(2, 3), (0, 1)]]}

    with pytest.raises(CheckpointError, match="Backwards: its character offsets decrease"):
        tokenise_words([["a", "b"]], Backwards(), LIMIT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pooling_is_at_least_float32(dtype: torch.dtype) -> None:
    rows = torch.tensor([[256.0], [1.0], [1.0], [7.0]], dtype=dtype)
    means = pooled(rows, torch.tensor([3, 1]))
    assert means.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert means.tolist() == [[86.0], [7.0]]


# ------------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_equal_plain_sums_over_hidden_states(family: str, pooling: str, tmp_path: Path) -> None:
    checkpoint = made(family)
    vectors = word_vectors(checkpoint, SENTENCES, pooling=pooling, dtype="float32", cache=tmp_path, batch_tokens=30)
    assert vectors.layers == tuple(range(DEPTH + 1))
    assert len(vectors.kept) >= 5
    for sentence in vectors.kept:
        expected = by_hand(checkpoint, SENTENCES[sentence], pooling)
        for layer in vectors.layers:
            rows = vectors.layer(layer)[vectors.rows(sentence)]
            np.testing.assert_allclose(rows, expected[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_of_subwords_are_the_hidden_states_themselves(family: str, tmp_path: Path) -> None:
    checkpoint = made(family)
    tokenizer = checkpoint.tokenizer
    long = [*["cats", "rain"] * 30, "mats"]
    sentences = [*SENTENCES, long]
    vectors = subword_vectors(checkpoint, sentences, dtype="float32", cache=tmp_path, batch_tokens=60)
    assert vectors.counts.cut_sentences >= 1
    assert vectors.n_rows == vectors.counts.subwords
    for number, words in enumerate(sentences):
        whole = tokenizer(" ".join(words), truncation=True, max_length=LIMIT)["input_ids"]
        special = tokenizer(" ".join(words), truncation=True, max_length=LIMIT, return_special_tokens_mask=True)
        own = np.flatnonzero(np.array(special["special_tokens_mask"]) == 0)
        with torch.inference_mode():
            states = checkpoint.model(input_ids=torch.tensor([whole]), output_hidden_states=True).hidden_states
        for layer in vectors.layers:
            rows = vectors.layer(layer)[vectors.rows(number)]
            np.testing.assert_allclose(rows, states[layer][0, own], rtol=1e-4, atol=1e-5)
        # Every span of words, against the subwords of each word on its own.
        ends = np.cumsum([0, *(len(subwords) for subwords in subwords_by_hand(checkpoint, words))])
        spans = np.array([(a, b) for a in range(len(words)) for b in range(a + 1, min(a + 4, len(words)) + 1)])
        found, complete = vectors.ranges.spans(np.full(len(spans), number), spans)
        assert found.tolist() == ends[spans].tolist()
        assert complete.tolist() == (ends[spans[:, 1]] <= len(own)).tolist()


def test_subwords_that_are_cut_off_and_words_without_any() -> None:
    sentences = [
        ["the", "\u200b", "mats", "\u200b"],  # 1, 0, 2 and 0 subwords
        ["the"] * 37 + ["cats", "sat"],  # 42 tokens of 40: `cats` is cut in two
        ["\u200b"],
    ]
    subwords = tokenise_subwords(sentences, wordpiece(), LIMIT)
    counts = subwords.counts
    assert (counts.sentences, counts.words, counts.subwords) == (3, 4 + 39 + 1, 3 + 38)
    assert (counts.cut_sentences, counts.empty_words, counts.unknown_words) == (1, 3, 0)
    assert counts.notes(LIMIT) == (
        "1 of 3 sentences have more than 40 tokens and were cut",
        "3 of 44 words have no subwords",
    )
    assert subwords.starts.tolist() == [0, 3, 41, 41]
    assert subwords.texts.lengths.tolist() == [5, 40, 2]
    asked = [
        (0, (0, 1), (0, 1), True),
        (0, (1, 2), (1, 1), False),
        (0, (0, 2), (0, 1), True),
        (0, (1, 4), (1, 3), True),
        (1, (36, 37), (36, 37), True),
        (1, (36, 38), (36, 39), False),
        (1, (38, 39), (39, 40), False),
        (2, (0, 1), (0, 0), False),
    ]
    where, spans, expected, whole = (np.array(part) for part in zip(*asked, strict=True))
    found, complete = subwords.ranges.spans(where, spans)
    assert found.tolist() == expected.tolist()
    assert complete.tolist() == whole.tolist()


def test_subwords_have_an_entry_of_their_own_that_is_used_again(tmp_path: Path) -> None:
    checkpoint = made()
    word_vectors(checkpoint, SENTENCES[:1], pooling="first", cache=tmp_path)  # words of one subword each
    calls, said = forwards(checkpoint), list[str]()
    first = subword_vectors(checkpoint, SENTENCES[:1], cache=tmp_path, say=said.append)
    assert (first.reused, len(calls) > 0) == (False, True)
    assert said[0].startswith("subword vectors of bert: 4 layers × 4 subwords × 32, 1.")
    ran = len(calls)
    again = subword_vectors(checkpoint, SENTENCES[:1], cache=tmp_path, say=said.append)
    assert (again.reused, len(calls)) == (True, ran)
    path = again.folder / "layer-02.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not subword_vectors(checkpoint, SENTENCES[:1], cache=tmp_path, say=said.append).reused
    assert "checksum" in said[2]
    with pytest.raises(DataError, match=r"all 1 sentences were dropped: 1 of 1 words have no subwords"):
        subword_vectors(checkpoint, [["\u200b"]], cache=tmp_path)


def test_poolings_differ_where_a_word_is_split(tmp_path: Path) -> None:
    of = {
        pooling: word_vectors(made(), SENTENCES, pooling=pooling, dtype="float32", cache=tmp_path).layer(1)
        for pooling in ("mean", "first", "last")
    }
    split = tokenised(SENTENCES).subwords > 1
    assert split.any()
    for one, other in (("mean", "first"), ("first", "last"), ("mean", "last")):
        same = (np.abs(of[one] - of[other]) < 1e-6).all(axis=1)
        assert (same == ~split).all()


def test_float16_is_the_rounded_float32(tmp_path: Path) -> None:
    half, single = (word_vectors(made(), SENTENCES, dtype=dtype, cache=tmp_path) for dtype in ("float16", "float32"))
    assert (half.dtype, single.dtype) == (np.float16, np.float32)
    assert half.n_bytes < single.n_bytes
    for layer in half.layers:
        assert half.layer(layer).dtype == np.float16
        assert (half.layer(layer) == single.layer(layer).astype(np.float16)).all()


def test_batches_of_training_are_padded(tmp_path: Path) -> None:
    vectors = word_vectors(made(), [*SENTENCES, ["the"] * 50], cache=tmp_path)
    batch = vectors.padded([4, 0, 2], [3, 1])
    assert batch.shape == (2, 3, 4, WIDTH)
    assert batch.dtype == np.float32
    for own, layer in zip(batch, [3, 1], strict=True):
        for place, sentence in zip(own, [4, 0, 2], strict=True):
            length = vectors.lengths[sentence]
            assert (place[:length] == vectors.layer(layer)[vectors.rows(sentence)]).all()
            assert not place[length:].any()
    assert vectors.padded(np.array([1])).shape == (DEPTH + 1, 1, 11, WIDTH)
    assert vectors.padded([0], dtype="float16").dtype == np.float16
    assert vectors.padded([]).shape == (DEPTH + 1, 0, 0, WIDTH)
    with pytest.raises(OptionError, match="sentence 6 was dropped and has no vectors"):
        vectors.padded([0, 6])
    with pytest.raises(OptionError, match="layer 4 was not requested; the vectors have the layers 0, 1, 2, 3"):
        vectors.padded([0], [4])
    with pytest.raises(OptionError, match="layer 4 was not requested"):
        vectors.layer(4)


def test_the_real_model_on_the_real_treebank(data_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(model_dir)
    trees = read_treebank(data_dir / "ud_ewt" / "en_ewt-ud-dev.conllu").split("dev")[:60:12]
    vectors = word_vectors(checkpoint, [tree.forms for tree in trees], dtype="float32", cache=tmp_path)
    assert vectors.lengths.tolist() == [len(tree) for tree in trees]
    assert vectors.counts.split_words > 0
    for number, tree in enumerate(trees):
        # An independent alignment, by the tokenizer's own word numbers.
        encoded = checkpoint.tokenizer(list(tree.forms), is_split_into_words=True, return_tensors="pt")
        owners = np.array([-1 if owner is None else owner for owner in encoded.word_ids()])
        with torch.inference_mode():
            states = checkpoint.model(**encoded, output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            means = [state[0, owners == word].double().mean(0).numpy() for word in range(len(tree))]
            np.testing.assert_allclose(vectors.layer(layer)[vectors.rows(number)], means, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- cache


def entries(root: Path) -> list[str]:
    """The entries and temporary folders of a cache; lock files are empty and may stay, as filelock decides."""
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def same(ours: CachedVectors, theirs: CachedVectors) -> bool:
    return ours.layers == theirs.layers and all((ours.layer(k) == theirs.layer(k)).all() for k in ours.layers)


def test_a_second_run_computes_nothing_and_says_so(tmp_path: Path) -> None:
    checkpoint = made()
    calls, lines, told = forwards(checkpoint), [], []
    first = word_vectors(
        checkpoint, SENTENCES, cache=tmp_path, batch_tokens=30, say=lines.append, progress=lambda *of: told.append(of)
    )
    n_batches = len(calls)
    assert n_batches > 2
    assert not first.reused
    assert [line.split(" are written to ")[0] for line in lines] == [
        f"word vectors of bert: 4 layers × 45 words × 32, {readable(first.n_bytes)} as float16,"
    ]
    assert len(told) == n_batches
    assert told[-1] == (len(SENTENCES), len(SENTENCES), "word vectors of bert")

    second = word_vectors(made(), SENTENCES, cache=tmp_path, say=lines.append)
    assert second.reused
    assert same(first, second)
    assert second.counts == first.counts
    assert f"reused from {first.folder}" in lines[1]
    assert word_vectors(checkpoint, SENTENCES, cache=tmp_path).reused
    assert len(calls) == n_batches
    assert len(entries(tmp_path)) == 1


def test_the_size_that_is_told_is_the_size_on_disk(tmp_path: Path) -> None:
    vectors = word_vectors(made(), SENTENCES, cache=tmp_path, layers="1-3", dtype="float32")
    assert vectors.n_bytes == sum(path.stat().st_size for path in vectors.folder.glob("*.npy"))
    assert vectors.n_bytes == 3 * (128 + 45 * WIDTH * 4)


def test_fewer_layers_are_taken_from_an_entry_of_more(tmp_path: Path) -> None:
    checkpoint = made()
    every = word_vectors(checkpoint, SENTENCES, cache=tmp_path)
    one = word_vectors(checkpoint, SENTENCES, layers=2, cache=tmp_path)
    assert one.reused
    assert one.layers == (2,)
    assert (one.layer(2) == every.layer(2)).all()
    other = tmp_path / "other"
    two = word_vectors(checkpoint, SENTENCES, layers=[0, 2], cache=other)
    assert not word_vectors(checkpoint, SENTENCES, layers=[0, 1], cache=other).reused
    assert not word_vectors(checkpoint, SENTENCES, layers=[0, 3], cache=other).reused
    assert word_vectors(checkpoint, SENTENCES, layers=[0, 2], cache=other).folder == two.folder
    assert len(entries(other)) == 3


def test_whatever_decides_the_numbers_is_part_of_the_name(tmp_path: Path) -> None:
    checkpoint = made()
    lower = made()
    lower.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    double = made()
    double.model.to(torch.float64)
    runs: list[tuple[Checkpoint, list[list[str]], dict[str, Any]]] = [
        (checkpoint, SENTENCES, {}),
        (checkpoint, SENTENCES, {"pooling": "first"}),
        (checkpoint, SENTENCES, {"dtype": "float32"}),
        (checkpoint, SENTENCES[::-1], {}),
        (checkpoint, [*SENTENCES[0:1], SENTENCES[1] + SENTENCES[2], *SENTENCES[3:]], {}),
        (checkpoint, [["it's", "."]], {}),
        (checkpoint, [["it", "'s."]], {}),  # the same subwords and as many words
        (checkpoint, [["rain", "s"]], {}),
        (checkpoint, [["rains"]], {}),
        (made(seed=1), SENTENCES, {}),
        (randomised(checkpoint, 0), SENTENCES, {}),
        (randomised(checkpoint, 1), SENTENCES, {}),
        (lower, SENTENCES, {}),
        (double, SENTENCES, {}),
    ]
    for given, sentences, options in runs:
        assert not word_vectors(given, sentences, cache=tmp_path, **options).reused
    assert len(entries(tmp_path)) == len(runs)
    assert word_vectors(randomised(checkpoint, 1), SENTENCES, cache=tmp_path).reused


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory"), OSError(errno.ENOSPC, "full")])
def test_an_interrupted_run_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    checkpoint = made()
    calls = []

    def fail(*_: Any) -> None:
        calls.append(entries(tmp_path))
        if len(calls) == 2:
            raise error

    hook = checkpoint.model.register_forward_pre_hook(fail)
    expected = BertftError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        word_vectors(checkpoint, SENTENCES, cache=tmp_path, batch_tokens=30)
    assert [len(names) for names in calls] == [1, 1]  # something was there to be removed
    assert entries(tmp_path) == []
    hook.remove()
    assert not word_vectors(checkpoint, SENTENCES, cache=tmp_path).reused


def test_a_killed_run_leaves_nothing_that_counts(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    before = root.parent / "copy"
    checkpoint = made()
    calls = []

    def copy(*_: Any) -> None:  # what a power cut would leave
        calls.append(1)
        if len(calls) == 2:
            shutil.copytree(root, before)

    hook = checkpoint.model.register_forward_pre_hook(copy)
    whole = word_vectors(checkpoint, SENTENCES, cache=root, batch_tokens=30)
    hook.remove()
    (left,) = (before / name for name in entries(before))
    assert sorted(path.name for path in left.iterdir()) == [f"layer-0{layer}.npy" for layer in range(4)]
    again = word_vectors(checkpoint, SENTENCES, cache=before, batch_tokens=30)
    assert not again.reused
    assert same(whole, again)
    assert left.exists()  # its run may still be going
    for path in (left, *left.iterdir()):
        os.utime(path, (0, 0))
    assert word_vectors(checkpoint, SENTENCES, cache=before).reused
    assert entries(before) == [again.folder.name]


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "layer-02.npy").read_bytes())
    content[1000] ^= 1
    (folder / "layer-02.npy").write_bytes(content)


def cut_off(folder: Path) -> None:
    os.truncate(folder / "layer-03.npy", 2000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "layer-02.npy is damaged: its checksum does not match the manifest"),
        (cut_off, "layer-03.npy has 2,000 bytes instead of 3,008"),
        (lambda folder: (folder / "layer-00.npy").unlink(), "layer-00.npy has 0 bytes instead of 3,008"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing or damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {"0"'), "manifest.json is missing or damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": [1]}'), "manifest.json is missing or damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is missing or damaged"),
    ],
)
def test_damage_is_noticed_and_repaired(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    checkpoint = made()
    whole = word_vectors(checkpoint, SENTENCES, cache=tmp_path / "whole")
    damaged = word_vectors(checkpoint, SENTENCES, cache=tmp_path / "damaged")
    damage(damaged.folder)
    lines: list[str] = []
    again = word_vectors(checkpoint, SENTENCES, cache=tmp_path / "damaged", say=lines.append)
    assert message in lines[0]
    assert not again.reused
    assert same(whole, again)
    assert word_vectors(checkpoint, SENTENCES, cache=tmp_path / "damaged").reused


def test_damage_in_a_layer_that_is_not_wanted_is_let_be(tmp_path: Path) -> None:
    checkpoint = made()
    flip_a_byte(word_vectors(checkpoint, SENTENCES, cache=tmp_path).folder)
    assert word_vectors(checkpoint, SENTENCES, layers=1, cache=tmp_path).reused
    assert not word_vectors(checkpoint, SENTENCES, layers=2, cache=tmp_path).reused


def test_a_file_cut_off_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    vectors = word_vectors(made(), SENTENCES, cache=tmp_path)
    cut_off(vectors.folder)
    with pytest.raises(BertftError, match=r"layer-03\.npy: was truncated while in use"):
        vectors.padded([5])


def test_a_second_writer_waits_for_the_first_and_reuses_its_entry(tmp_path: Path) -> None:
    """The first run stops in the middle until the second says that it waits, so the order is the same every time."""
    waits = threading.Event()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            waits.set()

    with ThreadPoolExecutor(1) as thread:
        second: list[Future[CachedVectors]] = []

        def start_the_second(done: int, total: int, _what: str) -> None:
            if done == total:
                second.append(thread.submit(word_vectors, made(), SENTENCES, cache=tmp_path, say=say))
                assert waits.wait(timeout=60)

        first = word_vectors(made(), SENTENCES, cache=tmp_path, progress=start_the_second)
        waited = second[0].result(timeout=60)
    assert [line.split(":")[0] for line in lines] == ["word vectors of bert"] * 2
    assert (first.reused, waited.reused) == (False, True)
    assert first.folder == waited.folder
    assert entries(tmp_path) == [first.folder.name]


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = word_vectors(made(), SENTENCES, cache=tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr(cache_module.filelock, "FileLock", refuse)
    assert same(word_vectors(made(), SENTENCES, cache=tmp_path), first)
    with pytest.raises(BertftError, match="read-only"):
        word_vectors(made(), SENTENCES[:2], cache=tmp_path)


def test_a_disk_that_is_too_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = forwards(checkpoint := made())
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(BertftError, match=r"take 23\.6 kB as float32, but only 10 kB are free; .* layers or float16"):
        word_vectors(checkpoint, SENTENCES, cache=tmp_path, dtype="float32")
    assert not calls
    assert entries(tmp_path) == []
    assert word_vectors(checkpoint, SENTENCES, cache=tmp_path, layers=0).n_bytes == 3008


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BertftError, match=r"file: cannot be used as a cache: .*choose another directory"):
        word_vectors(made(), SENTENCES, cache=tmp_path / "file")


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1e6, r"layer 0 reach .*e\+0., but the largest float16 is 6.55e\+04; store them as float32"),
        (np.nan, "not finite"),
    ],
)
def test_vectors_that_cannot_be_kept(factor: float, message: str, tmp_path: Path) -> None:
    checkpoint = made()
    with torch.no_grad():
        checkpoint.model.embeddings.LayerNorm.weight.mul_(factor)
    with pytest.raises(ArrayError, match=message):
        word_vectors(checkpoint, SENTENCES, cache=tmp_path)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "sum"}, "unknown pooling 'sum'; choose one of mean, first, last"),
        ({"dtype": "float64"}, "unknown dtype 'float64' .* choose one of float16, float32"),
        ({"layers": 4}, "there is no layer 4"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        word_vectors(made(), SENTENCES, cache=tmp_path, **options)


def test_nothing_left_to_keep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 1 sentences were dropped: 1 of 1 sentences have more than 40 tokens"):
        word_vectors(made(), [["the"] * 60], cache=tmp_path)


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "bertft"
    assert word_vectors(made(), SENTENCES[:1]).folder.parent == tmp_path / "bertft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "bertft"
