"""Evaluation of structural probes: values worked by hand, the textbook on random batches, and errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bertft import kernels
from bertft._core import row_spearman, spanning_trees
from bertft.errors import ArrayError, BackendError, DataError, OptionError, UndefinedWarning
from bertft.kernels import reference
from bertft.probes import evaluate_depths, evaluate_distances, keep_masks


def tree_distances(heads):
    """Return path lengths between the words of a tree. Heads count from 1, 0 is the root."""
    n = len(heads)
    distances = np.where(np.eye(n), 0.0, np.inf)
    for word, head in enumerate(heads):
        if head:
            distances[word, head - 1] = distances[head - 1, word] = 1
    for middle in range(n):
        distances = np.minimum(distances, distances[:, middle, None] + distances[None, middle])
    return distances


def square(n, cells):
    """Return a symmetric matrix with a zero diagonal from the values above it, row by row."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = cells
    return matrix + matrix.T


# ------------------------------------------------------------------------------------------------- derived by hand


def test_by_hand_two_edges_of_three():
    # Gold chain 0 - 1 - 2 - 3.  Predicted: the cheapest cells are (0,1) 1, (0,2) 2, (1,2) 3 (closes a cycle), (2,3) 4.
    # The tree has 01, 02, 23; of the gold edges 01, 12, 23 it has two: UUAS 2/3.
    predicted, gold = square(4, [1, 2, 6, 3, 5, 4]), tree_distances([0, 1, 2, 3])
    found = evaluate_distances(predicted[None], gold[None], [4])
    assert (found.correct_edges, found.predicted_edges, found.gold_edges) == (2, 3, 3)
    assert found.uuas == 2 / 3
    # Ranks of the rows, predicted above gold, with the row's zero distance to itself:
    #   0 1 2 6 -> 1 2 3 4          1 0 3 5 -> 2 1 3 4          2 3 0 4 -> 2 3 1 4          6 5 4 0 -> 4 3 2 1
    #   0 1 2 3 -> 1 2 3 4: 1       1 0 1 2 -> 2.5 1 2.5 4      2 1 0 1 -> 4 2.5 1 2.5      3 2 1 0 -> 4 3 2 1: 1
    # Doubled and centred the second is (-1 -3 1 3), (0 -3 0 3): 18 / sqrt(20 * 18); the third (-1 1 -3 3), (3 0 -3 0):
    # 6 / sqrt(20 * 18).
    mean = (1 + 18 / 360**0.5 + 6 / 360**0.5 + 1) / 4
    assert found.spearman_by_length == {4: pytest.approx(mean, abs=1e-15)}


def test_by_hand_ties_go_to_the_lowest_row_then_column():
    # All distances 1: Kruskal takes (0,1), (0,2), (0,3), (0,4) and every other edge closes a cycle.  Gold is the chain
    # 1 - 0 - 2 - 3 - 4: two of its four edges are found.  Each predicted row has one 0 and four 1s.
    gold = tree_distances([0, 1, 1, 3, 4])
    found = evaluate_distances(np.where(np.eye(5), 0.0, 1.0)[None], gold[None], [5])
    assert (found.correct_edges, found.gold_edges) == (2, 4)
    # Predicted ranks 1, 3.5 * 4: doubled and centred -4, 1, 1, 1, 1 (squares 20).  Gold, the word itself first:
    #   word 0: 0 1 1 2 3 -> -4 -1 -1 2 4 (38), products 16 - 1 - 1 + 2 + 4 = 20
    #   word 1: 0 1 2 3 4 -> -4 -2 0 2 4 (40), products 16 + 4 = 20, and so word 4
    #   word 2: 0 1 1 2 2 -> -4 -1 -1 3 3 (36), products 20
    #   word 3: 0 1 1 2 3 -> as word 0
    mean = sum(20 / (20 * squares) ** 0.5 for squares in (38, 40, 36, 38, 40)) / 5
    assert found.spearman == pytest.approx(mean, abs=1e-15)


def test_by_hand_punctuation_is_in_the_ranks_and_out_of_the_edges():
    # "yes , go": go is the root and the head of the others.  Without the comma the words are 0 and 2, one edge each.
    gold = tree_distances([3, 3, 0])
    predicted = square(3, [1, 9, 2])
    found = evaluate_distances(predicted[None], gold[None], [3], keep_masks([["UH", ",", "VB"]]))
    assert (found.correct_edges, found.predicted_edges, found.gold_edges) == (1, 1, 1)
    # With the comma predicted has 01, 12 and gold has 02, 12.
    whole = evaluate_distances(predicted[None], gold[None], [3])
    assert (whole.correct_edges, whole.gold_edges) == (1, 2)
    # Rows 0 1 9 / 0 2 1: 1 2 3 with 1 3 2: 1/2.  1 0 2 / 2 0 1: 2 1 3 with 3 1 2: 1/2.  9 2 0 / 1 1 0: 3 2 1 with
    # 2.5 2.5 1, doubled and centred 2 0 -2 with 1 1 -2: 6 / sqrt(8 * 6).
    mean = (0.5 + 0.5 + 6 / 48**0.5) / 3
    assert found.spearman_by_length == whole.spearman_by_length == {3: pytest.approx(mean, abs=1e-15)}


def test_by_hand_presets_differ_where_punctuation_has_dependents():
    # Word 1 is tagged as punctuation and is the head of 0 and 2; 2 is the head of 3.  Among 0, 2, 3 the gold distances
    # are 02: 2, 03: 3, 23: 1, so the paper's gold edges are 23 and 02, and today's only 23.
    heads = [2, 0, 2, 3]
    gold = tree_distances(heads)[None]
    keep = np.array([[True, False, True, True]])
    predicted = square(4, [1, 2, 8, 1, 9, 1])[None]  # tree of 0, 2, 3: 23, 02
    paper = evaluate_distances(predicted, gold, [4], keep)
    today = evaluate_distances(predicted, gold, [4], keep, preset="today", gold_heads=[heads])
    assert (paper.correct_edges, paper.predicted_edges, paper.gold_edges) == (2, 2, 2)
    assert (today.correct_edges, today.predicted_edges, today.gold_edges) == (1, 2, 1)
    # Every word kept, both are the treebank's three edges; predicted takes 01, 12, 23.
    both = [
        evaluate_distances(predicted, gold, [4]),
        evaluate_distances(predicted, gold, [4], preset="today", gold_heads=[heads]),
    ]
    assert both[0] == both[1]
    assert both[0].uuas == 1.0


def test_by_hand_lengths_average_unweighted_from_5_to_50():
    # Chains predicted exactly: correlation 1.  One of 5 words is reversed in every row by 1 / distance: the word
    # itself first in both, the others reversed.  Rows 3 and 4 are 1 and 0 again; doubled and centred the ranks are
    #   row 0, distances 0 1 2 3 4: gold -4 -2 0 2 4, predicted -4 4 2 0 -2: 16 - 8 + 0 + 0 - 8 = 0
    #   row 1, distances 1 0 1 2 3: gold -1 -4 -1 2 4, predicted 3 -4 3 0 -2: -3 + 16 - 3 + 0 - 8 = 2, squares both 38
    #   row 2, distances 2 1 0 1 2: gold 3 -1 -4 -1 3, predicted -1 3 -4 3 -1: -3 - 3 + 16 - 3 - 3 = 4, squares both 36
    def chain(n):
        return np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)

    turned = np.divide(1.0, chain(5), out=np.zeros((5, 5)), where=chain(5) > 0)
    parts = [
        evaluate_distances(predicted[None], gold[None], [len(gold)])
        for predicted, gold in [
            (turned, chain(5)),
            (chain(50), chain(50)),
            (chain(51), chain(51)),
            (chain(4), chain(4)),
        ]
    ]
    found = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    mean = (0 + 2 / 38 + 4 / 36 + 2 / 38 + 0) / 5
    assert found.spearman_by_length == {4: 1.0, 5: pytest.approx(mean, abs=1e-15), 50: 1.0, 51: 1.0}
    assert found.spearman == pytest.approx((mean + 1.0) / 2, abs=1e-15)
    assert found.gold_edges == 4 + 49 + 50 + 3


def test_by_hand_depths():
    # Depths 1 0 1 2 1 against .9 .1 .7 2.5 1.1: doubled and centred 0 -4 0 4 0 and 0 -4 -2 4 2: 32 / sqrt(32 * 40).
    # The second's lowest word, a comma, cannot be its root; the third is all punctuation, so any word can.  The
    # fourth has a constant prediction and takes the first word, which is not the root.
    predicted = np.array([[0.9, 0.1, 0.7, 2.5, 1.1], [5, 0, 1, 9, 9], [3, 1, 9, 9, 9], [2, 2, 9, 9, 9]])
    gold = np.array([[1, 0, 1, 2, 1], [1, 1, 0, 9, 9], [1, 0, 9, 9, 9], [1, 0, 9, 9, 9]])
    keep = keep_masks([["A", "A", "A", "A", "."], ["A", ",", "A"], [".", ","], ["A", "A"]])
    found = evaluate_depths(predicted, gold, [5, 3, 2, 2], keep)
    assert (found.correct_roots, found.sentences, found.root_accuracy) == (3, 4, 0.75)
    assert found.constant_rows == 1
    # 5 0 1 with 1 1 0: doubled and centred 2 -2 0 with 1 1 -2: 0.
    assert found.spearman_by_length == {2: 1.0, 3: 0.0, 5: pytest.approx(32 / 1280**0.5, abs=1e-15)}
    assert found.spearman == found.spearman_by_length[5]


# --------------------------------------------------------------------------------------------------- the textbook


def random_batch(seed, batch=12, width=60):
    """Return integer and continuous distances, some asymmetric or infinite, nan beyond the lengths, random masks."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, width + 1, batch)
    predicted = rng.integers(0, 7, (batch, width, width)).astype(float)
    predicted[: batch // 2] = rng.random((batch // 2, width, width))
    predicted[rng.random(predicted.shape) < 0.03] = np.inf
    predicted[::2] = np.minimum(predicted[::2], predicted[::2].transpose(0, 2, 1))
    predicted[batch // 3, 0] = 1.0  # a constant row
    gold = np.zeros((batch, width, width))
    heads = np.zeros((batch, width), dtype=np.int64)
    for sentence, n in enumerate(lengths):
        heads[sentence, 1:n] = [rng.integers(1, word + 1) for word in range(1, n)]
        gold[sentence, :n, :n] = tree_distances(heads[sentence, :n])
        predicted[sentence, n:] = predicted[sentence, :, n:] = gold[sentence, n:] = np.nan
    return predicted, gold, heads, lengths, rng.random((batch, width)) > 0.2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_core_equals_the_textbook(seed, dtype):
    predicted, gold, _, lengths, keep = random_batch(seed)
    predicted, n = predicted.astype(dtype), predicted.shape[1]
    rows = np.where(np.arange(n) < lengths[:, None], lengths[:, None], 0).ravel()
    for distances in (predicted, gold):
        np.testing.assert_array_equal(
            spanning_trees(distances, lengths, keep), reference.spanning_trees(distances, lengths, keep)
        )
    sides = predicted.reshape(-1, n), gold.reshape(-1, n)
    found = row_spearman(*sides, rows)
    np.testing.assert_allclose(found, reference.row_spearman(*sides, rows), rtol=0, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant rows
        scipy = [spearmanr(x[:m], y[:m]).statistic if m else np.nan for x, y, m in zip(*sides, rows, strict=True)]
    np.testing.assert_allclose(found, scipy, rtol=0, atol=1e-9)


@pytest.mark.parametrize("preset", ["paper", "today"])
@pytest.mark.parametrize("seed", [4, 5])
def test_evaluation_equals_the_textbook(seed, preset):
    """Each number is recomputed from its definition: the reference's Kruskal, SciPy's Spearman, sets of edges."""
    predicted, gold, heads, lengths, keep = random_batch(seed)
    found = evaluate_distances(predicted, gold, lengths, keep, preset, gold_heads=heads if preset == "today" else None)
    by_length, correct, total, constant = {}, 0, 0, 0
    for sentence, n in enumerate(lengths):
        trees = []
        for side in (predicted, gold):
            parents = reference.spanning_trees(side[[sentence]], [n], keep[[sentence]])[0]
            trees.append({frozenset((word, int(up))) for word, up in enumerate(parents) if up >= 0})
        if preset == "today":
            kept = keep[sentence, :n]
            trees[1] = {
                frozenset((word, head - 1))
                for word, head in enumerate(heads[sentence, :n].tolist())
                if head and kept[word] and kept[head - 1]
            }
        correct, total = correct + len(trees[0] & trees[1]), total + len(trees[1])
        for word in range(n):
            x, y = predicted[sentence, word, :n], gold[sentence, word, :n]
            if np.ptp(y) == 0 or (x == x[0]).all():
                constant += n > 1
            else:
                by_length.setdefault(int(n), []).append(spearmanr(x, y).statistic)
    assert (found.correct_edges, found.gold_edges, found.constant_rows) == (correct, total, constant)
    assert constant > 0
    assert found.spearman_by_length == pytest.approx({n: np.mean(by_length[n]) for n in by_length}, abs=1e-9)
    assert found.spearman == pytest.approx(
        np.mean([np.mean(by_length[n]) for n in by_length if 5 <= n <= 50]), abs=1e-9
    )


def test_every_way_in_gives_the_same_answer():
    predicted, gold, _, lengths, keep = random_batch(6)
    predicted, gold = np.nan_to_num(predicted.astype(np.float32), posinf=50), np.nan_to_num(gold).astype(np.int64)
    expected = evaluate_distances(predicted, gold, lengths, keep)
    tensors = [torch.from_numpy(array) for array in (predicted, gold.astype(np.float32), lengths, keep)]
    assert evaluate_distances(*tensors) == expected
    assert evaluate_distances(predicted[:, ::-1][:, ::-1], gold, lengths.tolist(), keep.tolist()) == expected
    textbook = evaluate_distances(predicted, gold, lengths, keep, backend="reference")
    assert textbook.spearman == pytest.approx(expected.spearman, abs=1e-12)
    assert (textbook.correct_edges, textbook.constant_rows) == (expected.correct_edges, expected.constant_rows)
    halves = [
        evaluate_distances(predicted[part], gold[part], lengths[part], keep[part])
        for part in (slice(5), slice(5, None))
    ]
    merged = halves[0].merge(halves[1])
    assert merged.spearman == pytest.approx(expected.spearman, abs=1e-12)
    assert merged.spearman_counts == expected.spearman_counts
    assert merged.uuas == expected.uuas


def test_threads_do_not_change_the_answer():
    predicted, gold, _, lengths, keep = random_batch(7, batch=200, width=30)
    rows = np.where(np.arange(30) < lengths[:, None], lengths[:, None], 0).ravel()
    trees = [spanning_trees(predicted, lengths, keep, threads=threads) for threads in (1, 4)]
    np.testing.assert_array_equal(*trees)
    sides = predicted.reshape(-1, 30), gold.reshape(-1, 30)
    np.testing.assert_array_equal(*(row_spearman(*sides, rows, threads=threads) for threads in (1, 4)))


NUMBERS = st.one_of(
    st.integers(-3, 3).map(float), st.floats(allow_nan=False), st.sampled_from([np.inf, -np.inf, 0.0, -0.0, 32767.5])
)


@given(st.data(), st.integers(1, 9), st.sampled_from(["float32", "float64"]))
def test_any_values(data, n, dtype):
    cells = data.draw(st.lists(NUMBERS, min_size=2 * n * n, max_size=2 * n * n))
    with np.errstate(over="ignore"):
        distances = np.array(cells).reshape(2, n, n).astype(dtype)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=2 * n, max_size=2 * n))).reshape(2, n)
    lengths = np.array(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)))
    np.testing.assert_array_equal(
        spanning_trees(distances, lengths, keep), reference.spanning_trees(distances, lengths, keep)
    )
    rows = np.repeat(lengths, n)
    sides = distances.reshape(-1, n), np.ascontiguousarray(distances[::-1]).reshape(-1, n)
    np.testing.assert_allclose(row_spearman(*sides, rows), reference.row_spearman(*sides, rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [255, 256, 257, 700])
@pytest.mark.parametrize("levels", [0, 9, 60_000])
def test_long_rows(n, levels):
    rng = np.random.default_rng(n)
    x, y = (rng.integers(0, levels, (3, n)) if levels else rng.standard_normal((3, n)) for _ in range(2))
    for dtype in (np.float32, np.float64):
        sides = x.astype(dtype), (x + 2 * y).astype(dtype)
        lengths = np.full(3, n)
        np.testing.assert_allclose(row_spearman(*sides, lengths), reference.row_spearman(*sides, lengths), atol=1e-12)


# -------------------------------------------------------------------------------------------------- masks, refusals


def test_masks_of_both_conventions():
    xpos = ["``", "UH", "HYPH", "-LRB-", "NN", "-RRB-", ":", ",", "NFP", ".", "''"]
    assert keep_masks([xpos])[0].tolist() == [tag in ("UH", "HYPH", "NN", "NFP") for tag in xpos]
    upos = keep_masks([["PUNCT", "NOUN"], ["SYM"]], "today", width=3)
    assert upos.tolist() == [[False, True, False], [True, False, False]]
    with pytest.raises(DataError, match="sentence 1 has 3 tags and the width is 2; widen it to 3"):
        keep_masks([["A"], ["A", "B", "C"]], width=2)
    with pytest.raises(OptionError, match="unknown preset 'papers'; expected one of paper, today"):
        keep_masks([], "papers")


GOOD = square(5, range(1, 11))[None]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"predicted": GOOD[0]}, ArrayError, r"predicted has shape \(5, 5\); expected \(any, any, any\)"),
        ({"predicted": GOOD[:, :4]}, ArrayError, r"shape \(1, 4, 5\); expected a square of distances"),
        ({"predicted": np.zeros((1, 0, 0))}, ArrayError, "expected at least one word"),
        ({"predicted": GOOD.astype(str)}, ArrayError, "predicted has type <U"),
        ({"gold": GOOD[:, :4, :4]}, ArrayError, r"gold has shape \(1, 4, 4\); expected \(1, 5, 5\)"),
        ({"lengths": [5, 5]}, ArrayError, r"lengths has shape \(2,\).*expected whole numbers, \(1,\)"),
        ({"lengths": [5.0]}, ArrayError, "lengths has.*type float64; expected whole numbers"),
        ({"lengths": [6]}, ArrayError, "sentence 0 has length 6; expected 1 to 5"),
        ({"lengths": [0]}, ArrayError, "sentence 0 has length 0; expected 1 to 5"),
        ({"keep": np.ones((1, 5))}, ArrayError, r"keep has.*type float64; expected bool, \(1, 5\)"),
        ({"predicted": np.where(GOOD == 6, np.nan, GOOD)}, ArrayError, r"predicted is nan in sentence 0 at word 1, 3"),
        ({"gold": np.where(GOOD == 6, np.nan, GOOD)}, ArrayError, r"gold is nan in sentence 0 at word 1, 3"),
        ({"preset": "now"}, OptionError, "unknown preset 'now'"),
        ({"preset": "today"}, OptionError, "'today' counts the edges of the treebank; give gold_heads"),
        ({"gold_heads": [[0, 1, 1, 1, 1]]}, OptionError, "'paper' takes its edges from the gold distances"),
        ({"preset": "today", "gold_heads": [[0, 1, 6, 1, 1]]}, ArrayError, "word 2 of sentence 0 has head 6; expected"),
        ({"preset": "today", "gold_heads": [[0, 2, 1, 1, 1]]}, ArrayError, "word 1 of sentence 0 lead into a cycle"),
        ({"preset": "today", "gold_heads": [[0, 3, 4, 2, 3]]}, ArrayError, "word 1 of sentence 0 lead into a cycle"),
        ({"backend": "gpu"}, BackendError, "gpu"),
    ],
)  # fmt: skip
def test_bad_distances_are_refused(changes, error, message, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    given = {"predicted": GOOD, "gold": GOOD, "lengths": [5]} | changes
    with pytest.raises(error, match=message):
        evaluate_distances(**given)


def test_bad_depths_are_refused():
    depths = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    with pytest.raises(ArrayError, match="sentence 1 has no word of gold depth 0; a root has depth 0"):
        evaluate_depths(depths, depths + np.array([[0], [1]]), [3, 3])
    with pytest.raises(ArrayError, match="predicted is nan in sentence 0 at word 2"):
        evaluate_depths(np.where(depths == 2, np.nan, depths), depths, [3, 3])
    with pytest.raises(ArrayError, match=r"predicted has shape \(2, 3, 1\)"):
        evaluate_depths(depths[..., None], depths, [3, 3])


def test_what_does_not_exist_is_nan_with_a_warning():
    one = evaluate_distances(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), [1])
    assert (one.constant_rows, one.spearman_by_length) == (0, {})
    with pytest.warns(UndefinedWarning, match="no sentence has a gold edge"):
        assert np.isnan(one.uuas)
    with pytest.warns(UndefinedWarning, match="no sentence of 5 to 50 words"):
        assert np.isnan(one.spearman)
    with pytest.warns(UndefinedWarning, match="there is no sentence"):
        assert np.isnan(evaluate_depths(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, int)).root_accuracy)


def test_the_core_refuses_what_it_cannot_read():
    lengths, keep = np.array([5]), np.ones((1, 5), dtype=bool)
    for arguments, message in [
        ((GOOD[0], lengths, keep), "distances has 2 dimensions, wanted 3"),
        ((GOOD[:, :4], lengths, keep), r"distances has shape \(1, 4, 5\), wanted \(1, 4, 4\)"),
        ((GOOD, lengths[:0], keep), r"lengths has shape \(0,\), wanted \(1,\)"),
        ((GOOD, lengths.astype(np.int32), keep), "lengths has type int32, wanted int64"),
        ((GOOD, lengths, keep[:, :3]), r"keep has shape \(1, 3\), wanted \(1, 5\)"),
        ((GOOD, lengths, keep.astype(np.int8)), "keep has type int8, wanted bool"),
        ((GOOD.astype(int), lengths, keep), "distances has type int64, wanted float64 or float32"),
        ((GOOD[:, ::-1], lengths, keep), "distances is not contiguous in memory"),
        ((GOOD, lengths + 1, keep), "sentence 0 has length 6; expected 0 to 5"),
        ((np.where(GOOD == 6, np.nan, GOOD), lengths, keep), "sentence 0 has a distance that is nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            spanning_trees(*arguments)
    for arguments, message in [
        ((GOOD[0], GOOD[0, :4], lengths), r"gold has shape \(4, 5\), wanted \(5, 5\)"),
        ((GOOD[0], GOOD[0], lengths), r"lengths has shape \(1,\), wanted \(5,\)"),
        ((GOOD[0], GOOD[0], np.full(5, -1)), "row 0 has length -1; expected 0 to 5"),
    ]:
        with pytest.raises(ValueError, match=message):
            row_spearman(*arguments)
    with pytest.raises(ValueError, match="sentence 0 has a distance that is nan"):
        kernels.select("cpu", "reference").spanning_trees(np.where(GOOD == 6, np.nan, GOOD), lengths, keep)


# ------------------------------------------------------------------------------------------------- standard errors


def noisy_batch(rng, lengths, noise=2.0):
    """Return predicted distances near those of random trees, and these."""
    width = max(lengths)
    gold, predicted = np.zeros((2, len(lengths), width, width))
    for sentence, n in enumerate(lengths):
        gold[sentence, :n, :n] = tree_distances([0, *(int(rng.integers(1, word + 1)) for word in range(1, n))])
        predicted[sentence] = gold[sentence] + square(width, noise * rng.random(width * (width - 1) // 2))
    return predicted, gold


@pytest.mark.parametrize("seed", range(3))
def test_standard_errors_by_their_formulas_and_by_the_jackknife(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.choice([4, 6, 6, 7, 9, 9, 12], 60)
    lengths[:2] = 20, 25  # lengths with one sentence
    predicted, gold = noisy_batch(rng, lengths)
    found = evaluate_distances(predicted[:20], gold[:20], lengths[:20])
    found = found.merge(evaluate_distances(predicted[20:], gold[20:], lengths[20:]))
    alone = [evaluate_distances(predicted[[i]], gold[[i]], lengths[[i]]) for i in range(len(lengths))]
    correct, edges = (np.array([getattr(one, name) for one in alone]) for name in ("correct_edges", "gold_edges"))

    residuals = correct - found.uuas * edges
    assert found.uuas_stderr == pytest.approx(np.sqrt(60 / 59 * (residuals**2).sum()) / edges.sum(), rel=1e-12)
    left_out = (correct.sum() - correct) / (edges.sum() - edges)
    assert found.uuas_stderr == pytest.approx(np.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum()), rel=0.05)

    means = np.array([sum(one.spearman_by_length.values()) for one in alone])  # each word has a correlation here
    counted = {n: means[lengths == n] for n in set(lengths.tolist()) if n >= 5}
    within = sum(((of_length - of_length.mean()) ** 2).sum() for of_length in counted.values())
    of_one = within / sum(len(of_length) - 1 for of_length in counted.values())
    variances = [of_one if len(found) == 1 else found.var(ddof=1) / len(found) for found in counted.values()]
    assert found.spearman_stderr == pytest.approx(np.sqrt(sum(variances)) / len(counted), rel=1e-9)


def test_standard_errors_are_the_spread_among_samples_of_sentences():
    rng = np.random.default_rng(5)
    lengths = np.repeat([6, 8, 11], 14)
    samples = [evaluate_distances(*noisy_batch(rng, lengths), lengths) for _ in range(120)]
    for measure in ("uuas", "spearman"):
        values, errors = (np.array([getattr(one, name) for one in samples]) for name in (measure, f"{measure}_stderr"))
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.25)  # known to 7 %


def test_standard_errors_of_depths_and_of_few_sentences():
    lengths = np.full(12, 5)
    gold = np.tile([0, 1, 1, 2, 2], (12, 1))
    predicted = gold + np.random.default_rng(0).random(gold.shape) * 3
    found = evaluate_depths(predicted, gold, lengths)
    share = found.correct_roots / 12
    assert found.root_accuracy_stderr == pytest.approx(np.sqrt(share * (1 - share) / 11), rel=1e-12)
    assert found.spearman_stderr > 0
    few = evaluate_depths(predicted[:9], gold[:9], lengths[:9])
    assert np.isnan([few.root_accuracy_stderr, few.spearman_stderr]).all()
    distances = evaluate_distances(*noisy_batch(np.random.default_rng(1), [6] * 9), [6] * 9)
    assert np.isnan([distances.uuas_stderr, distances.spearman_stderr]).all()
