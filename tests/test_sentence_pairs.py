"""What BERT is pre-trained on: the vocabulary, the pairs and the masks, against Devlin et al.'s published rules."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bertft.data.plain_text import read_documents
from bertft.data.text_file import TextFile
from bertft.errors import DataError, OptionError
from bertft.tasks.sentence_pairs import FAR, IGNORED, Collate, SentencePairs, Tokens, pack, tokenise
from bertft.tasks.wordpiece import SPECIAL, train_wordpiece

WORDS = ["cat", "dog", "mat", "rat", "saw", "sat", "ran", "the", "a", "on", "under", "by", "big", "small"]


def made_documents(count: int, sentences: int, seed: int = 0) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(sentences)) for _ in range(count)]


def numbered(counts: list[list[int]]) -> Tokens:
    """A corpus of sentences of so many tokens each, by document; token t is number t."""
    lengths = [length for document in counts for length in document]
    return Tokens(
        np.arange(sum(lengths), dtype=np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([[0], np.cumsum([len(document) for document in counts])]).astype(np.int64),
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece([s for document in made_documents(4, 30) for s in document], 90)


def test_a_vocabulary_is_the_same_in_every_process(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    code = (
        "import json, sys; from bertft.tasks.wordpiece import train_wordpiece;"
        "print(json.dumps(train_wordpiece(json.load(sys.stdin), 90).get_vocab(), sort_keys=True))"
    )
    texts = json.dumps([s for document in made_documents(4, 30) for s in document])
    told = [
        subprocess.run(
            [sys.executable, "-c", code], input=texts, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in "12"
    ]  # fmt: skip
    assert told[0] == told[1] == json.dumps(tokenizer.get_vocab(), sort_keys=True) + "\n"


def test_a_vocabulary_survives_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read.get_vocab() == tokenizer.get_vocab()
    for text in ("The BIG cat sàt.", "zebra", "a"):
        assert read(text, "the mat").data == tokenizer(text, "the mat").data
    assert read.tokenize("The sát") == ["the", "sat"]
    assert read.tokenize("Zürich") == ["[UNK]"]
    assert read("cat", "mat")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert sorted(read.all_special_tokens) == sorted(SPECIAL)


def test_case_is_kept_where_asked() -> None:
    cased = train_wordpiece(["The Cat saw the cat", "The Cat sat"], 80, cased=True)
    assert cased.tokenize("Cat") != cased.tokenize("cat")


def test_a_vocabulary_too_small_for_the_alphabet() -> None:
    with pytest.raises(OptionError, match=r"a vocabulary of 8 does not hold the 3 characters .* at least 11"):
        train_wordpiece(["ab c"], 8)


def test_documents_are_parted_by_blank_lines() -> None:
    file = TextFile(Path("x.txt"), "\n a b \nc\n\n \nd\n", "0f")
    assert read_documents(file) == [("a b", "c"), ("d",)]
    with pytest.raises(DataError, match=r"x.txt:2: expected one sentence a line and a blank line .* got CoNLL-U"):
        read_documents(TextFile(Path("x.txt"), "\n# sent_id = 1\n1\ta\n", "0f"))


def test_tokens_know_where_sentences_and_documents_begin(tokenizer: PreTrainedTokenizerFast) -> None:
    # A sentence without a token is dropped, and a document of none with it.
    tokens = tokenise([("the cat", "\u200b", "a mat"), ("\u200b",), ("dog",)], tokenizer)
    assert tokenizer.decode(tokens.numbers) == "the cat a mat dog"
    assert tokens.documents.tolist() == [0, 2, 3]
    second = tokens.numbers[tokens.sentences[1] : tokens.sentences[2]]
    assert tokenizer.decode(second) == "a mat"


corpora = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=2, max_size=5)


@given(corpora, st.integers(5, 40), st.integers(0, 5))
def test_pairs_fit_and_keep_to_their_documents(counts: list[list[int]], max_length: int, seed: int) -> None:
    tokens = numbered(counts)
    edges = tokens.sentences[tokens.documents]
    pairs = pack(tokens, max_length, np.random.default_rng(seed))
    for a, a_end, b, b_end, false in pairs.tolist():
        assert a_end - a >= 1
        assert b_end - b >= 1
        assert (a_end - a) + (b_end - b) <= max_length - 3
        a_home, b_home = np.searchsorted(edges, [a, b], side="right")
        assert a_end <= edges[a_home]
        assert b_end <= edges[b_home]
        assert false == (a_home != b_home)
        if not false:
            assert a_end <= b


def test_segments_are_whole_sentences_that_follow_each_other_where_they_fit() -> None:
    tokens = numbered([[5] * 40, [5] * 40])
    pairs = pack(tokens, 33, np.random.default_rng(0))
    # 30 tokens are 6 sentences, so that no true pair is ever cut; a false B may be longer than there is room.
    true = pairs[pairs[:, 4] == 0]
    assert len(true) > 4
    assert (true[:, :4] % 5 == 0).all()
    assert (true[:, 1] == true[:, 2]).all()
    starts = pairs[:, 0].tolist()
    assert starts == sorted(starts)
    # What a false B took the place of opens the next chunk.
    for one, following in itertools.pairwise(pairs):
        if following[0] < 200 or one[0] >= 200:
            assert following[0] == one[3 if one[4] == 0 else 1]


def test_half_the_pairs_are_false_and_a_tenth_is_short() -> None:
    tokens = numbered([[1] * 3000 for _ in range(4)])
    pairs = np.concatenate([pack(tokens, 23, np.random.default_rng(seed)) for seed in range(4)])
    assert len(pairs) > 2000
    assert pairs[:, 4].mean() == pytest.approx(0.5, abs=0.05)
    lengths = pairs[:, 1] - pairs[:, 0] + pairs[:, 3] - pairs[:, 2]
    # One in ten is short, and one in 19 of these draws the full length.
    assert (lengths < 20).mean() == pytest.approx(0.1 * 18 / 19, abs=0.03)


def test_what_is_too_long_loses_tokens_of_its_longer_part_at_both_ends() -> None:
    tokens = numbered([[100, 7] * 20, [100, 7] * 20])
    pairs = pack(tokens, 43, np.random.default_rng(0))
    lengths = pairs[:, 1] - pairs[:, 0], pairs[:, 3] - pairs[:, 2]
    short = np.minimum(*lengths)
    assert set(np.unique(short)) <= {7, *range(14, 21)}
    whole = pairs[np.maximum(*lengths) + short == 40]
    assert len(whole) > 10
    fronts = whole[:, 0] % 107
    assert len(set(fronts.tolist())) > 5  # tokens were lost at the front, a different number each time


def test_a_false_segment_of_the_only_document_is_far_away() -> None:
    tokens = numbered([[1] * 1000])
    pairs = pack(tokens, 23, np.random.default_rng(0))
    false = pairs[pairs[:, 4] == 1]
    assert len(false) > 20
    assert (np.abs(false[:, 2] - false[:, 0]) >= FAR).all()
    assert (false[:, 2] < false[:, 0]).any()
    assert (false[:, 2] > false[:, 0]).any()
    with pytest.raises(DataError, match="one document of 3 sentences; give at least 8 sentences"):
        pack(numbered([[4, 4, 4]]), 23, np.random.default_rng(0))


def test_a_length_without_room() -> None:
    with pytest.raises(OptionError, match="max_length is 4; a pair needs at least 5 tokens"):
        pack(numbered([[4] * 9]), 4, np.random.default_rng(0))


def test_examples_are_what_bert_reads(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(made_documents(4, 40), tokenizer)
    examples = SentencePairs(tokens, tokenizer, 32, passes=2, seed=3)
    special = set(tokenizer.all_special_ids)
    kinds = {"mask": 0, "same": 0, "other": 0}
    total = chosen_total = 0
    for index in range(len(examples)):
        item = examples[index]
        a, a_end, b, b_end, false = examples.pairs[index].tolist()
        ids, labels = np.array(item["input_ids"]), np.array(item["labels"])
        whole = [examples.cls, *tokens.numbers[a:a_end], examples.sep, *tokens.numbers[b:b_end], examples.sep]
        assert len(ids) == len(labels) == len(item["token_type_ids"]) == len(whole)
        assert item["next_sentence_label"] == [false]
        assert sum(item["token_type_ids"]) == b_end - b + 1
        chosen = labels != IGNORED
        assert chosen.sum() == max(1, round(0.15 * len(whole)))
        assert (labels[chosen] == np.array(whole)[chosen]).all()
        assert (ids[~chosen] == np.array(whole)[~chosen]).all()
        assert not special & set(labels[chosen].tolist())
        kinds["mask"] += int((ids[chosen] == examples.mask).sum())
        kinds["same"] += int((ids[chosen] == labels[chosen]).sum())
        kinds["other"] += int(((ids != labels) & chosen & (ids != examples.mask)).sum())
        assert not (special - {examples.mask}) & set(ids[chosen].tolist())
        total += len(whole)
        chosen_total += int(chosen.sum())
    assert chosen_total / total == pytest.approx(0.15, abs=0.01)
    assert kinds["mask"] / chosen_total == pytest.approx(0.8, abs=0.04)
    assert kinds["other"] / chosen_total == pytest.approx(0.1, abs=0.03)


def test_an_example_is_a_function_of_seed_and_number(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(made_documents(3, 30), tokenizer)
    once, again, other = (SentencePairs(tokens, tokenizer, 32, passes=2, seed=seed) for seed in (1, 1, 2))
    assert [once[i] for i in range(len(once))] == [again[i] for i in reversed(range(len(again)))][::-1]
    assert once[0] != other[0]
    halves = len(once) // 2
    assert once.pairs[:halves].tolist() != once.pairs[halves : 2 * halves].tolist()


def test_batches_are_padded_to_their_longest(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = SentencePairs(tokenise(made_documents(3, 30), tokenizer), tokenizer, 32, passes=1, seed=0)
    items = [examples[i] for i in range(8)]
    batch = Collate(tokenizer)(items)
    lengths = [len(item["input_ids"]) for item in items]
    assert batch["input_ids"].shape == batch["labels"].shape == (8, max(lengths))
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["next_sentence_label"].flatten().tolist() == [item["next_sentence_label"][0] for item in items]
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()


def test_a_tokenizer_without_a_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(made_documents(3, 30), tokenizer)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, cls_token="[CLS]", sep_token="[SEP]")
    with pytest.raises(OptionError, match="no mask_token"):
        SentencePairs(tokens, bare, 32, passes=1, seed=0)
