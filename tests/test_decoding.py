"""The best tree with one root: the compiled core and the reference against a search through all trees."""

from __future__ import annotations

import threading
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bertft import kernels
from bertft._core import arborescences
from bertft.data import Tree
from bertft.errors import BackendError, DataError
from bertft.kernels import reference

Scores = NDArray[np.floating]

IMPLEMENTATIONS = {"core": arborescences, "reference": reference.arborescences}


@cache
def all_trees(words: int) -> NDArray[np.int64]:
    """Return the heads of every tree with one root over some words, (trees, words)."""
    found = []
    for heads in product(range(words + 1), repeat=words):
        if heads.count(0) == 1 and all(head != word for word, head in enumerate(heads, start=1)):
            try:
                Tree("made", "made:1", ("w",) * words, ("X",) * words, ("X",) * words, heads, ("dep",) * words)
            except DataError:  # a cycle
                continue
            found.append(heads)
    assert len(found) == words ** (words - 1)  # Cayley: n^(n-2) trees, each with any of its n words as root
    return np.array(found)


def totals(scores: Scores) -> NDArray[np.float64]:
    """Return the score of every tree of one sentence, (trees,)."""
    words = len(scores)
    return scores.astype(np.float64)[np.arange(words), all_trees(words)].sum(axis=1)


def assert_best(scores: Scores, heads: NDArray[np.int32], tolerance: float = 0.0) -> None:
    """Check that the heads form a tree and that no tree has a higher score."""
    trees = all_trees(len(scores))
    (place,) = np.flatnonzero((trees == heads).all(axis=1))
    found = totals(scores)
    assert found[place] >= found.max() - tolerance


def scores_of(elements: st.SearchStrategy[float], dtype: type = np.float64) -> st.SearchStrategy[Scores]:
    return st.integers(1, 6).flatmap(lambda n: hnp.arrays(dtype, (n, n + 1), elements=elements))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(scores_of(st.integers(-3, 3).map(float)))
@example(np.zeros((6, 7)))
@settings(max_examples=150)
def test_no_tree_is_better_where_sums_are_exact(implementation: str, scores: Scores) -> None:
    (heads,) = IMPLEMENTATIONS[implementation](scores[None], np.array([len(scores)]))
    assert_best(scores, heads)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(scores_of(st.floats(-1e6, 1e6, width=32), np.float32))
def test_no_tree_is_better_but_for_rounding(implementation: str, scores: Scores) -> None:
    (heads,) = IMPLEMENTATIONS[implementation](scores[None], np.array([len(scores)]))
    assert_best(scores, heads, tolerance=1e-9 * float(np.abs(scores).max()))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(scores_of(st.sampled_from([-np.inf, -np.inf, 0.0, 1.0, 2.0, 3.0])))
def test_forbidden_arcs_are_not_taken(implementation: str, scores: Scores) -> None:
    given_scores = scores[None], np.array([len(scores)])
    if totals(scores).max() == -np.inf:
        with pytest.raises(ValueError, match="sentence 0 has no tree of one root"):
            IMPLEMENTATIONS[implementation](*given_scores)
    else:
        assert_best(scores, IMPLEMENTATIONS[implementation](*given_scores)[0])


def test_a_thousand_graphs_of_a_batch_with_ties() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, 1000)
    # Values beyond a sentence and on the diagonal must not be read; nan there would raise.
    scores = np.full((1000, 6, 7), np.nan)
    for sentence, n in enumerate(lengths):
        scores[sentence, :n, : n + 1] = rng.integers(0, 4, (n, n + 1)) + 6.0 * (rng.random((n, n + 1)) < 0.2)
        scores[sentence, np.arange(n), np.arange(1, n + 1)] = np.nan
    before = scores.copy()
    heads = arborescences(scores, lengths)
    np.testing.assert_array_equal(scores, before)
    repaired = 0
    for sentence, n in enumerate(lengths):
        real = np.nan_to_num(scores[sentence, :n, : n + 1], nan=-1e9)
        assert_best(real, heads[sentence, :n])
        repaired += not (all_trees(int(n)) == real.argmax(axis=1)).all(axis=1).any()
        assert (heads[sentence, n:] == -1).all()
    assert repaired > 300, "the best heads alone should often be no tree"
    for threads in (1, 3):
        np.testing.assert_array_equal(arborescences(scores, lengths, threads=threads), heads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [7, 20, 61])
def test_longer_sentences_agree_with_the_reference(n: int, dtype: type) -> None:
    rng = np.random.default_rng(n)
    levels = rng.integers(0, 50, (3, n, n + 1)).astype(dtype)
    levels[1] += 30 * (rng.random((n, n + 1)) < 2 / n)
    levels[2, :, 0] += 100  # every word prefers the root as its head
    lengths = np.array([n, n - 2, n])
    ours, theirs = (find(levels, lengths) for find in IMPLEMENTATIONS.values())
    for sentence, words in enumerate(lengths):
        rows = np.arange(words)
        assert (ours[sentence, :words] == 0).sum() == 1
        assert (
            levels[sentence, rows, ours[sentence, :words]].sum()
            == levels[sentence, rows, theirs[sentence, :words]].sum()
        )
        assert Tree("", "", ("",) * words, (), (), tuple(ours[sentence, :words].tolist()), ())


def test_the_best_heads_are_kept_where_they_make_a_tree() -> None:
    rng = np.random.default_rng(3)
    trees = all_trees(6)
    heads = trees[rng.integers(0, len(trees), 50)]
    scores = rng.standard_normal((50, 6, 7))
    scores[np.arange(50)[:, None], np.arange(6), heads] += 20
    np.testing.assert_array_equal(arborescences(scores, np.full(50, 6)), heads)


def test_one_root_costs_no_digits() -> None:
    # All prefer the root. The second has an advantage of 2^-30, which a large penalty would round away.
    scores = np.zeros((1, 3, 4))
    scores[0, :, 0] = 1e5
    scores[0, 1, 0] += 2.0**-30
    assert arborescences(scores, np.array([3])).tolist()[0][1] == 0


def test_nothing_comes_of_nothing() -> None:
    assert arborescences(np.zeros((0, 3, 4)), np.zeros(0, dtype=np.int64)).shape == (0, 3)
    assert arborescences(np.zeros((2, 0, 1)), np.zeros(2, dtype=np.int64)).shape == (2, 0)
    assert arborescences(np.full((1, 2, 3), np.nan), np.array([0])).tolist() == [[-1, -1]]
    assert arborescences(np.zeros((1, 1, 2)), np.array([1])).tolist() == [[0]]


def test_runs_beside_other_python_threads() -> None:
    rng = np.random.default_rng(5)
    batches = [rng.standard_normal((40, 30, 31)).astype(np.float32) for _ in range(4)]
    lengths = np.full(40, 30)
    found: dict[int, NDArray[np.int32]] = {}
    workers = [
        threading.Thread(target=lambda i=i, batch=batch: found.update({i: arborescences(batch, lengths, threads=2)}))
        for i, batch in enumerate(batches)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, batch in enumerate(batches):
        np.testing.assert_array_equal(found[i], arborescences(batch, lengths, threads=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e302, -1e302])
def test_a_score_that_is_no_number_is_refused_and_named(bad: float) -> None:
    scores = np.zeros((40, 3, 4))
    scores[33, 1, 3] = scores[35, 0, 0] = bad
    with pytest.raises(
        ValueError, match=r"sentence 33 has a score, of word 2 under head 3, that is nan, inf or beyond"
    ):
        arborescences(scores, np.full(40, 3), threads=2)
    if not np.isfinite(bad):
        with pytest.raises(ValueError, match="sentence 33 has a score that is nan or inf"):
            reference.arborescences(scores, np.full(40, 3))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((np.zeros((2, 3)), np.array([2, 2])), "scores has 2 dimensions, wanted 3"),
        ((np.zeros((2, 3, 3)), np.array([2, 2])), r"scores has shape \(2, 3, 3\), wanted \(2, 3, 4\)"),
        ((np.zeros((2, 3, 4)), np.array([2])), r"lengths has shape \(1,\), wanted \(2,\)"),
        ((np.zeros((2, 3, 4)), np.array([2, 4])), "sentence 1 has length 4; expected 0 to 3"),
        ((np.zeros((2, 3, 4)), np.array([2, -1])), "sentence 1 has length -1; expected 0 to 3"),
        ((np.zeros((2, 3, 4)), np.array([2.0, 1.0])), "lengths has type float64, wanted int64"),
        ((np.zeros((2, 3, 4), dtype=np.int64), np.array([2, 2])), "scores has type int64, wanted float64 or float32"),
        ((np.zeros((2, 4, 3)).transpose(0, 2, 1), np.array([2, 2])), "scores is not contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[np.ndarray, np.ndarray], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        arborescences(*arguments)


def test_the_dispatch_knows_where_it_is() -> None:
    assert kernels.select("cpu").arborescences(np.zeros((1, 1, 2)), np.array([1])).tolist() == [[0]]
    with pytest.raises(BackendError, match=r"has no arborescences, only reference, cpu.*\.cpu\(\)"):
        kernels.Operations("gpu", "cuda:0").arborescences  # noqa: B018
