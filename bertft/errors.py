"""The errors and warnings of bertft. Each message says what was given, what was wanted and what to try."""

from __future__ import annotations


class BertftError(ValueError):
    """Anything bertft refuses. A `ValueError`, so callers that know nothing of bertft can catch it."""


class ArrayError(BertftError):
    """Rows that cannot be compared: shapes, types, non-finite values, zero rows, too few rows."""


class RowError(ArrayError):
    """A row without a value: which side ("x" or "y"), which row, and why."""

    def __init__(self, side: str, row: int, why: str) -> None:
        super().__init__(f"row {row} of {side} {why}")
        self.side, self.row, self.why = side, row, why


class DataError(BertftError):
    """A text or annotation file that is missing, empty, not UTF-8, or not in the format expected."""


class CheckpointError(BertftError):
    """A model folder or hub name that cannot be loaded, or two models that cannot be compared."""


class OptionError(BertftError):
    """An unknown or impossible option: a kernel, method, measure, layer or number out of range."""


class BackendError(BertftError):
    """An explicitly requested backend that cannot serve these arrays; the message says why."""


class UndefinedWarning(UserWarning):
    """A number that does not exist for this input (a constant triangle, say) and is returned as nan."""


class PrecisionWarning(UserWarning):
    """A number that exists, but means less than it seems to (CCA with fewer rows than columns, say)."""


class PerformanceWarning(UserWarning):
    """An answer found in a slower way than this machine seems made for."""
