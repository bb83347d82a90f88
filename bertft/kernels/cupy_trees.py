"""Spanning trees and rank correlations of rows on a GPU, in CUDA that is compiled at first use.

The kernels are in `trees.cu` beside this file; a warp owns a sentence or a row. They give the same answers as the C++
core: parents are integers, and correlations are one division and one root of integer sums of ranks. CuPy compiles the
kernels, keeps the machine code on disk, and launches them on torch's own stream. Arrays are shared through DLPack
without copies.

The tests run the kernels on the CPU, lane by lane, and compile them for sm_80 and sm_90. They have not been run on a
GPU yet.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from bertft.errors import BackendError
from bertft.kernels.types import Array

SOURCE = Path(__file__).with_name("trees.cu")

LONGEST = 4096
"""Most words of a sentence: their edges, 12 bytes each, must fit in the shared memory that a block has by default."""

ROWS = 4
"""Rows in a block of `row_spearman`, one warp each."""

FLOATS = {torch.float32: "float32", torch.float64: "float64"}


def spanning_trees(distances: Array, lengths: Array, keep: Array) -> Array:
    """Return parents in the spanning tree of each sentence's kept words, see `bertft.kernels.reference`."""
    batch, width = distances.shape[:2]
    _check_shape("spanning_trees", "distances", distances, (batch, width, width))
    if width > LONGEST:
        raise ValueError(
            f"spanning_trees: {width} words a sentence; on a GPU at most {LONGEST}: move the arrays with .cpu()"
        )
    device = distances.device
    lengths = _lengths("spanning_trees", "sentence", lengths, batch, width, device)
    keep = torch.as_tensor(keep, device=device)
    _check_shape("spanning_trees", "keep", keep, (batch, width))
    parents = torch.empty(batch, width, dtype=torch.int32, device=device)
    has_nan = torch.zeros(batch, dtype=torch.uint8, device=device)
    if parents.numel():
        name = f"spanning_trees_{_type('spanning_trees', 'distances', distances)}"
        arrays = distances.contiguous(), lengths, keep.to(torch.uint8).contiguous(), parents, has_nan
        launch(name, batch, 1, 12 * width, *arrays, width)
    found = has_nan.nonzero()
    if len(found):
        raise ValueError(
            f"spanning_trees: sentence {int(found[0])} has a distance that is nan, which has no order; correct it, or "
            "leave its words out with keep"
        )
    return parents


def row_spearman(predicted: Array, gold: Array, lengths: Array) -> Array:
    """Return Spearman's correlation of each row's first lengths[row] values, see `bertft.kernels.reference`."""
    rows, width = predicted.shape
    _check_shape("row_spearman", "gold", gold, (rows, width))
    device = predicted.device
    lengths = _lengths("row_spearman", "row", lengths, rows, width, device)
    correlations = torch.empty(rows, dtype=torch.float64, device=device)
    if rows:
        types = _type("row_spearman", "predicted", predicted), _type("row_spearman", "gold", gold)
        arrays = predicted.contiguous(), gold.contiguous(), lengths, correlations
        launch(f"row_spearman_{types[0]}_{types[1]}", -(-rows // ROWS), ROWS, 0, *arrays, rows, width)
    return correlations


def launch(kernel: str, blocks: int, warps: int, shared: int, *arguments: Any) -> None:
    """Run a kernel of `trees.cu` on the device of its first argument, in blocks of (32, warps) threads.

    Arguments are tensors and integers; `shared` is the shared memory of a block in bytes.
    """
    device = arguments[0].device
    with torch.cuda.device(device):  # the device that torch shares tensors of, and that CuPy compiles for
        cupy, module = _compiled()
        stream = cupy.cuda.Stream.from_external(_Stream(torch.cuda.current_stream(device)))
        with cupy.cuda.Device(device.index), stream:
            given = tuple(
                cupy.from_dlpack(argument.detach()) if isinstance(argument, torch.Tensor) else argument
                for argument in arguments
            )
            module.get_function(kernel)((blocks,), (32, warps), given, shared_mem=shared)


class _Stream:
    """A stream of torch as CuPy takes it; torch's own class has this protocol in recent versions only."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream.cuda_stream


@cache
def _compiled() -> tuple[Any, Any]:
    """Return CuPy and the compiled kernels, which CuPy loads on each device at their first launch there."""
    try:
        import cupy

        module = cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"))
        module.compile()
    except Exception as error:  # many types: a library is missing or for another CUDA, or there is no compiler
        raise BackendError(
            f"CuPy does not work here ({type(error).__name__}: {error}); install the cupy-cuda package of your CUDA's "
            "version, or move the arrays with .cpu()"
        ) from error
    return cupy, module


def _type(function: str, name: str, array: torch.Tensor) -> str:
    if array.dtype not in FLOATS:
        raise ValueError(
            f"{function}: {name} has type {array.dtype}, wanted float64 or float32; convert it with .float()"
        )
    return FLOATS[array.dtype]


def _check_shape(function: str, name: str, array: torch.Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(array.shape) != wanted:
        raise ValueError(f"{function}: {name} has shape {tuple(array.shape)}, wanted {wanted}")


def _lengths(function: str, item: str, lengths: Array, count: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the lengths on the device, checked first: the kernels would go past the ends of the arrays otherwise."""
    given = torch.as_tensor(lengths, dtype=torch.int64)
    _check_shape(function, "lengths", given, (count,))
    wrong = ((given < 0) | (given > width)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{function}: {item} {first} has length {int(given[first])}; expected 0 to {width}, the width of the arrays"
        )
    return given.to(device).contiguous()
