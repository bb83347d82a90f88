"""Read the rows of any kind of array, checked once and then batch by batch on its own device.

Arrays may be NumPy arrays (memory maps are never read whole), torch tensors, CuPy arrays and anything else with DLPack.
Rows on the CPU are returned as NumPy, rows on a GPU as torch tensors on the same device. Arrays are copied only where
that is needed, and never changed.
"""

from __future__ import annotations

import mmap
import sys
from typing import Any, Literal

import numpy as np

from bertft.errors import ArrayError

RUNS = 16
"""Runs of neighbouring rows that a sample is taken from."""

ALIGNMENT = 64
"""In bytes: torch's tensors on the CPU begin at multiples of this. It is the size of a cache line."""

FLOATS = ("float16", "bfloat16", "float32", "float64")

CONSTANT = 1e-13
"""A row is constant if its distance from its mean is at most this share of the mean's length: rounding, not signal."""

CONSTANT_ROW = "is constant (to rounding), so it has no correlation; drop it"


class RowSource:
    """The rows of one checked array: `len(source)`, `source.width`, `source.device`, and `source.batch(low, high)`.

    A batch of the CPU is float32 or float64 NumPy; half precisions are widened to float32, exactly. A batch of a GPU
    is a torch tensor of its own type. Raises `ArrayError`, with the array's name, for another shape, type or device.
    """

    def __init__(self, array: Any, name: str) -> None:
        self.name = name
        self._array = _as_numpy_or_torch(array, name)
        shape = tuple(self._array.shape)
        if len(shape) != 2 or shape[1] == 0:
            raise ArrayError(f"{name} has shape {shape}; expected (n, d): reshape it to one row per item")
        self._n, self.width = int(shape[0]), int(shape[1])
        self.device = str(getattr(self._array, "device", "cpu")) if not isinstance(self._array, np.ndarray) else "cpu"
        self.dtype = str(self._array.dtype).removeprefix("torch.")
        self._map = _memory_map_of(self._array)

    def __len__(self) -> int:
        return self._n

    def batch(self, low: int, high: int, *, arrays: Literal["numpy", "torch"] = "numpy") -> Any:
        """Return rows low to high, contiguous; those of the CPU as the kind of array asked for."""
        rows = self._array[low:high]
        rows = _for_kernels(rows)
        return as_torch(np.array(rows)) if isinstance(rows, np.ndarray) and arrays == "torch" else rows

    def spread(self, count: int, arrays: Literal["numpy", "torch"] = "numpy") -> Any:
        """Return about `count` rows from the whole array, as runs of neighbours at even distances.

        Single rows would each read a page of a memory map, and pages may be megabytes.
        """
        if len(self) <= count:
            return self.batch(0, len(self), arrays=arrays)
        run = count // RUNS
        starts = np.linspace(0, len(self) - run, RUNS).astype(int).tolist()
        parts = [self.batch(low, low + run, arrays=arrays) for low in starts]
        if isinstance(parts[0], np.ndarray):
            rows: Any = np.concatenate(parts)
        else:
            import torch

            rows = torch.cat(parts)
        self.release()
        return rows

    def release(self) -> None:
        """Release the pages of a read-only or shared memory map, so that reading it does not use up memory."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def padded(array: Any, name: str, shape: tuple[int | None, ...]) -> tuple[Any, str]:
    """Return a padded batch as kernels take it, and its device; None in `shape` means any number.

    Raises `ArrayError` for another shape, and for types that are not numbers.
    """
    found = _as_numpy_or_torch(array, name)
    if len(found.shape) != len(shape) or any(
        wanted not in (None, got) for wanted, got in zip(shape, found.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ArrayError(f"{name} has shape {tuple(found.shape)}; expected ({wanted}): pad sentences to one length")
    if not isinstance(found, np.ndarray) and found.dtype.itemsize == 2:
        found = found.float()  # _for_kernels does this on the CPU only
    return _for_kernels(found), "cpu" if isinstance(found, np.ndarray) else str(found.device)


def check_pair(x: RowSource, y: RowSource, least: int = 3) -> None:
    """Raise `ArrayError` unless two spaces have the same number of rows, enough of them, on the same device."""
    if len(x) != len(y):
        raise ArrayError(
            f"{x.name} has {len(x):,} rows and {y.name} has {len(y):,}; "
            "both must describe the same items in the same order"
        )
    if len(x) < least:
        raise ArrayError(
            f"{x.name} and {y.name} have {len(x)} rows; at least {least} are needed to compare pairs of rows"
        )
    if x.device != y.device:
        raise ArrayError(
            f"{x.name} is on {x.device} and {y.name} on {y.device}; move one of them to the other's device"
        )


def bad_row(batch: Any, row_map: str) -> tuple[int, str] | None:
    """Return the first row of a batch without a value under a row map, and why, or None."""
    rows = host(as_double(batch))
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        column = int(np.argmin(np.isfinite(rows[row])))
        return row, f"is not finite ({rows[row, column]} in column {column}); drop the row or find what overflowed"
    largest = np.abs(rows).max(axis=1)
    if row_map == "unit" and (largest == 0).any():
        return int(np.argmin(largest)), "is all zeros, so it has no cosine; drop it or use kernel='dot' or 'euclidean'"
    if row_map == "centred_unit":
        rows = np.ldexp(rows, -np.frexp(largest)[1][:, None])  # so that squares neither overflow nor vanish
        means = rows.mean(axis=1)
        spreads = np.sqrt(np.square(rows - means[:, None]).mean(axis=1))
        constant = spreads <= 1.01 * CONSTANT * np.abs(means)  # a kernel may round otherwise at the limit
        if constant.any():
            return int(np.argmax(constant)), CONSTANT_ROW
    return None


def host(array: Any) -> Any:
    """Return the array as NumPy."""
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()


def is_double(array: Any) -> bool:
    """Return whether an array is float64."""
    return str(array.dtype).endswith("float64")


def as_double(array: Any) -> Any:
    """Return the array in float64, without a copy where it is float64 already."""
    return array.astype(np.float64, copy=False) if isinstance(array, np.ndarray) else array.double()


def of_one_type(*arrays: Any) -> tuple[Any, ...]:
    """Return the arrays as they are, or all in float64 where one of them is, in which smaller types are exact."""
    return tuple(map(as_double, arrays)) if any(map(is_double, arrays)) else arrays


def like(table: np.ndarray, array: Any) -> Any:
    """Return a NumPy table on the device of an array: the table itself, or a torch tensor."""
    return table if isinstance(array, np.ndarray) else as_torch(table).to(array.device)


def as_torch(array: np.ndarray) -> Any:
    """Return a torch tensor of the same memory."""
    import torch

    return torch.from_numpy(array)


def _for_kernels(array: Any) -> Any:
    """Return the array contiguous and, on the CPU, as NumPy in float32 or float64."""
    if not isinstance(array, np.ndarray):
        if array.device.type != "cpu":
            return array.contiguous()
        array = (array.float() if array.dtype.itemsize == 2 else array).numpy()
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype not in (np.float32, np.float64) or not array.dtype.isnative:
        array = array.astype(np.float32 if array.dtype.newbyteorder("=") == np.float32 else np.float64)
    return np.ascontiguousarray(array)


def _as_numpy_or_torch(array: Any, name: str) -> Any:
    torch = sys.modules.get("torch")  # there are no torch tensors unless torch was imported
    if torch is not None and isinstance(array, torch.Tensor):
        array = array.detach()
        if array.layout is not torch.strided:
            raise ArrayError(f"{name} is a sparse tensor; expected a dense one: convert it with .to_dense()")
        array = array.resolve_neg()
    elif not isinstance(array, np.ndarray) and hasattr(array, "__dlpack_device__"):
        if int(array.__dlpack_device__()[0]) == 1:  # kDLCPU
            array = np.from_dlpack(array)
        else:
            from torch.utils.dlpack import from_dlpack

            array = from_dlpack(array)
    elif not isinstance(array, np.ndarray):
        try:
            array = np.asarray(array)
        except ValueError as error:
            raise ArrayError(f"{name} does not have rows of equal length ({error}); expected shape (n, d)") from None
    kind = str(array.dtype).removeprefix("torch.")
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise ArrayError(f"{name} is a masked array with masked cells; drop the masked rows first")
        if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
            raise ArrayError(f"{name} has type {kind}; expected one of {', '.join(FLOATS)} or whole numbers")
    elif kind not in FLOATS:
        raise ArrayError(f"{name} has type {kind}; expected one of {', '.join(FLOATS)}: convert it with .float()")
    elif array.device.type not in ("cpu", "cuda"):
        raise ArrayError(f"{name} is on {array.device}; bertft computes on cpu and cuda: move it with .cpu()")
    return array


def _memory_map_of(array: Any) -> mmap.mmap | None:
    """Return the mmap under an array if its pages may be dropped: changes to a copy-on-write map are in memory only."""
    owner = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode in ("r", "r+", "w+"):
            found = getattr(owner, "_mmap", None)
            return found if isinstance(found, mmap.mmap) else None
        owner = owner.base
    return None
