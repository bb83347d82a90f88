"""Micro-averaged F1 of edge probes: counts by sentence, which labels count, intervals of sentences drawn again.

A cell is a target and a label.  A probe is right in a cell that it marks and that is marked in the data; several labels
of one target may be marked, or none.  Counts are kept by sentence, for sentences and not cells are what was drawn.
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
"""Times the sentences are drawn again for an interval."""

Z95 = 1.959963984540054

_CORE_OR_MODIFIER = re.compile(r"A(RG)?([0-5A](-.*)?|M-.*)")  # ARG0, ARG1-DSP, ARGM-TMP; A0, AM-TMP


@dataclass(frozen=True, eq=False)
class EdgeCounts:
    """For each of n sentences the cells that are right, that were marked and that are gold, (n, 3)."""

    sentences: NDArray[np.int64]  # [n], increasing
    cells: NDArray[np.int64]

    @property
    def measures(self) -> dict[str, float]:
        """Precision, recall and F1; nan where nothing was marked, is gold, or both."""
        return {name: float(value) for name, value in _measures(self.cells.sum(axis=0)).items()}

    @property
    def reference_half(self) -> dict[str, float]:
        """Half the 95 % intervals of the reference: normal, cells independent; of F1 the harmonic mean of both."""
        right, marked, gold = self.cells.sum(axis=0).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            p, r = right / marked, right / gold
            precision, recall = Z95 * np.sqrt(p * (1 - p) / marked), Z95 * np.sqrt(r * (1 - r) / gold)
            both = 2 * precision * recall / (precision + recall)
        return {"precision": float(precision), "recall": float(recall), "f1": float(both)}


def count_cells(marked: NDArray[np.bool_], task: SubwordTask, labels: NDArray[np.bool_] | None = None) -> EdgeCounts:
    """Count by sentence what a probe marked, (T, K), in the columns `labels` (K,), all where it is None."""
    gold = task.gold
    if labels is not None:
        marked, gold = marked[:, labels], gold[:, labels]
    cells = np.stack([(marked & gold).sum(axis=1), marked.sum(axis=1), gold.sum(axis=1)], axis=1)
    sentences, place = np.unique(task.sentence, return_inverse=True)
    of_sentence = np.zeros((len(sentences), 3), dtype=np.int64)
    np.add.at(of_sentence, place, cells)
    return EdgeCounts(sentences, of_sentence)


def reported_labels(task: str, labels: Sequence[str]) -> NDArray[np.bool_] | None:
    """The labels that Tenney et al. 2019 count, (K,), where they leave some out; None where they count all.

    Of coreference the label `1` alone, of semantic roles the numbered arguments and the modifiers, without those that
    continue or refer to another, and of relations all but `Other`.

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
    """The 95 % intervals of precision, recall and F1: percentiles over sentences drawn again, with replacement."""
    drawn = _measures(_drawn_again(len(counts.sentences), seed) @ counts.cells)
    return {name: _percentiles(values) for name, values in drawn.items()}


def difference(base: Sequence[EdgeCounts], other: Sequence[EdgeCounts], seed: int = 0) -> tuple[float, float, float]:
    """How much higher the mean F1 of the `other` probes is than that of `base`, with its 95 % interval.

    The same sentences are drawn again for both, so what makes a sentence hard for all of them cancels.
    """
    sentences = np.unique(np.concatenate([counts.sentences for counts in (*base, *other)]))
    weights = np.concatenate([np.ones((1, len(sentences))), _drawn_again(len(sentences), seed)])
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
def _drawn_again(n: int, seed: int) -> NDArray[np.float64]:
    """How often each of n sentences is drawn, in each of so many draws of n, (DRAWS, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)


def _measures(sums: NDArray[np.float64] | NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of (…, 3) cells right, marked and gold."""
    right, marked, gold = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"f1": 2 * right / (marked + gold), "precision": right / marked, "recall": right / gold}


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
