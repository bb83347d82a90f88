"""Standard errors: tested against the delete-one-group jackknife and against the true spread over many samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bertft import PairMoments, compare
from bertft.measures import MEASURES, evaluate

GROUPS, ROWS, WIDTH = 200, 6, 12
JACKKNIFED = [name for name, row in MEASURES.items() if row.effects is not None and name != "procrustes"]
"""The measures whose value without each group has a closed form."""
OF_PAIRS = ("rsa", "rsa-dot", "rsa-sqeuclidean", "cka", "mean-cosine-base")


def clustered(rng, groups, lengths=None):
    """Return two spaces, whose rows share half of their variance with those of their sentence, and the sentences."""
    lengths = np.full(groups, ROWS) if lengths is None else lengths
    number = np.repeat(np.arange(groups), lengths)
    n = len(number)
    x = (
        1.0
        + rng.standard_normal((groups, WIDTH))[number]
        + rng.standard_normal((n, WIDTH)) * np.linspace(0.5, 2, WIDTH)
    )
    y = x + 0.7 * rng.standard_normal((groups, WIDTH))[number] + 0.7 * rng.standard_normal((n, WIDTH))
    return x, y, number


def large_sample(rng):
    """Return the moments of 100,000 sentences, whose measures stand for the truth."""
    large = PairMoments(("unit", "centred_unit", "raw"), reservoir=0)
    for _ in range(100):
        large.update(*clustered(rng, 1000)[:2])
    return large


@pytest.fixture(scope="module")
def simulated():
    """For each measure the truth, and 400 estimates from samples of 200 sentences."""
    measures = list(MEASURES)
    rng = np.random.default_rng(0)
    large = large_sample(rng)
    found = [compare(x, y, measures, groups=groups) for x, y, groups in (clustered(rng, GROUPS) for _ in range(400))]
    return {name: (MEASURES[name].value(large), np.array([estimate[name] for estimate in found])) for name in measures}


@pytest.fixture(scope="module")
def few():
    """For each measure of pairs the truth, and 600 estimates from samples of 50 sentences."""
    rng = np.random.default_rng(7)
    large = large_sample(rng)
    found = [compare(x, y, OF_PAIRS, groups=groups) for x, y, groups in (clustered(rng, 50) for _ in range(600))]
    return {name: (MEASURES[name].value(large), np.array([estimate[name] for estimate in found])) for name in OF_PAIRS}


@pytest.mark.parametrize("measure", JACKKNIFED)
@pytest.mark.parametrize("offset", [0.0, 30.0], ids=["spread", "crowded"])
def test_it_is_the_jackknife_over_groups_while_all_rows_are_sampled(measure, offset):
    """The reference computes the measure anew without each group. Groups of one row and of many are among them."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 20, size=25)
    x, y, groups = clustered(rng, len(lengths), lengths)
    x, y = x + offset, y + offset
    without = np.array([compare(x[groups != g], y[groups != g], [measure])[measure].value for g in range(len(lengths))])
    jackknife = math.sqrt((len(lengths) - 1) / len(lengths) * np.square(without - without.mean()).sum())
    found = compare(x, y, [measure], groups=groups)[measure].stderr
    # Products of the sampled rows run in float32.
    assert found == pytest.approx(jackknife, rel=1e-3)


@pytest.mark.parametrize("measure", OF_PAIRS)
def test_the_95_percent_interval_covers_the_truth(simulated, measure):
    truth, estimates = simulated[measure]
    value, stderr = estimates.T
    covered = np.abs(value - truth) < 1.96 * stderr
    # 400 draws find a coverage of 95 % to within 2.2 points; the promise is 92 to 97.
    assert 0.92 <= covered.mean() <= 0.97


@pytest.mark.parametrize("measure", OF_PAIRS)
def test_at_50_sentences_the_error_is_within_7_percent_of_the_spread(few, measure):
    truth, estimates = few[measure]
    value, stderr = estimates.T
    # The promise is 7 %. 600 draws know their own spread to 3 %: two of these are added.
    assert stderr.mean() == pytest.approx(value.std(), rel=0.13)
    assert 0.92 <= (np.abs(value - truth) < 1.96 * stderr).mean() <= 0.97


@pytest.mark.parametrize("measure", OF_PAIRS)
def test_at_200_sentences_the_error_is_known_to_10_percent(simulated, measure):
    stderr = simulated[measure][1][:, 1]
    assert stderr.std() / stderr.mean() < 0.10


@pytest.mark.parametrize("measure", MEASURES)
def test_the_standard_error_is_the_spread_among_samples(simulated, measure):
    """All measures, including those that are biased at this size (CCA and its kin, Procrustes)."""
    _, estimates = simulated[measure]
    value, stderr = estimates.T
    assert stderr.mean() == pytest.approx(value.std(), rel=0.1 if measure in OF_PAIRS else 0.35)


@pytest.mark.parametrize(("limit", "draws"), [(4096, 1000), (200, 200)], ids=["whole", "thinned"])
def test_30_sentences_always_have_a_standard_error(limit, draws):
    rng = np.random.default_rng(8)
    for _ in range(draws):
        lengths = np.minimum(rng.geometric(1 / 12, size=30), 60)
        x, y, groups = clustered(rng, 30, lengths)
        stderr = evaluate("rsa", PairMoments(reservoir=limit).update(x, y, groups)).stderr
        assert stderr > 0


@pytest.mark.parametrize("measure", ["rsa", "cka"])
def test_long_sentences_are_thinned_before_any_is_left_out(measure):
    """300 sentences of 60 rows: 4,096 whole rows would be 68 sentences; 13 rows of each are all 300."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(40):
        x, y, groups = clustered(rng, 300, np.full(300, 60))
        moments = PairMoments(MEASURES[measure].maps).update(x, y, groups)
        assert np.bincount(moments.sample.groups).tolist() == [13] * 300
        found.append(evaluate(measure, moments))
    value, stderr = np.array(found).T
    assert stderr.mean() == pytest.approx(value.std(), rel=0.3)  # 40 draws know their spread to 11 %


def test_only_the_longest_are_thinned_and_their_weights_add_up():
    rng = np.random.default_rng(9)
    lengths = np.array([5] * 20 + [40, 80])
    x, y, groups = clustered(rng, len(lengths), lengths)
    sample = PairMoments(reservoir=160).update(x, y, groups).sample
    assert np.bincount(sample.groups).tolist() == [5] * 20 + [30, 30]
    np.testing.assert_allclose(np.bincount(sample.groups, weights=sample.weights), lengths)


def test_rows_taken_for_independent_would_claim_too_much(simulated):
    """The same rows without their sentences: the interval is too narrow, which is why groups exist."""
    rng = np.random.default_rng(1)
    x, y, groups = clustered(rng, GROUPS)
    with_groups = compare(x, y, ["rsa"], groups=groups)["rsa"].stderr
    without = compare(x, y, ["rsa"])["rsa"].stderr
    assert without < 0.8 * with_groups


def test_a_bounded_sample_gives_nearly_the_same_error():
    x, y, groups = clustered(np.random.default_rng(3), 2000)
    errors = []
    for limit in (10**6, 1500):
        moments = PairMoments(reservoir=limit).update(x, y, groups)
        errors.append(evaluate("rsa", moments).stderr)
        assert len(moments.sample.groups) <= limit
    assert errors[1] == pytest.approx(errors[0], rel=0.2)


def test_without_rows_or_with_few_groups_the_error_is_unknown():
    x, y, groups = clustered(np.random.default_rng(4), 9)
    assert math.isnan(compare(x, y, ["rsa"], groups=groups)["rsa"].stderr)
    assert math.isnan(compare(x, y, ["svcca"], groups=groups)["svcca"].stderr)
