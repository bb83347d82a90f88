"""The tensors of a checkpoint, read one by one from its files, without building the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bertft.checkpoints.adapters import find_adapter
from bertft.checkpoints.files import checked_weights, hash_files, resolved
from bertft.checkpoints.load import display_name, load_checkpoint
from bertft.checkpoints.tensor_names import bare
from bertft.errors import CheckpointError


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint.

    name: of the checkpoint, for display.
    content_hash: computes the sha256 of the names, sizes and bytes of the weight files; of an adapter also of its base.
    tensors: for each name, without the names of wrappers, a function that reads the tensor.
    """

    name: str
    content_hash: Callable[[], str]
    tensors: Mapping[str, Callable[[], Tensor]]


def read_weights(source: str | os.PathLike[str], *, allow_pickle: bool = False) -> Weights:
    """Return the tensors of a local folder or hub name; each is read from its file when it is asked for.

    Of an adapter, the tensors of its base with the adapter merged are returned, for which the base is loaded. Pickled
    weights are loaded whole. Raises `CheckpointError` where the folder or name has no usable weights.

    >>> weights = read_weights("bert-base-uncased")  # doctest: +SKIP
    >>> weights.tensors["bert.pooler.dense.bias"]().shape  # doctest: +SKIP
    torch.Size([768])
    """
    given = source if isinstance(source, str) else Path(source)
    folder = resolved(given, allow_pickle=allow_pickle)
    name = display_name(given)
    if find_adapter(folder, allow_pickle=allow_pickle) is not None:
        merged = load_checkpoint(folder, allow_pickle=allow_pickle)
        held = merged.model.state_dict()
        return Weights(name, lambda: merged.content_hash, {key: _held(tensor) for key, tensor in held.items()})
    files = checked_weights(folder, allow_pickle=allow_pickle)
    tensors: dict[str, Callable[[], Tensor]] = {}
    for file in files:
        tensors |= _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)
    return Weights(name, lambda: hash_files(files), tensors)


def _of_safetensors(file: Path) -> dict[str, Callable[[], Tensor]]:
    def reader(key: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(key)  # type: ignore[no-any-return]

        return read

    with safe_open(file, framework="pt") as opened:
        return {bare(key): reader(key) for key in opened.keys()}  # noqa: SIM118


def _of_pickle(file: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        return {bare(key): _held(tensor) for key, tensor in found.items() if isinstance(tensor, Tensor)}
    except Exception:  # torch raises many types, and its own message advises loading the pickle with its code
        raise CheckpointError(f"{file}: the pickle contains more than tensors, or is damaged") from None


def _held(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor
