"""The errors and warnings of bertft. Each message says what was given, what was expected and what to try."""

from __future__ import annotations

import re


class BertftError(ValueError):
    """The base class of all errors of bertft; a `ValueError`, so that callers can catch it without importing bertft."""


class ArrayError(BertftError):
    """Arrays that cannot be compared because of shape, type, non-finite values, zero rows, or too few rows."""


class RowError(ArrayError):
    """A row for which no value exists: `side` is "x" or "y", `row` its index, `why` the reason."""

    def __init__(self, side: str, row: int, why: str) -> None:
        super().__init__(f"row {row} of {side} {why}")
        self.side, self.row, self.why = side, row, why


class DataError(BertftError):
    """A text or annotation file that is missing, empty, not UTF-8, or not in the expected format."""


class CheckpointError(BertftError):
    """A model folder or hub name that cannot be loaded, or two models that cannot be compared."""


class OptionError(BertftError):
    """An unknown name, such as that of a kernel, method or measure, or a number out of range."""


class BackendError(BertftError):
    """A backend that was requested and cannot compute on the given arrays; the message says why."""


class UndefinedWarning(UserWarning):
    """A value that is undefined for an input, such as equal distances between all rows, and is returned as nan."""


class PrecisionWarning(UserWarning):
    """A value that is defined but misleading, such as CCA with fewer rows than columns."""


class PerformanceWarning(UserWarning):
    """A computation that is slower than the hardware permits."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, torch or a driver says that memory is used up."""
    said = re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or said is not None
