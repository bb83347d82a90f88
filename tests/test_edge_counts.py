"""Micro-averaged scores of edge probes: against plain sums, definitions worked by hand, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from bertft.probes.edge import SubwordTask
from bertft.probes.edge.counts import EdgeCounts, count_cells, difference, intervals, reported_labels

LABELS = ("0", "1", "x")


def task(sentence: list[int], gold: NDArray[np.bool_], name: str = "made") -> SubwordTask:
    spans = np.tile([0, 1], (len(sentence), 1))
    return SubwordTask(name, LABELS[: gold.shape[1]], np.array(sentence), spans, None, gold)


def drawn(targets: int = 60, seed: int = 0) -> tuple[SubwordTask, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    sentence = sorted(rng.integers(0, 9, targets).tolist(), key=lambda number: (number * 7) % 9)  # not in order
    return task(sentence, rng.random((targets, 3)) < 0.4), rng.random((targets, 3)) < 0.5


def plain_measures(marked: NDArray[np.bool_], gold: NDArray[np.bool_]) -> dict[str, float]:
    cells = [(bool(m), bool(g)) for m, g in zip(marked.ravel(), gold.ravel(), strict=True)]
    right = sum(m and g for m, g in cells)
    precision, recall = right / sum(m for m, _ in cells), right / sum(g for _, g in cells)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}


def test_measures_are_those_of_all_cells() -> None:
    made, marked = drawn()
    counts = count_cells(marked, made)
    assert counts.measures == pytest.approx(plain_measures(marked, made.gold))
    columns = np.array([False, True, True])
    some = count_cells(marked, made, columns)
    assert some.measures == pytest.approx(plain_measures(marked[:, 1:], made.gold[:, 1:]))
    assert counts.sentences.tolist() == sorted(set(made.sentence.tolist()))
    for sentence, (right, found, gold) in zip(counts.sentences, counts.cells.tolist(), strict=True):
        here = made.sentence == sentence
        assert (right, found, gold) == (
            (marked & made.gold)[here].sum(), marked[here].sum(), made.gold[here].sum()
        )  # fmt: skip


def test_the_interval_of_the_reference() -> None:
    counts = EdgeCounts(np.array([0]), np.array([[30, 40, 60]]))  # P = 3/4 of 40, R = 1/2 of 60
    half = counts.reference_half
    p, r = 1.959964 * math.sqrt(0.75 * 0.25 / 40), 1.959964 * math.sqrt(0.25 / 60)
    assert half["precision"] == pytest.approx(p, rel=1e-6)
    assert half["recall"] == pytest.approx(r, rel=1e-6)
    assert half["f1"] == pytest.approx(2 * p * r / (p + r), rel=1e-6)


def test_nothing_marked_is_undefined_precision_and_no_error() -> None:
    counts = EdgeCounts(np.array([0, 1]), np.array([[0, 0, 3], [0, 0, 1]]))
    assert math.isnan(counts.measures["precision"])
    assert (counts.measures["recall"], counts.measures["f1"]) == (0, 0)
    assert intervals(counts)["f1"] == (0, 0)
    assert all(math.isnan(end) for end in intervals(counts)["precision"])


def made_counts(n: int, rng: np.random.Generator) -> EdgeCounts:
    """Return counts of sentences of different size and difficulty, whose cells are correlated."""
    size = rng.integers(1, 12, n)
    right = rng.binomial(size, rng.beta(3, 1, n))
    return EdgeCounts(np.arange(n), np.stack([right, size, size], axis=1))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    truth = made_counts(200_000, rng).measures["f1"]
    ends = [intervals(made_counts(150, rng))["f1"] for _ in range(200)]
    assert 0.90 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.99


def test_differences_are_paired_and_average_seeds() -> None:
    rng = np.random.default_rng(2)
    base = made_counts(300, rng)
    better = base.cells.copy()
    worse_at = rng.choice(np.flatnonzero(base.cells[:, 0] > 0), 20, replace=False)
    better[worse_at, 0] -= 1
    other = EdgeCounts(base.sentences, better)
    value, low, high = difference([base], [other])
    assert value == pytest.approx(other.measures["f1"] - base.measures["f1"])
    assert low < value < high < 0
    apart = intervals(base)["f1"]
    assert high - low < 0.5 * (apart[1] - apart[0])
    assert difference([base], [base, other])[0] == pytest.approx(value / 2)
    assert difference([base], [base]) == (0, 0, 0)


def test_differences_over_sentences_that_only_one_model_could_read() -> None:
    base = EdgeCounts(np.array([2, 5]), np.array([[1, 1, 1], [1, 2, 2]]))
    other = EdgeCounts(np.array([2, 7]), np.array([[1, 1, 1], [0, 1, 1]]))
    assert difference([base], [other])[0] == pytest.approx(1 / 2 - 2 / 3)


@pytest.mark.parametrize(
    ("name", "labels", "kept"),
    [
        ("coref", ["0", "1"], [False, True]),
        ("srl", ["ARG0", "ARGA", "ARG1-DSP", "ARGM-TMP", "R-ARG0", "C-ARG1", "C-V"], [True] * 4 + [False] * 3),
        ("srl", ["A0", "AM-TMP", "C-A1", "R-AM-LOC"], [True, True, False, False]),
        ("rel", ["Cause-Effect(e1,e2)", "Other"], [True, False]),
        ("rel", ["Cause-Effect(e1,e2)"], None),
        ("pos", ["NN", "Other"], None),
    ],
)
def test_labels_that_the_reference_reports(name: str, labels: list[str], kept: list[bool] | None) -> None:
    found = reported_labels(name, labels)
    assert (found if found is None else found.tolist()) == kept
