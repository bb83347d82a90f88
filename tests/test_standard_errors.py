"""Standard errors: the spread among samples of sentences, whatever their number and length, and never missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bertft import PairMoments, compare
from bertft.measures import MEASURES, evaluate
from bertft.statistics.standard_error import GroupRows

EXACT = [name for name in MEASURES if name.startswith(("rsa", "cka", "mean-cosine"))]
SIMULATED = ["rsa", "rsa-correlation", "rsa-dot", "rsa-sqeuclidean", "cka", "mean-cosine-base"]
LENGTHS = np.array([1, 2, 3, 5, 8, 13, 21, 34, 60])
MAPS = ("unit", "centred_unit", "raw")


def spoken(rng, sentences, width=32, offset=5.0, share=0.1):
    """Two spaces of sentences of 1 to 60 rows, most of them short, about a common direction: cosines near 0.97.

    `share` of the variance in each space belongs to the sentence.
    """
    sizes = rng.choice(LENGTHS, sentences, p=LENGTHS**-0.5 / (LENGTHS**-0.5).sum())
    groups = np.repeat(np.arange(sentences), sizes)

    def clustered(scale):
        of_sentence = rng.standard_normal((sentences, width), dtype=np.float32)[groups]
        of_row = rng.standard_normal((len(groups), width), dtype=np.float32)
        return scale * (np.float32(math.sqrt(share)) * of_sentence + np.float32(math.sqrt(1 - share)) * of_row)

    x = np.float32(offset) + clustered(np.linspace(1.6, 0.4, width, dtype=np.float32))
    return x, x + clustered(np.float32(0.7)), groups


def even(rng, sentences, width=12, rows=6):
    """Two spaces of sentences of equal length whose rows share half of their variance."""
    sentence = np.repeat(rng.standard_normal((sentences, width)), rows, axis=0)
    x = 1.0 + sentence + rng.standard_normal((sentences * rows, width)) * np.linspace(0.5, 2, width)
    y = x + 0.7 * np.repeat(rng.standard_normal((sentences, width)), rows, axis=0) + 0.7 * rng.standard_normal(x.shape)
    return x, y, np.repeat(np.arange(sentences), rows)


def simulated(draw, measures, values, errors, limit=4096):
    """(values, measures) values of as many samples, and the standard errors of the first of them."""
    rng, found, known = np.random.default_rng(0), [], []
    maps = dict.fromkeys(MEASURES[name].row_map for name in measures)
    for number in range(values):
        moments = PairMoments(maps, reservoir=limit if number < errors else 0).update(*draw(rng))
        found.append([MEASURES[name].value(moments) for name in measures])
        if number < errors:
            known.append([evaluate(name, moments).stderr for name in measures])
    return np.array(found), np.array(known)


@pytest.fixture(scope="module", params=[50, 200])
def samples(request):
    """Values and standard errors by measure, of many samples of so many sentences."""
    values, errors = (1000, 400) if request.param == 50 else (1200, 250)
    return simulated(lambda rng: spoken(rng, request.param), SIMULATED, values, errors)


@pytest.fixture(scope="module")
def truth():
    """What the measures are of very many sentences."""
    rng, large = np.random.default_rng(1), PairMoments(MAPS, reservoir=0)
    for _ in range(40):
        large.update(*spoken(rng, 2000)[:2])
    return [MEASURES[name].value(large) for name in SIMULATED]


def test_the_standard_error_is_the_spread_among_samples(samples):
    values, errors = samples
    ratios = errors.mean(axis=0) / values.std(axis=0, ddof=1)
    # The spread is known to 3 % from that many samples.
    assert dict(zip(SIMULATED, ratios, strict=True)) == {name: pytest.approx(1.0, abs=0.07) for name in SIMULATED}
    assert (errors.std(axis=0) / errors.mean(axis=0)).max() < (0.3 if len(values) == 1000 else 0.2)


@pytest.mark.parametrize("measure", ["rsa", "rsa-dot", "rsa-sqeuclidean", "mean-cosine-base"])
def test_the_95_percent_interval_covers_the_truth(samples, truth, measure):
    """Of measures whose value has little bias: pairs of one sentence are alike, and of few sentences they are many."""
    number = SIMULATED.index(measure)
    values, errors = (part[:, number] for part in samples)
    covered = np.abs(values[: len(errors)] - truth[number]) < 1.96 * errors
    assert 0.92 <= covered.mean() <= 0.97


@pytest.mark.parametrize("limit", [4096, 240])
def test_no_error_of_thirty_sentences_is_missing(limit):
    """All rows fit, or each sentence is thinned to 8."""
    _, errors = simulated(lambda rng: spoken(rng, 30, width=8), ["rsa"], 500, 500, limit)
    assert (errors > 0).all()


@pytest.mark.parametrize("measure", EXACT)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_it_is_the_jackknife_over_sentences_while_all_rows_fit(measure, offset):
    rng = np.random.default_rng(3)
    for sentences in (10, 25):
        x, y, groups = spoken(rng, sentences, width=9, offset=offset)
        y = y[:, :7]
        row = MEASURES[measure]

        def value(rows, row=row, x=x, y=y):
            return row.value(PairMoments(row.maps, products="float64").update(x[rows], y[rows]))

        left = np.array([value(groups != sentence) for sentence in range(sentences)])
        jackknife = math.sqrt((sentences - 1) / sentences * ((left - left.mean()) ** 2).sum())
        assert compare(x, y, [measure], groups=groups)[measure].stderr == pytest.approx(jackknife, rel=1e-3)


@pytest.mark.parametrize("measure", [name for name, row in MEASURES.items() if row.effects is not None])
def test_influences_are_what_leaving_out_changes_to_first_order(measure):
    x, y, groups = even(np.random.default_rng(2), 400)
    row = MEASURES[measure]
    moments = PairMoments(row.maps, reservoir=10**6, products="float64").update(x, y, groups)
    state = moments.moments(row.row_map)
    rows = GroupRows.of(state, moments.sample)
    influence, without = row.effects(state, rows)
    assert influence.mean() == pytest.approx(0.0, abs=0.02 * influence.std())
    if without is None:
        kept = (PairMoments(row.maps, products="float64").update(x[groups != g], y[groups != g]) for g in range(30))
        without = np.array([row.value(one) for one in kept])
    changes, predicted = row.of(state) - without, rows.totals(influence)[: len(without)] / state.n
    assert np.linalg.norm(changes - predicted) < 0.15 * np.linalg.norm(changes)


@pytest.mark.parametrize(("measure", "bound"), [("procrustes", 0.15), ("cca", 0.12), ("svcca", 0.12), ("pwcca", 0.3)])
def test_errors_without_a_closed_form_are_nearly_the_spread(measure, bound):
    values, errors = simulated(lambda rng: even(rng, 60, width=6), [measure], 300, 60)
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=bound)


@pytest.mark.parametrize("measure", ["cca", "procrustes"])
def test_blocks_of_unequal_size_do_not_add_to_the_error(measure):
    """Of spaces that hardly differ the error is small, however long the sentences of a block are."""
    rng = np.random.default_rng(4)
    x, _, groups = spoken(rng, 60, width=6)
    y = x + 1e-3 * rng.standard_normal(x.shape)
    assert compare(x, y, [measure], groups=groups)[measure].stderr < 1e-5


@pytest.mark.parametrize(("share", "bound"), [(0.02, 0.15), (0.5, 0.07)])
@pytest.mark.parametrize("measure", ["rsa", "cka"])
def test_thinned_sentences_give_the_same_error_on_average(measure, share, bound):
    """8 or so rows of each sentence of up to 60. Rows that hardly depend on each other make it a little too large."""
    rng, ratios = np.random.default_rng(6), []
    row = MEASURES[measure]
    for _ in range(20):
        x, y, groups = spoken(rng, 120, share=share)
        whole, thinned = (
            evaluate(measure, PairMoments(row.maps, reservoir=limit).update(x, y, groups)).stderr
            for limit in (10**6, 900)
        )
        ratios.append(thinned / whole)
    assert np.mean(ratios) == pytest.approx(1.0, abs=bound)
    assert np.std(ratios) < 0.25


def test_thinned_sentences_whose_rows_oppose_each_other_have_an_error():
    """The rows of a sentence come in pairs of opposite influence: the spread of 8 of them says less than nothing."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        x = rng.standard_normal((40, 30, 4))
        noise = rng.standard_normal((40, 15, 4))
        y = x + np.concatenate([3.0 * noise, 0.01 * noise], axis=1)
        moments = PairMoments(("unit",), reservoir=320)
        moments.update(x.reshape(-1, 4), y.reshape(-1, 4), np.repeat(np.arange(40), 30))
        assert len(moments.sample.groups) == 320
        assert evaluate("rsa", moments).stderr > 0


@pytest.mark.parametrize("rows", [4, 60])
def test_the_default_sample_tells_the_error_to_a_tenth(rows):
    """Of 600 sentences, short ones or long ones, in samples of 4,096 rows."""
    draws = (even(np.random.default_rng(seed), 600, rows=rows) for seed in range(12))
    errors = [evaluate("rsa", PairMoments().update(*draw)).stderr for draw in draws]
    assert np.std(errors) / np.mean(errors) < 0.1


def test_rows_taken_for_independent_would_claim_too_much():
    """The same rows without their sentences: the interval is too narrow, which is why groups exist."""
    x, y, groups = even(np.random.default_rng(1), 200)
    with_groups = compare(x, y, ["rsa"], groups=groups)["rsa"].stderr
    assert compare(x, y, ["rsa"])["rsa"].stderr < 0.8 * with_groups


@pytest.mark.parametrize("measure", MEASURES)
def test_of_fewer_than_ten_sentences_the_error_is_unknown(measure):
    x, y, groups = even(np.random.default_rng(4), 10, width=4)
    known = groups < 9
    assert math.isnan(compare(x[known], y[known], [measure], groups=groups[known])[measure].stderr)
    assert compare(x, y, [measure], groups=groups)[measure].stderr > 0
