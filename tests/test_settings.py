"""What configs say about padding, lengths and blocks, over every config class that transformers registers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import transformers
from transformers import CONFIG_MAPPING, GPTNeoConfig, PreTrainedConfig

from bertft.checkpoints import settings
from bertft.checkpoints.anatomy import hidden_size, n_layers
from bertft.checkpoints.checkpoint import Checkpoint, length_limit, pad_id

NUMBERS = (settings.padding_id, settings.position_limit, settings.block_count, settings.width, settings.vocabulary_size)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    noise = transformers.utils.logging
    before = noise.get_verbosity()
    noise.set_verbosity(logging.ERROR)
    yield
    noise.set_verbosity(before)


@pytest.mark.filterwarnings("ignore")
def test_every_config_that_transformers_registers_answers() -> None:
    made = 0
    for kind in CONFIG_MAPPING:
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:  # some need fields, or packages that are not installed
            continue
        made += 1
        assert isinstance(settings.text_settings(config), PreTrainedConfig), kind
        for number in NUMBERS:
            found = number(config)
            assert found is None or type(found) is int, (kind, number)
            assert found is None or found >= (1 if number is not settings.padding_id else 0), (kind, number)
        assert all(type(one) is int for one in settings.special_ids(config)), kind
        depth, text = settings.block_count(config), settings.text_settings(config)
        if depth is not None and settings.block_count(text) == depth and depth > 1:
            first = next(settings.cuts(text, depth - 1))
            assert first["num_hidden_layers"] == depth - 1, kind
            assert len(first.get("layer_types", range(depth - 1))) == depth - 1, kind
    assert made > 0.9 * len(CONFIG_MAPPING)


NESTED = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("config", "padding", "longest", "depth"),
    [
        (transformers.Gemma3Config(text_config={**NESTED, "max_position_embeddings": 64, "pad_token_id": 3}), 3, 64, 2),
        (transformers.CodeGenConfig(n_positions=64, n_layer=3), None, 64, 3),
        (transformers.XLNetConfig(n_layer=2), 5, None, 2),
        (transformers.BertConfig(max_position_embeddings=40, pad_token_id=None), None, 40, 12),
        (transformers.FunnelConfig(block_sizes=[1, 2]), None, None, 3),
        (transformers.CLIPConfig(text_config={**NESTED, "max_position_embeddings": 32}), 1, 32, 2),
        (transformers.T5Config(num_layers=4), 0, None, 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_that_are_nested_absent_or_unlimited(
    config: PreTrainedConfig, padding: int | None, longest: int | None, depth: int
) -> None:
    found = settings.padding_id(config), settings.position_limit(config), settings.block_count(config)
    assert found == (padding, longest, depth)


class Unusual(PreTrainedConfig):
    """A config as people write them: a limit of -1, a depth that is text, and a setting that cannot be read."""

    max_position_embeddings = -1
    pad_token_id = -1
    num_hidden_layers = "twelve"
    hidden_size = True

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError("asked for nothing")


def test_values_that_are_no_numbers_count_as_absent() -> None:
    assert [number(Unusual()) for number in NUMBERS] == [None] * 5


@pytest.mark.parametrize("longest", [-1, 0, None, 512, int(1e30), "512"])
def test_a_length_limit_is_never_too_small_to_use(longest: Any) -> None:
    tokenizer = tiny.tokenizer(["a"])
    tokenizer.model_max_length = longest
    model = tiny.build(transformers.XLNetConfig(vocab_size=8, d_model=8, n_layer=1, n_head=1, d_inner=8))
    assert length_limit(Checkpoint("any", model, tokenizer, "")) == (512 if longest == 512 else 2**31 - 1)


@pytest.mark.parametrize(
    ("own", "tokenizers", "expected"), [(5, 0, 5), (None, 3, 3), (None, None, 0), (-1, 2, 2), (99, 2, 2)]
)
def test_the_padding_id_is_one_that_the_model_has(own: int | None, tokenizers: int | None, expected: int) -> None:
    tokenizer = tiny.tokenizer(["a", "b", "c"])
    tokenizer.pad_token = None if tokenizers is None else tokenizer.convert_ids_to_tokens(tokenizers)
    model = tiny.bert(8)
    model.config.pad_token_id = own
    assert pad_id(Checkpoint("any", model, tokenizer, "")) == expected


def test_depth_and_width_are_read_through_nested_configs() -> None:
    config = transformers.CLIPConfig(
        text_config={**NESTED, "vocab_size": 8}, vision_config={**NESTED, "image_size": 8, "patch_size": 4}
    )
    model = tiny.build(config)
    assert (n_layers(model), hidden_size(model)) == (2, 32)


def lists(config: PreTrainedConfig, blocks: int) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in one.items() if name != "num_hidden_layers"}
        for one in settings.cuts(config, blocks)
    ]


def test_lists_with_an_entry_for_each_block_are_cut() -> None:
    neo = GPTNeoConfig(num_layers=4, attention_types=[[["global", "local"], 2]])
    assert lists(neo, 3) == [
        {"attention_layers": ["global", "local", "global"], "attention_types": [[["global", "local", "global"], 1]]}
    ]
    assert lists(transformers.LongformerConfig(num_hidden_layers=2, attention_window=[8, 16]), 1) == [
        {"attention_window": [8]}
    ]
    assert lists(transformers.LongformerConfig(num_hidden_layers=2, attention_window=8), 1) == [{}]
    # As long as the model is deep, but no list of blocks: left as it is first.
    deberta = transformers.DebertaV2Config(num_hidden_layers=2, pos_att_type=["p2c", "c2p"])
    assert lists(deberta, 1) == [{}, {"pos_att_type": ["p2c"]}]
    apart = transformers.LlamaConfig(
        num_hidden_layers=2, per_layer_config={0: {"intermediate_size": 8}, 1: {"intermediate_size": 9}}
    )
    assert lists(apart, 1)[0]["per_layer_config"] == {"0": {"intermediate_size": 8}}
