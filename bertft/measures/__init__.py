"""The table of measures: for each the function, the moments it needs, its range, invariances and standard error.

A measure is a pure function of `Moments`, or of all rows where no moments give it. `evaluate(name, moments)` returns
its value with the standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

from bertft.errors import OptionError
from bertft.kernels import one_blas_thread
from bertft.kernels.types import RowMap
from bertft.measures import anisotropy, cca, cka, procrustes, rsa
from bertft.measures.mutual_knn import mutual_knn
from bertft.options import suggestion
from bertft.statistics.forms import BILINEAR
from bertft.statistics.moments import Moments
from bertft.statistics.pair_sums import pearson, sums_of_moments
from bertft.statistics.reservoir import Sample
from bertft.statistics.standard_error import LEAST_GROUPS as LEAST_GROUPS
from bertft.statistics.standard_error import Effects, GroupRows, by_blocks, by_groups


class Accumulated(Protocol):
    """What measures need from an accumulator: moments by row map, the sample of rows kept for standard errors, and all
    rows."""

    def moments(self, row_map: RowMap) -> Moments: ...

    def snapshot(self, row_map: RowMap) -> tuple[Moments, Sample | None]: ...

    def rows(self) -> Sample: ...


Invariance = Literal["rotation", "scale", "row_scale", "shift", "affine", "exchange"]
"""A change that leaves a measure unchanged. To one space: an orthogonal map, one factor for all rows, a factor for each
row, a vector added to all rows, or any invertible linear map with a shift. To both, `exchange`: they are swapped."""


class Estimate(NamedTuple):
    """A value and its standard error, nan where it is unknown."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    name: str
    title: str
    row_map: RowMap
    of: Callable[[Moments], float] | None
    """None for a measure of all rows, which `of_rows` computes; under its row map, rows are checked."""
    effects: Callable[[Moments, GroupRows], Effects] | None
    range: tuple[float, float]
    invariances: frozenset[Invariance]
    source: str
    products: Literal["auto", "float64"] = "auto"
    equal_spaces: float | None = 1.0
    """The value for two equal spaces; None where that depends on the space."""
    of_rows: Callable[..., tuple[float, float]] | None = None
    """The value and, `with_error`, its standard error, from all rows."""

    @property
    def maps(self) -> tuple[RowMap, ...]:
        """The row maps that a `PairMoments` must accumulate for this measure."""
        return (self.row_map,)

    def value(self, moments: Accumulated) -> float:
        """Return the value of the measure."""
        if self.of is None:
            assert self.of_rows is not None
            return self.of_rows(moments.rows(), with_error=False)[0]
        state = moments.moments(self.row_map)
        with one_blas_thread():  # NumPy's products give the same bits only with the same number of threads
            return self.of(state)


def _rsa(name: str, title: str, kernel: str, *invariances: Invariance) -> Measure:
    row_map, form = BILINEAR[kernel]

    def value(moments: Moments) -> float:
        return pearson(sums_of_moments(moments, form))

    def effects(moments: Moments, rows: GroupRows) -> Effects:
        return rsa.rsa_effects(moments, form, rows)

    unchanged_by = frozenset(invariances)
    return Measure(name, title, row_map, value, effects, (-1.0, 1.0), unchanged_by, "Merchant et al. 2020")


def _mean_cosine(name: str, title: str, side: int) -> Measure:
    def value(moments: Moments) -> float:
        return anisotropy.mean_cosine(moments, side)

    def effects(moments: Moments, rows: GroupRows) -> Effects:
        return anisotropy.mean_cosine_effects(moments, side, rows)

    unchanged_by: frozenset[Invariance] = frozenset(("rotation", "scale", "row_scale"))
    limits = (-1.0, 1.0)
    return Measure(name, title, "unit", value, effects, limits, unchanged_by, "Ethayarajh 2019", equal_spaces=None)


_RIGID: frozenset[Invariance] = frozenset(("rotation", "scale", "shift", "exchange"))
_AFFINE: frozenset[Invariance] = _RIGID | {"affine"}

_TABLE = (
    _rsa("rsa", "RSA, cosine kernel", "cosine", "rotation", "scale", "row_scale", "exchange"),
    _rsa("rsa-correlation", "RSA, correlation kernel", "correlation", "scale", "row_scale", "exchange"),
    _rsa("rsa-dot", "RSA, dot-product kernel", "dot", "rotation", "scale", "exchange"),
    _rsa("rsa-sqeuclidean", "RSA, squared Euclidean kernel", "sqeuclidean", "rotation", "scale", "shift", "exchange"),
    Measure("cka", "Linear CKA, debiased", "raw", cka.cka_debiased, partial(cka.cka_effects, debiased=True),
            (-1.0, 1.0), _RIGID, "Kornblith et al. 2019; Song et al. 2012"),
    Measure("cka-biased", "Linear CKA", "raw", cka.cka_biased, partial(cka.cka_effects, debiased=False),
            (0.0, 1.0), _RIGID, "Kornblith et al. 2019"),
    Measure("cca", "Mean CCA", "raw", cca.cca, None, (0.0, 1.0), _AFFINE, "Hotelling 1936", "float64"),
    Measure("svcca", "SVCCA", "raw", cca.svcca, None, (0.0, 1.0), _RIGID, "Raghu et al. 2017", "float64"),
    Measure("pwcca", "PWCCA", "raw", cca.pwcca, None, (0.0, 1.0), frozenset(("scale", "shift")),
            "Morcos et al. 2018", "float64"),
    Measure("procrustes", "Procrustes similarity", "raw", procrustes.procrustes, procrustes.procrustes_effects,
            (0.0, 1.0), _RIGID, "Schönemann 1966; Ding et al. 2021"),
    Measure("mutual-knn", "Mutual 10 nearest neighbours", "unit", None, None, (0.0, 1.0),
            frozenset(("rotation", "scale", "row_scale", "exchange")), "Huh et al. 2024", of_rows=mutual_knn),
    _mean_cosine("mean-cosine-base", "Mean cosine, base", 0),
    _mean_cosine("mean-cosine-tuned", "Mean cosine, tuned", 1),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _TABLE}


def resolve(names: Iterable[str]) -> tuple[Measure, ...]:
    """Return the measures of these names, in order and without repeats. Raises `OptionError` for an unknown name."""
    try:
        names = names.split(",") if isinstance(names, str) else tuple(names)
        names = tuple(dict.fromkeys(name.strip() for name in names))
    except (TypeError, AttributeError):
        raise OptionError(f"measures is {names!r}; expected names, some of {', '.join(MEASURES)}") from None
    for name in names:
        if name not in MEASURES:
            close = suggestion(name, MEASURES)
            raise OptionError(f"unknown measure {name!r}{close}; expected some of {', '.join(MEASURES)}")
    if not names:
        raise OptionError(f"no measure was named; expected some of {', '.join(MEASURES)}")
    return tuple(MEASURES[name] for name in names)


def evaluate(name: str, moments: Accumulated) -> Estimate:
    """Return one measure with its standard error, from what a `PairMoments` has accumulated and sampled."""
    (measure,) = resolve((name,))
    if measure.of is None:
        assert measure.of_rows is not None
        return Estimate(*measure.of_rows(moments.rows()))
    state, sample = moments.snapshot(measure.row_map)
    with one_blas_thread():
        value = measure.of(state)
        if math.isnan(value) or sample is None:
            return Estimate(value, math.nan)
        if measure.effects is not None:
            return Estimate(value, by_groups(measure.effects, value, state, sample))
        return Estimate(value, by_blocks(measure.of, value, state, sample))
