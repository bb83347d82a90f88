"""Pairs of texts for tokenizers that put nothing between them: a space keeps their words apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bertft.activations.encode import pair_lead, tokenise
from bertft.data import Example
from bertft.data.mnli import Pair
from bertft.data.squad import Answer, Question
from bertft.tasks import named_task
from bertft.tasks.task import Records

FIRST, SECOND = "the man walked", "the rain fell on it"


def bytes_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer like that of GPT-2, with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<end>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    if template is not None:
        inner.post_processor = processors.TemplateProcessing(
            single="$A", pair=template, special_tokens=[("<end>", vocabulary["<end>"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


def word_tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tokenizer([*FIRST.split(), *SECOND.split()])


def read(tokenizer: Any, max_length: int = 100) -> tuple[str, int]:
    found = tokenise([Example(FIRST, SECOND, "x:1")], tokenizer, max_length)
    return tokenizer.decode(found.ids.tolist()), int(found.special.sum())


def test_a_space_where_the_tokenizer_puts_nothing_between() -> None:
    assert pair_lead(bytes_tokenizer()) == " "
    assert read(bytes_tokenizer()) == (f"{FIRST} {SECOND}", 0)
    for kind, text in (
        (bytes_tokenizer("$A <end> $B"), f"{FIRST}<end>{SECOND}"),
        (word_tokenizer(), f"[CLS] {FIRST} [SEP] {SECOND} [SEP]"),
    ):
        assert pair_lead(kind) == ""
        assert read(kind)[0] == text
    single = tokenise([Example(FIRST, None, "x:1")], bytes_tokenizer(), 100)
    assert len(single.ids) == len(FIRST)


def test_cut_pairs_keep_the_space() -> None:
    text, special = read(bytes_tokenizer(), max_length=20)
    assert len(text) == 20
    assert special == 0
    first, _, second = text.partition(" t")
    assert FIRST.startswith(first)
    assert f" {SECOND}".startswith(" t" + second)
    found = tokenise([Example(FIRST, SECOND, "x:1")], bytes_tokenizer(), 20)
    assert found.n_truncated == 1
    exact = tokenise([Example(FIRST, SECOND, "x:1")], bytes_tokenizer(), len(FIRST) + 1 + len(SECOND))
    assert exact.n_truncated == 0


@pytest.mark.parametrize("made", [bytes_tokenizer, word_tokenizer])
def test_tasks_read_pairs_as_scores_do(made: Any) -> None:
    tokenizer = made()
    expected = tokenise([Example(FIRST, SECOND, "x:1")], tokenizer, 100).ids.tolist()
    mnli = named_task("mnli")
    pairs = Records("x", (Pair(FIRST, SECOND, "neutral", "x:1"),), "0f")
    features = mnli.encode(pairs, tokenizer, mnli.recipes["paper"], labels={"neutral": 0}, training=False)
    assert features.rows[0]["input_ids"] == expected


@pytest.mark.parametrize("made", [bytes_tokenizer, word_tokenizer])
def test_answers_keep_their_place(tmp_path: Path, made: Any) -> None:
    tokenizer = made()
    squad = named_task("squad")
    question = Question("q", FIRST, SECOND, (Answer("the rain", 0),), "x")
    features = squad.encode(
        Records("x", (question,), "0f"), tokenizer, squad.recipes["paper"], labels={}, training=True
    )
    row = features.rows[0]
    ids = row["input_ids"]
    assert ids == tokenise([Example(FIRST, SECOND, "x:1")], tokenizer, 384).ids.tolist()
    assert tokenizer.decode(ids[row["start_positions"] : row["end_positions"] + 1]).strip() == "the rain"
