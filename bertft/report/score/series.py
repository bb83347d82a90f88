"""Curves, their names, and the findings in sentences.

A curve is one measure of one tuned checkpoint on one corpus, by layer. The sentences are true for any input: undefined
values (nan) are left out and reported, a single layer is not called a trend, and two different numbers are printed with
enough digits to differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bertft.records import Row, as_float
from bertft.report.rows import Z95, qualified, short_names

KEPT = 0.99
"""A layer counts as kept at or above this similarity."""

ACRONYMS = ("rsa", "cka", "cca", "svcca", "pwcca")


@dataclass(frozen=True)
class Series:
    """One curve: the values of a measure by ascending layer, with their standard errors (nan where unknown).

    A mean over several pairs of models has `spreads`, the standard deviations over the pairs, instead.
    """

    measure: str
    corpus: str
    base: str
    tuned: str
    layers: tuple[int, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    n_tokens: int
    n_sentences: int
    spreads: tuple[float, ...] = ()
    n_pairs: int = 1

    def half_widths(self) -> tuple[float, ...]:
        """Return half the width of the band at each layer, nan if unknown: a 95 % interval, or the spread of a mean."""
        return self.spreads if self.n_pairs > 1 else tuple(Z95 * stderr for stderr in self.stderrs)

    def estimates(self) -> tuple[str, ...]:
        """Return the text of the table cell at each layer."""
        if self.n_pairs > 1:
            return tuple(averaged(*pair) for pair in zip(self.values, self.spreads, strict=True))
        return tuple(estimate(*pair) for pair in zip(self.values, self.stderrs, strict=True))

    def defined(self) -> list[tuple[int, float]]:
        """Return the (layer, value) pairs whose value is finite."""
        return [(layer, value) for layer, value in zip(self.layers, self.values, strict=True) if math.isfinite(value)]


def series(rows: Iterable[Row]) -> list[Series]:
    """Return the curves of the rows, in order of first appearance."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["measure"], row["corpus"], row["base"], row["tuned"]), []).append(row)
    curves = []
    for key, group in groups.items():
        group = sorted(group, key=lambda row: int(row["layer"]))
        curves.append(
            Series(
                *key,
                layers=tuple(int(row["layer"]) for row in group),
                values=tuple(as_float(row["value"]) for row in group),
                stderrs=tuple(as_float(row["stderr"]) for row in group),
                n_tokens=int(group[0]["n_tokens"]),
                n_sentences=int(group[0]["n_sentences"]),
                spreads=tuple(as_float(row["spread"]) for row in group if row.get("n_pairs", 1) > 1),
                n_pairs=int(group[0].get("n_pairs", 1)),
            )
        )
    return curves


@dataclass(frozen=True)
class Panel:
    """Curves in one panel of a figure or in one table, by unique names."""

    measure: str
    heading: str
    detail: str
    lines: dict[str, Series]

    @property
    def one_corpus(self) -> bool:
        """Whether all curves are of the same corpus."""
        return len({curve.corpus for curve in self.lines.values()}) == 1


MANY = 3
"""More checkpoints than these are compared with one another on each corpus, not each with itself on all of them."""


def panels(rows: Sequence[Row], run: Mapping[str, Any] = MappingProxyType({})) -> list[Panel]:
    """Return the panels of each measure: the checkpoints on each corpus, or few checkpoints each on several corpora.

    These are the layouts of the paper's figures 2 and 5.
    """
    curves = series(rows)
    bases = base_names(curves)
    tuned = labels(curves)
    corpora = short_names(curve.corpus for curve in curves)
    shown = []
    for measure in dict.fromkeys(curve.measure for curve in curves):
        name = title(measure)
        against = f" with {', '.join(bases.values())}" if compares(measure) and len(bases) == 1 else ""
        mine = [curve for curve in curves if curve.measure == measure]
        if len(corpora) == 1 or len(set(tuned.values())) > MANY:
            for corpus, short in corpora.items():
                own = [curve for curve in mine if curve.corpus == corpus]
                heading = f"{name} of pairs" if len(bases) > 1 else name + against
                heading += f", {short}" if len(corpora) > 1 else ""
                lines = {tuned[curve]: curve for curve in own}
                shown.append(Panel(measure, heading, qualified(f"{corpus}: {size(own[0])}", run), lines))
            continue
        for label in dict.fromkeys(tuned[curve] for curve in mine):
            lines = {corpora[curve.corpus]: curve for curve in mine if tuned[curve] == label}
            detail = "; ".join(f"{corpus}: {size(curve)}" for corpus, curve in lines.items())
            whose = f" of {label}" if compares(measure) else f": {label}"
            shown.append(Panel(measure, name + whose + against, qualified(detail, run), lines))
    return shown


def base_names(curves: Iterable[Series]) -> dict[str, str]:
    """Return short names of the base checkpoints; the "3 bases" of a mean over pairs are not one of them."""
    return short_names(dict.fromkeys(curve.base for curve in curves if curve.n_pairs == 1))


def labels(curves: Sequence[Series]) -> dict[Series, str]:
    """Return for each curve the name of the tuned checkpoint, with its base where there are several bases."""
    bases, tuned = base_names(curves), short_names(dict.fromkeys(curve.tuned for curve in curves))
    return {
        curve: tuned[curve.tuned] + (f" with {bases[curve.base]}" if len(bases) > 1 and curve.n_pairs == 1 else "")
        for curve in curves
    }


def title(measure: str) -> str:
    """Return the display name of a measure.

    >>> title("rsa"), title("cka-biased"), title("mean-cosine-base")
    ('RSA', 'CKA (biased)', 'Mean cosine (base)')
    """
    *words, variant = measure.replace("mean-", "mean ").split("-")
    if not words:
        return variant.upper() if variant in ACRONYMS else variant.capitalize()
    return f"{title(' '.join(words))} ({variant})"


def compares(measure: str) -> bool:
    """Return whether a measure compares two models; a mean cosine describes one model."""
    return not measure.startswith("mean-cosine")


def estimate(value: float, stderr: float) -> str:
    """Return a value and half its 95 % interval as the text of a table cell.

    >>> estimate(0.81234, 0.004)
    '0.8123 ± 0.0078'
    """
    if not math.isfinite(value):
        return "undefined"
    if value == 1 and stderr == 0:
        return "1 exactly"
    if not math.isfinite(stderr):
        return f"{value:.4f}"
    # A small positive width must not be printed as 0.
    return f"{value:.4f} ± <1e-4" if 0 < Z95 * stderr < 0.00005 else f"{value:.4f} ± {Z95 * stderr:.4f}"


def averaged(mean: float, spread: float) -> str:
    """Return a mean over pairs and its standard deviation as the text of a table cell.

    >>> averaged(0.81234, 0.0042)
    '0.8123 σ 0.0042'
    """
    if not math.isfinite(mean) or (mean == 1 and spread == 0):
        return estimate(mean, 0)
    return f"{mean:.4f} σ <1e-4" if 0 < spread < 0.00005 else f"{mean:.4f} σ {spread:.4f}"


def size(curve: Series) -> str:
    """Return the numbers of tokens and sentences of a curve as text."""
    tokens, sentences = (
        f"{n:,} {word}{'' if n == 1 else 's'}"
        for n, word in ((curve.n_tokens, "token"), (curve.n_sentences, "sentence"))
    )
    return f"{tokens} from {sentences}"


def headline(rows: Sequence[Row]) -> str:
    """Return the main finding as one sentence, about RSA or else the first measure that compares models."""
    curves = main_curves(rows)
    defined = [curve for curve in curves if curve.defined()]
    if not defined:
        return (
            f"{title(curves[0].measure)} is undefined at every layer compared."
            if curves
            else "No measure that compares the models was computed."
        )
    if len(curves) == 1:
        return finding(curves[0])
    name = title(curves[0].measure)
    names = subjects(curves)
    if all(value == 1 for curve in defined for _, value in curve.defined()):
        return f"{name} is exactly 1 wherever it is defined: the representations did not change."
    lows = [(*lowest(curve), names[curve]) for curve in defined]
    (layer, low, who), (other_layer, other_low, other) = min(lows, key=value_of), max(lows, key=value_of)
    if low == other_low:
        return f"{name} drops equally far in every comparison, to {low:.2f}."
    low_text, other_text = distinct(low, other_low)
    return (
        f"{name} drops most {who} (to {low_text} at layer {layer}) "
        f"and least {other} (to {other_text} at layer {other_layer})."
    )


def findings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the subject and the finding of each curve of the main measure."""
    curves = main_curves(rows)
    names = subjects(curves)
    return [(names[curve], finding(curve)) for curve in curves]


def finding(curve: Series) -> str:
    """Return the finding of one curve: which first layers are kept, and the largest drop between two layers."""
    name, points = title(curve.measure), curve.defined()
    undefined = [layer for layer, value in zip(curve.layers, curve.values, strict=True) if not math.isfinite(value)]
    aside = f" (undefined at {layers_text(undefined)})" if undefined else ""
    if not points:
        return f"{name} is undefined at every layer compared."
    if len(points) == 1:
        only = "the only layer where it is defined" if undefined else "the only layer compared"
        return f"{name} is {points[0][1]:.4f} at layer {points[0][0]}, {only}."
    if all(value == 1 for _, value in points):
        return f"{name} is exactly 1 at every layer compared: the representations did not change{aside}."
    low_layer, low = lowest(curve)
    if low >= KEPT:
        where = f"the lowest is {low:.4f}, at layer {low_layer}"
        return f"Every layer compared is almost unchanged ({name} at or above {KEPT}); {where}{aside}."
    kept = []
    for layer, value in points:
        if value < KEPT:
            break
        kept.append(layer)
    verb = "is" if len(kept) == 1 else "are"
    start = (
        f"{layers_text(kept)} {verb} almost unchanged ({name} at or above {KEPT})"
        if kept
        else f"layer {points[0][0]} has changed already ({name} below {KEPT})"
    )
    steps = [(before, after) for before, after in itertools.pairwise(points) if after[1] < before[1]]
    lowest_text = f"the lowest is {low:.2f}, at layer {low_layer}"
    if not steps:
        return f"{start[0].upper()}{start[1:]}; no layer is lower than the one before it, and {lowest_text}{aside}."
    before, after = max(steps, key=lambda step: step[0][1] - step[1][1])
    from_text, to_text = distinct(before[1], after[1])
    drop = f"the largest drop is between layers {before[0]} and {after[0]} ({name} {from_text} → {to_text})"
    rest = "" if after[0] == low_layer else f"; {lowest_text}"
    return f"{start[0].upper()}{start[1:]}; {drop}{rest}{aside}."


def main_curves(rows: Sequence[Row]) -> list[Series]:
    """Return the curves of RSA, or else of the first measure that compares models; only the means if there are any."""
    curves = [curve for curve in series(rows) if compares(curve.measure)]
    measures = [curve.measure for curve in curves]
    main = [curve for curve in curves if curve.measure == ("rsa" if "rsa" in measures else measures[0])]
    # The mean over pairs is more informative than a single pair.
    return [curve for curve in main if curve.n_pairs > 1] or main


def subjects(curves: Sequence[Series]) -> dict[Series, str]:
    """Return a phrase for each curve that distinguishes it from the others: `for mnli`, `on wiki.txt`, or both."""
    tuned = labels(curves)
    corpora = short_names(dict.fromkeys(curve.corpus for curve in curves))
    words = {}
    for curve in curves:
        checkpoint = [f"for {tuned[curve]}"] if len(set(tuned.values())) > 1 or len(corpora) == 1 else []
        corpus = [f"on {corpora[curve.corpus]}"] if len(corpora) > 1 else []
        words[curve] = " ".join(checkpoint + corpus)
    return words


def lowest(curve: Series) -> tuple[int, float]:
    """Return the (layer, value) pair with the lowest value; at least one value must be defined."""
    return min(curve.defined(), key=value_of)


def value_of(point: tuple[int, float] | tuple[int, float, str]) -> float:
    """Return the value of a (layer, value, …) tuple."""
    return point[1]


def distinct(first: float, second: float) -> tuple[str, str]:
    """Return two numbers as text, with the smallest number of digits, at least two, at which the texts differ."""
    for digits in range(2, 17):
        texts = f"{first:.{digits}f}", f"{second:.{digits}f}"
        if texts[0] != texts[1]:
            break
    return texts


def layers_text(layers: Sequence[int]) -> str:
    """Return layers as text, with consecutive layers as a range.

    >>> layers_text([0, 1, 2, 5])
    'layers 0–2 and 5'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    joined = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    return f"layer{'' if len(layers) == 1 else 's'} {joined}"
