"""The state of an accumulator as a flat dict of arrays: written, checked whole, and read again.

Arrays are `options` (JSON as uint8), for each row map its centers, exponents and sums (`bertft.statistics.moments`),
the sample of rows (`bertft.statistics.reservoir`), and `checksum`, the SHA-256 of all others. The checksum finds
damage. It is no signature: who changes a state on purpose can also change the checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertft.arrays import host
from bertft.errors import ArrayError
from bertft.kernels.types import Array, MomentSums, RowMap
from bertft.statistics.moments import Moments
from bertft.statistics.reservoir import Reservoir, Sample
from bertft.untrusted import parse_json, shown

FORMAT = "bertft.PairMoments/3"

ROW_MAPS: tuple[RowMap, ...] = ("unit", "centred_unit", "raw")

LARGEST_EXPONENT = 2200
"""Exponents of float64 are between -1074 and 1024; those of a state stay near them."""


class Content(NamedTuple):
    """What a state holds. `first` is a checksum of the first row seen, which tells rows without groups apart."""

    n: int
    first: int
    maps: tuple[RowMap, ...]
    products: str
    moments: Mapping[RowMap, Moments]
    reservoir: Reservoir


def write_state(content: Content) -> dict[str, Array]:
    """Return the state as a flat dict of NumPy arrays, which share no memory with the content."""
    kept = content.reservoir
    options = {
        "format": FORMAT,
        "n": content.n,
        "first": content.first,
        "maps": sorted(content.maps),
        "products": content.products,
        "reservoir": kept.limit,
        "seed": kept.seed,
    }
    flat: dict[str, Array] = {"options": np.frombuffer(json.dumps(options).encode(), dtype=np.uint8).copy()}
    for row_map, moments in content.moments.items():
        here = moments.on_host().copy()
        flat |= {f"{row_map}.x_center": here.x_center, f"{row_map}.y_center": here.y_center}
        flat[f"{row_map}.exponents"] = np.array([here.x_exponent, here.y_exponent], dtype=np.int64)
        flat |= {f"{row_map}.{name}": part for name, part in here.sums._asdict().items()}
        if here.off_diagonal is not None:
            flat[f"{row_map}.off_diagonal"] = here.off_diagonal.copy()
    sample = kept.sample()
    flat["sample.bound"] = np.array([kept.bound])
    if sample is not None:
        flat |= {f"sample.{name}": rows.copy() for name, rows in sample._asdict().items()}
    flat["checksum"] = _checksum(flat)
    return flat


def read_state(state: Mapping[str, Any]) -> Content:
    """Return what a state holds. Raises `ArrayError` unless these are the arrays that `write_state` returned."""
    flat = _arrays(state)
    n, first, maps, products, limit, seed = _options(flat["options"])
    names = {"options", "checksum", "sample.bound"}
    if n:
        fields = ("x_center", "y_center", "exponents", *MomentSums._fields)
        names |= {f"{row_map}.{field}" for row_map in maps for field in fields}
        names |= {f"{row_map}.off_diagonal" for row_map in maps} & flat.keys()
        if "sample.x" in flat:
            names |= {f"sample.{field}" for field in Sample._fields}
    if flat.keys() != names:
        wrong = sorted(map(repr, flat.keys() ^ names))
        raise ArrayError(_no_state(f"{wrong[0]} is {'missing' if wrong[0][1:-1] in names else 'not one of them'}"))
    moments = {row_map: _moments(flat, row_map, n) for row_map in maps} if n else {}
    widths = {(len(part.x_center), len(part.y_center)) for part in moments.values()}
    if len(widths) > 1:
        raise ArrayError("the row maps have different widths; this state was changed")
    parts = (_sample(flat, n, *widths.pop()),) if "sample.x" in flat else ()
    bound = flat["sample.bound"]
    if bound.shape != (1,) or bound.dtype != np.uint64:
        raise ArrayError(f"sample.bound should be one uint64, not {_kind(bound)}; this state was changed")
    if not np.array_equal(flat["checksum"], _checksum(flat)):
        raise ArrayError("the arrays do not fit their checksum; this state was changed")
    return Content(n, first, maps, products, moments, Reservoir(limit, seed, bound[0], parts))


def _arrays(state: Any) -> dict[str, Array]:
    """Return copies of the arrays of a state, as NumPy."""
    if not isinstance(state, Mapping):
        raise ArrayError(_no_state(f"got {type(state).__name__}"))
    flat = {}
    for name, array in state.items():
        try:
            flat[name] = np.array(host(array))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise ArrayError(_no_state(f"{shown(repr(name))[:60]} is of type {type(array).__name__}")) from None
        if not isinstance(name, str) or flat[name].dtype.kind not in "iuf":
            raise ArrayError(_no_state(f"{shown(repr(name))[:60]} is {_kind(flat[name])}"))
    if "options" not in flat:
        raise ArrayError(_no_state("'options' is missing"))
    return flat


def _options(array: Array) -> tuple[int, int, tuple[RowMap, ...], str, int, int]:
    """Return n, first, maps, products, limit and seed, each checked, from the array of the options."""
    try:
        found = parse_json(array.tobytes())
    except ValueError as error:
        raise ArrayError(_no_state(f"its options are {error}")) from None
    if not isinstance(found, dict):
        raise ArrayError(_no_state("its options are no JSON object"))
    if found.get("format") != FORMAT:
        raise ArrayError(
            f"this state is of format {shown(repr(found.get('format')))[:60]}, and only {FORMAT!r}, which has a "
            "checksum, can be read; accumulate the rows again with this version"
        )
    maps = found.get("maps")
    wrong = {
        "n": not _is_whole(found.get("n"), 0),
        "first": not _is_whole(found.get("first"), 0, 2**32),
        "maps": not _is_sequence_of_maps(maps),
        "products": found.get("products") not in ("auto", "float64"),
        "reservoir": not _is_whole(found.get("reservoir"), 0),
        "seed": not _is_whole(found.get("seed"), -(2**63)),
    }
    if any(wrong.values()) or found.keys() != {"format", *wrong}:
        name = next((name for name, is_wrong in wrong.items() if is_wrong), "one more than there are")
        raise ArrayError(_no_state(f"a wrong option, {name}"))
    return found["n"], found["first"], tuple(found["maps"]), found["products"], found["reservoir"], found["seed"]


def _is_whole(value: Any, least: int, end: int = 2**63) -> bool:
    return type(value) is int and least <= value < end


def _is_sequence_of_maps(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        return False
    return len(set(value)) == len(value) and set(value) <= set(ROW_MAPS)


def _moments(flat: Mapping[str, Array], row_map: RowMap, n: int) -> Moments:
    sums = MomentSums(*(flat[f"{row_map}.{name}"] for name in MomentSums._fields))
    exponents = flat[f"{row_map}.exponents"]
    if (
        exponents.shape != (2,)
        or exponents.dtype != np.int64
        or not ((exponents > -LARGEST_EXPONENT) & (exponents < LARGEST_EXPONENT)).all()
    ):
        raise ArrayError(f"{row_map}.exponents should be two small int64; this state was changed")
    x_center, y_center = flat[f"{row_map}.x_center"], flat[f"{row_map}.y_center"]
    x_exponent, y_exponent = exponents.tolist()
    apart = flat.get(f"{row_map}.off_diagonal")
    found = Moments(row_map, n, x_center, y_center, sums, x_exponent, y_exponent, apart)
    _check(found)
    return found


def _check(moments: Moments) -> None:
    """Raise `ArrayError` unless the arrays fit each other and are those of n rows."""
    d1, d2 = (len(center) if center.ndim else 0 for center in (moments.x_center, moments.y_center))
    shapes = [(5, 5), (5, d1), (5, d2), (d1, d1), (d1, d2), (d2, d2)]
    parts: list[tuple[str, Array, tuple[int, ...]]] = [*zip(moments.sums._fields, moments.sums, shapes, strict=True)]
    parts += [("x_center", moments.x_center, (max(d1, 1),)), ("y_center", moments.y_center, (max(d2, 1),))]
    if moments.off_diagonal is not None:
        parts.append(("off_diagonal", moments.off_diagonal, (2, 3)))
    for name, part, shape in parts:
        if part.shape != shape or part.dtype != np.float64 or not np.isfinite(part).all():
            raise ArrayError(
                f"{moments.row_map}.{name} should be finite float64 of shape {shape}; this state was changed"
            )
    if moments.sums.scalars[0, 0] != moments.n:
        raise ArrayError(
            f"the sums are of {moments.sums.scalars[0, 0]:g} rows, not {moments.n}; this state was changed"
        )


def _sample(flat: Mapping[str, Array], n: int, d1: int, d2: int) -> Sample:
    sample = Sample(*(flat[f"sample.{name}"] for name in Sample._fields))
    rows = len(sample.groups) if sample.groups.ndim else 0
    if len({len(part) if part.ndim else 0 for part in sample}) > 1:
        raise ArrayError("the arrays of the sample have different lengths; this state was changed")
    shapes: Sequence[tuple[int, ...]] = ((rows,), (rows, d1), (rows, d2), (rows,))
    types = ((np.int64,), (np.float32, np.float64), (np.float32, np.float64), (np.float64,))
    for name, part, shape, some in zip(Sample._fields, sample, shapes, types, strict=True):
        if part.shape != shape or part.dtype not in some or not np.isfinite(part).all():
            wanted = f"finite {some[0].__name__} of shape {shape}"
            raise ArrayError(f"sample.{name} should be {wanted}; this state was changed")
    if rows < 1 or rows > n or not (sample.weights >= 1).all() or not sample.weights.sum() <= n + 0.5:
        raise ArrayError(f"the sample is not one of {n} rows; this state was changed")
    return sample


def _checksum(flat: Mapping[str, Array]) -> Array:
    """Return the SHA-256 of all arrays but the checksum, with their names, types and shapes, (32,) uint8."""
    digest = hashlib.sha256()
    for name in sorted(flat.keys() - {"checksum"}):
        array = np.ascontiguousarray(flat[name], dtype=flat[name].dtype.newbyteorder("<"))
        digest.update(f"{name} {array.dtype.str} {flat[name].shape}\n".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8).copy()


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _no_state(why: str) -> str:
    return f"these arrays are no PairMoments state ({why}); pass what state() returned"
