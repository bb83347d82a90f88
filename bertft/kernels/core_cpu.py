"""Tied ranks on the CPU, by the compiled core: a parallel sort in place of a comparison sort of indices."""

from __future__ import annotations

from bertft.kernels.types import Array


def tied_ranks(values: Array) -> Array:
    from bertft import _core

    return _core.tied_ranks(values)
