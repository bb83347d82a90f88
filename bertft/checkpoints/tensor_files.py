"""The tensors in weight files, safetensors or pickles, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bertft.errors import CheckpointError

TensorReader = Callable[[], Tensor]
"""A function that reads one tensor."""


def readers_in(files: Iterable[Path]) -> dict[str, TensorReader]:
    """Return a function that reads each tensor of the files, by its name there. Pickles are loaded whole, at once.

    The files have been checked, as `checked_weights` does. Raises `CheckpointError` for a pickle that is damaged, or
    that torch's weights-only unpickler refuses; plain values in it, such as a number of steps, are left out.
    """
    readers: dict[str, TensorReader] = {}
    for file in files:
        readers |= _in_safetensors(file) if file.suffix == ".safetensors" else _in_pickle(file)
    return readers


def held(tensor: Tensor) -> TensorReader:
    """Return a function that returns a tensor in memory."""
    return lambda: tensor


def _in_safetensors(file: Path) -> dict[str, TensorReader]:
    def reader(key: str) -> TensorReader:
        def read() -> Tensor:
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(key)  # type: ignore[no-any-return]

        return read

    with safe_open(file, framework="pt") as opened:
        return {key: reader(key) for key in opened.keys()}  # noqa: SIM118


def _in_pickle(file: Path) -> dict[str, TensorReader]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        return {str(key): held(value) for key, value in found.items() if isinstance(value, Tensor)}
    except Exception:  # torch raises many types, and its own message advises loading the pickle with its code
        raise CheckpointError(f"{file}: the pickle contains more than tensors, or is damaged") from None
