"""Bounds on the sizes in a model's config, checked before anything of those sizes is built.

A config can ask for 10⁹ layers, and transformers would build them before it looks at the weights. So the numbers in the
config are compared with the weights first: with the number of tensors, with the size of the files, and then with the
number of parameters of the model on the device `meta`, where a parameter takes no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

from bertft.errors import CheckpointError

_FEW, _EXPERTS = 256, 2**14
"""As many layers and the like, and as many experts, are built without a look at the weights."""

_LARGE = 10**6
"""A number up to this one is no danger by itself."""

_BUFFERS = 2**28
"""As many elements of tables and masks are built without a look at the weights, which do not hold them."""

_MODULES = re.compile(r"(.*_)?(layers?|blocks|stages|depths?|experts|hidden_groups|group_num)")
"""Names of numbers of modules. Every layer and expert has tensors of its own, but for models that share weights."""

_NO_SIZE = re.compile(
    r".*(_id|_ids|theta|base|seed|position\w*|length|len|window|chunk_size|attention|context|ctx|factor|token|eps|scale)"
)
"""Names of numbers that build nothing by themselves, or whose tensors are counted below."""


def check_sizes(folder: Path, config: Mapping[str, Any], weights: Sequence[Path]) -> None:
    """Raise `CheckpointError` where the config describes a model that the weight files cannot contain."""
    tensors = _n_tensors(weights)
    size = sum(file.stat().st_size for file in weights)
    for name, number in _numbers(config):
        most, held = max(_LARGE, size), f"the weights have {size} bytes"
        if _MODULES.fullmatch(name):
            few = _EXPERTS if name.endswith("experts") else _FEW  # a tensor can hold all experts of a layer
            most, held = max(few, tensors), f"the weights hold {tensors} tensors"
        elif name == "num_labels":
            # A name is made up for each label, before any model is built.
            most, held = _LARGE, f"at most {_LARGE} labels are read"
        elif isinstance(number, float) or _NO_SIZE.fullmatch(name):
            continue
        if number > most:
            raise CheckpointError(
                f"{folder / 'config.json'}: {name} is {_short(number)}, but {held}; "
                "they belong to different models, or the config is damaged"
            )
    parameters, buffers = _n_elements(folder)
    # A parameter takes half a byte or more. Eight times that leaves room for whatever is drawn or tied.
    for number, what, spare in ((parameters, "parameters", _LARGE), (buffers, "elements of tables", _BUFFERS)):
        if number > 16 * size + spare:
            raise CheckpointError(
                f"{folder}: the config describes {_short(number)} {what}, but the weights have {size} bytes; "
                "they belong to different models, or the config is damaged"
            )


def _numbers(config: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """Yield the numbers in a config, each with the name of its field."""
    if depth > 8:
        return
    if isinstance(config, Mapping):
        for key, value in config.items():
            # The labels of a head, and settings for generation, build nothing in a body.
            if key not in ("id2label", "label2id", "task_specific_params"):
                yield from _numbers(value, str(key), depth + 1)
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, name, depth + 1)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        yield name, config


def _n_tensors(weights: Sequence[Path]) -> int:
    count = 0
    for file in weights:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                count += len(tensors.keys())
    return count


def _n_elements(folder: Path) -> tuple[int, int]:
    """Return the numbers of elements of the body's parameters and buffers, or zeros where transformers cannot tell."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    except Exception:  # loading raises the same error again, and its message is made there
        return 0, 0
    return sum(tensor.numel() for tensor in model.parameters()), sum(tensor.numel() for tensor in model.buffers())


def _short(number: float) -> str:
    return str(number) if number < 10**15 else "more than 10^15"
