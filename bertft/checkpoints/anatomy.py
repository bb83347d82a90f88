"""The parts of a model: its body, its stack of blocks, its depth and width, and the parsing of layer numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from bertft.checkpoints.settings import block_count, vocabulary_size, width
from bertft.errors import CheckpointError, OptionError
from bertft.options import layer_ranges

FINAL_NORMS = frozenset({"norm", "norm_f", "ln_f", "final_norm", "final_layer_norm", "final_layernorm"})
"""Names of the norm after the last block, in models where it is a sibling of the list of blocks."""


def n_layers(model: PreTrainedModel) -> int:
    """Return the number of transformer blocks; hidden layers are numbered from 0 (embeddings) to this number.

    Raises `CheckpointError` where the config does not say it, which is so for models that are no transformers.
    """
    return _found(model, "num_hidden_layers", block_count(model.config))


def hidden_size(model: PreTrainedModel) -> int:
    """Return the dimension of the hidden states; raise `CheckpointError` where the config does not say it."""
    return _found(model, "hidden_size", width(model.config))


def embedding_rows(model: PreTrainedModel) -> int | None:
    """Return the number of tokens that have an embedding; None where neither the model nor its config says it."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):  # embeddings of several inputs, or computed from characters
        weight = None
    # Quantised embeddings have a class of their own, and those of images have other dimensions.
    if isinstance(weight, torch.Tensor) and weight.ndim == 2:
        return int(weight.shape[0])
    return vocabulary_size(model.config)


def parse_layers(layers: str | int | Iterable[int], depth: int) -> tuple[int, ...]:
    """Return the hidden layers that a user named, in increasing order, for a model of `depth` blocks.

    `layers` is "all", a number, a list of numbers, or text such as "0,3-5,-1"; negative numbers count from the last
    layer. Raises `OptionError` for anything else and for layers that the model does not have.

    >>> parse_layers("0,3-5,-1", depth=12)
    (0, 3, 4, 5, 12)
    """
    known = f"this model has layers 0 to {depth} (or -{depth + 1} to -1, counted from the end)"
    ranges = layer_ranges(layers, f"{known}; ")
    if ranges is None:
        return tuple(range(depth + 1))
    chosen: set[int] = set()
    for ends in ranges:
        part = "-".join(map(str, dict.fromkeys(ends)))
        if not all(-depth - 1 <= end <= depth for end in ends):
            raise OptionError(f"there is no layer {part}; {known}")
        first, last = (end % (depth + 1) for end in ends)
        if first > last:
            raise OptionError(f"the range of layers {part} runs from {first} to {last}; give the lower end first")
        chosen.update(range(first, last + 1))
    if not chosen:
        raise OptionError(f"no layers given; {known}")
    return tuple(sorted(chosen))


def find_body(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformer inside a model with a head, an adapter or a wrapper; a bare model is returned itself.

    Raises `CheckpointError` where the model contains no transformer, or several.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=5)
    >>> type(find_body(BertForMaskedLM(config))).__name__
    'BertModel'
    """
    known = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    inner = [one for one in known if not any(isinstance(part, PreTrainedModel) for part in list(one.modules())[1:])]
    if len(inner) != 1:
        names = f" ({', '.join(type(one).__name__ for one in inner)})" if inner else ""
        raise CheckpointError(f"{type(model).__name__}: expected one transformer inside, found {len(inner)}{names}")
    return inner[0]


def block_stack(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the transformer blocks in order; raise `CheckpointError` where the model does not keep them in one list.

    >>> from transformers import GPT2Config, GPT2Model
    >>> len(block_stack(GPT2Model(GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=5))))
    3
    """
    return find_stack(model)[1]


def find_stack(model: PreTrainedModel) -> tuple[str, torch.nn.ModuleList]:
    """Return the path and the outermost list of all transformer blocks; raise as `block_stack` does."""
    count = n_layers(model)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    depth = min((name.count(".") for name, _ in lists), default=0)
    nearest = [(name, module) for name, module in lists if name.count(".") == depth]
    if len(nearest) != 1:
        found = f"{len(nearest)} lists ({', '.join(name for name, _ in nearest)})" if nearest else "none"
        raise CheckpointError(
            f"{type(model).__name__}: expected one list of its {count} transformer blocks, found {found}; "
            "models that share weights between blocks, or split blocks into parts, are not supported here"
        )
    return nearest[0]


def _found(model: PreTrainedModel, name: str, value: int | None) -> int:
    if value is None:
        raise CheckpointError(f"{type(model).__name__}: its config has no {name}; use a transformer model")
    return value
