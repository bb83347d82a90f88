"""Micro-averaged F1 of edge probes: counts by sentence, the labels counted, and bootstrap intervals over sentences.

A *cell* is a pair of a target and a label. A probe marks the cells it predicts: for each target several, one or none.
Counts are kept by sentence, since sentences, not cells, are the units of sampling.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertft.probes.edge.targets import SubwordTask

DRAWS = 1000
"""The number of bootstrap samples of an interval."""

Z95 = 1.959963984540054

_CORE_OR_MODIFIER = re.compile(r"A(RG)?([0-5A](-.*)?|M-.*)")  # ARG0, ARG1-DSP, ARGM-TMP; A0, AM-TMP


@dataclass(frozen=True, eq=False)
class EdgeCounts:
    """The number of cells of each of n sentences: correct, marked and gold, (n, 3)."""

    sentences: NDArray[np.int64]  # [n], increasing
    cells: NDArray[np.int64]

    @property
    def measures(self) -> dict[str, float]:
        """Precision, recall and F1, which are nan without marked cells, gold cells, and any of both, respectively."""
        return {name: float(value) for name, value in _measures(self.cells.sum(axis=0)).items()}

    @property
    def reference_half(self) -> dict[str, float]:
        """The half-widths of the reference's 95 % intervals, by the normal approximation for independent cells.

        That of F1 is the harmonic mean of those of precision and recall.
        """
        right, marked, gold = self.cells.sum(axis=0).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            p, r = right / marked, right / gold
            precision, recall = Z95 * np.sqrt(p * (1 - p) / marked), Z95 * np.sqrt(r * (1 - r) / gold)
            both = 2 * precision * recall / (precision + recall)
        return {"precision": float(precision), "recall": float(recall), "f1": float(both)}


def count_cells(marked: NDArray[np.bool_], task: SubwordTask, labels: NDArray[np.bool_] | None = None) -> EdgeCounts:
    """Count the cells by sentence. `marked` is (T, K); `labels` (K,) selects columns, None all of them."""
    gold = task.gold
    if labels is not None:
        marked, gold = marked[:, labels], gold[:, labels]
    cells = np.stack([(marked & gold).sum(axis=1), marked.sum(axis=1), gold.sum(axis=1)], axis=1)
    sentences, place = np.unique(task.sentence, return_inverse=True)
    of_sentence = np.zeros((len(sentences), 3), dtype=np.int64)
    np.add.at(of_sentence, place, cells)
    return EdgeCounts(sentences, of_sentence)


def reported_labels(task: str, labels: Sequence[str]) -> NDArray[np.bool_] | None:
    """Return the labels that Tenney et al. 2019 count, (K,), or None if they count all.

    Coreference: only the label `1`. Semantic roles: numbered arguments and modifiers, without continuations and
    references. Relations: all labels but `Other`.

    >>> reported_labels("srl", ["ARG0", "ARGM-TMP", "C-ARG1", "R-ARG0"]).tolist()
    [True, True, False, False]
    """
    match task:
        case "coref":
            kept = [label == "1" for label in labels]
        case "srl":
            kept = [_CORE_OR_MODIFIER.fullmatch(label) is not None for label in labels]
        case "rel":
            kept = [label != "Other" for label in labels]
        case _:
            return None
    return None if all(kept) else np.array(kept)


def intervals(counts: EdgeCounts, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of precision, recall and F1: percentiles of a bootstrap over sentences."""
    drawn = _measures(_samples(len(counts.sentences), seed) @ counts.cells)
    return {name: _percentiles(values) for name, values in drawn.items()}


def difference(base: Sequence[EdgeCounts], other: Sequence[EdgeCounts], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean F1 of the `other` probes minus that of `base`, and the ends of its 95 % interval.

    The bootstrap is paired: both sides have the same samples of sentences, so variation common to both cancels.
    """
    sentences = np.unique(np.concatenate([counts.sentences for counts in (*base, *other)]))
    weights = np.concatenate([np.ones((1, len(sentences))), _samples(len(sentences), seed)])
    means = []
    for probes in (base, other):
        of_probe = []
        for counts in probes:
            cells = np.zeros((len(sentences), 3))
            cells[np.searchsorted(sentences, counts.sentences)] = counts.cells
            of_probe.append(_measures(weights @ cells)["f1"])
        means.append(np.mean(of_probe, axis=0))
    values = means[1] - means[0]
    return (float(values[0]), *_percentiles(values[1:]))


@functools.lru_cache(maxsize=8)
def _samples(n: int, seed: int) -> NDArray[np.float64]:
    """Return how often each of n sentences occurs in each bootstrap sample, (DRAWS, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)


def _measures(sums: NDArray[np.float64] | NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return F1, precision and recall of cells that are correct, marked and gold, (..., 3)."""
    right, marked, gold = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"f1": 2 * right / (marked + gold), "precision": right / marked, "recall": right / gold}


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
