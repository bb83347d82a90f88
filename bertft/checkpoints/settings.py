"""What a config says about padding, lengths, blocks and dimensions, through the accessors of transformers.

Configs of transformers differ: the settings of the text model may be nested, and a setting may have another name, be
absent, or stand for "no limit". Each function here takes every config class that transformers registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedConfig

_LENGTHS = ("max_position_embeddings", "max_seq_len")
"""Names of the largest number of tokens, the standard one first; transformers maps other names to the standard one."""

_BY_BLOCK = ("layer_types", "attention_types", "attention_layers", "attention_window", "layers_block_type")
"""Ends of the names of settings that are known to have one entry for each block."""

_MOST_DOUBTFUL = 5  # lists that may or may not have one entry for each block; more than these are not combined


def text_settings(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of the text model, which may be nested in `config`, or else `config` itself."""
    try:
        found = config.get_text_config()
    except ValueError:  # several nested configs describe text; none of them describes the whole
        return config
    return found if isinstance(found, PreTrainedConfig) else config


def setting(config: PreTrainedConfig, name: str) -> Any:
    """Return a setting of the text model, or else of the whole model, by its standard name; None where it is absent."""
    for part in (text_settings(config), config):
        try:
            value = getattr(part, name, None)
        except Exception:  # some settings are properties that raise many types of error
            value = None
        if value is not None:
            return value
    return None


def padding_id(config: PreTrainedConfig) -> int | None:
    """Return the id of the padding token, at least 0; None where the config has none."""
    return _whole(setting(config, "pad_token_id"), least=0)


def position_limit(config: PreTrainedConfig) -> int | None:
    """Return the largest number of positions, at least 1; None where the config sets no limit."""
    for name in _LENGTHS:
        if (found := _whole(setting(config, name), least=1)) is not None:
            return found
    return None


def block_count(config: PreTrainedConfig) -> int | None:
    """Return the number of transformer blocks; None where the config does not say it."""
    return _whole(setting(config, "num_hidden_layers"), least=0)


def width(config: PreTrainedConfig) -> int | None:
    """Return the dimension of the hidden states; None where the config does not say it."""
    return _whole(setting(config, "hidden_size"), least=1)


def vocabulary_size(config: PreTrainedConfig) -> int | None:
    """Return the number of tokens in the vocabulary; None where the config does not say it."""
    return _whole(setting(config, "vocab_size"), least=1)


def special_ids(config: PreTrainedConfig) -> frozenset[int]:
    """Return the ids of all tokens that the config gives a role, such as those that stand for images."""
    found = set()
    for part in (text_settings(config), config):
        for name, value in vars(part).items():
            if name.endswith(("_token_id", "_token_index")):
                ids = value if isinstance(value, list | tuple) else [value]
                found |= {one for one in ids if _whole(one, least=0) is not None}
    return frozenset(found)


def first_blocks(name: str, value: Any, depth: int, blocks: int) -> Any:
    """Return the entries of a setting for the first `blocks` of `depth` blocks; other settings are returned as given.

    A setting has entries for blocks if its name says so and there are `depth` of them.
    """
    cut = _cut(value, depth, blocks) if _is_by_block(name) else None
    return value if cut is None else cut


def cuts(config: PreTrainedConfig, blocks: int) -> Iterator[dict[str, Any]]:
    """Yield settings, any of which may turn the config of a text model into one of its first `blocks` blocks.

    All of them set the number of blocks and shorten the lists that are known to have one entry for each block. Other
    lists of that length may belong to the blocks or not: they are left as they are at first, and then shortened.
    """
    depth = block_count(config)
    assert depth is not None
    found: dict[str, Any] = {"num_hidden_layers": blocks}
    if getattr(config, "is_heterogeneous", False):
        given = config.to_dict()["per_layer_config"]
        found["per_layer_config"] = {index: value for index, value in given.items() if int(index) < blocks}
    doubtful: dict[str, Any] = {}
    for name, value in vars(config).items():
        cut = None if name.startswith("_") else _cut(value, depth, blocks)
        if cut is not None:
            (found if _is_by_block(name) else doubtful)[name] = cut
    sizes = range(len(doubtful) + 1) if len(doubtful) <= _MOST_DOUBTFUL else (0, len(doubtful))
    for size in sizes:
        for names in itertools.combinations(doubtful, size):
            yield {**found, **{name: doubtful[name] for name in names}}


def _is_by_block(name: str) -> bool:
    # The blocks that predict several tokens ahead are counted apart.
    return name.endswith(_BY_BLOCK) and not name.startswith("mtp_")


def _cut(value: Any, depth: int, blocks: int) -> Any:
    """Return the first `blocks` of `depth` entries of a sequence; None for anything that has no such entries."""
    if isinstance(value, list | tuple):
        if (expanded := _expanded(value, depth)) is not None:
            return [[expanded[:blocks], 1]]
        return value[:blocks] if len(value) == depth else None
    return None


def _expanded(value: Sequence[Any], length: int) -> list[Any] | None:
    """Return [a, b, a, b] for [[[a, b], 2]], the short form of a list of this length; None for anything else."""
    for part in value:
        if not (isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[0], list | tuple)):
            return None
        if _whole(part[1], least=0) is None:
            return None
    if sum(len(entries) * times for entries, times in value) != length:
        return None
    return [entry for entries, times in value for _ in range(times) for entry in entries]


def _whole(value: Any, *, least: int) -> int | None:
    """Return a whole number that is large enough; None for everything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else None
