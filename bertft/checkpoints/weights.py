"""The weights of a checkpoint as tensors by name, read one by one, without building the model.

They are those of a folder or hub name, or of a base with an adapter merged into it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bertft.checkpoints.adapters import find_adapter
from bertft.checkpoints.files import checked_weights, hash_files, resolved
from bertft.checkpoints.load import load_checkpoint
from bertft.checkpoints.tensor_files import TensorReader, held, readers_in
from bertft.checkpoints.tensor_names import bare


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint.

    content_hash: computes the sha256 of the names, sizes and bytes of the weight files; of an adapter also of its base.
    tensors: for each name, without the names of wrappers, a function that reads the tensor.
    """

    content_hash: Callable[[], str]
    tensors: Mapping[str, TensorReader]


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
    if find_adapter(folder, allow_pickle=allow_pickle) is not None:
        merged = load_checkpoint(folder, allow_pickle=allow_pickle)
        tensors = merged.model.state_dict()
        return Weights(lambda: merged.content_hash, {key: held(tensor) for key, tensor in tensors.items()})
    files = checked_weights(folder, allow_pickle=allow_pickle)
    return Weights(lambda: hash_files(files), {bare(key): read for key, read in readers_in(files).items()})
