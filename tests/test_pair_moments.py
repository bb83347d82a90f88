"""The laws of the accumulator: any split, any tree of merges, the empty state, no shared memory, round trips."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertft import PairMoments
from bertft.errors import ArrayError, OptionError
from bertft.similarity.pair_moments import update_together
from bertft.statistics.reservoir import LEAST_ROWS

MAPS = ("unit", "centred_unit", "raw")


def spaces(n, seed=0, offset=0.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 7)) + offset
    return x.astype(dtype), (x[:, :5] + rng.standard_normal((n, 5))).astype(dtype)


def numbers(moments):
    return [
        moments.rsa("cosine"), moments.rsa("correlation"), moments.rsa("dot"), moments.rsa("sqeuclidean"),
        moments.rsa("cosine", "cosine"), moments.cka(), moments.cka(debiased=False), moments.cca(), moments.svcca(),
        moments.pwcca(), moments.procrustes(),
    ]  # fmt: skip


def same_state(left, right):
    """Whether two accumulators hold the same bits."""
    ours, theirs = left.state(), right.state()
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def accumulated(x, y, cuts, groups=None):
    moments = PairMoments(MAPS)
    for rows in np.split(np.arange(len(x)), cuts):
        moments.update(x[rows], y[rows], None if groups is None else groups[rows])
    return moments


@given(data=st.data(), offset=st.sampled_from([0.0, 10.0, 1e4]))
def test_any_split_and_any_merge_tree_is_one_pass(data, offset):
    n = 60
    x, y = spaces(n, offset=offset)
    whole = numbers(PairMoments(MAPS).update(x, y))
    shards = np.split(np.arange(n), sorted(data.draw(st.lists(st.integers(0, n), max_size=6))))
    states = [
        accumulated(x[rows], y[rows], sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3))))
        for rows in shards
    ]
    while len(states) > 1:
        left = states.pop(data.draw(st.integers(0, len(states) - 1)))
        right = states.pop(data.draw(st.integers(0, len(states) - 1)))
        states.append(left.merge(right))
    np.testing.assert_allclose(numbers(states[0]), whole, rtol=0, atol=1e-11 if offset < 100 else 1e-6)


def test_order_does_not_matter():
    x, y = spaces(300)
    order = np.random.default_rng(1).permutation(300)
    forward, backward = accumulated(x, y, [100]), accumulated(x[order], y[order], [17, 40])
    np.testing.assert_allclose(numbers(forward), numbers(backward), rtol=0, atol=1e-12)


def test_an_empty_state_is_the_identity_of_merge():
    x, y = spaces(50)
    moments = PairMoments(MAPS).update(x, y)
    for merged in (PairMoments(MAPS).merge(moments), moments.merge(PairMoments(MAPS)), moments.update(x[:0], y[:0])):
        assert same_state(merged, moments)
        assert merged.n == 50
    assert PairMoments(MAPS).merge(PairMoments(MAPS)).n == 0


def test_inputs_and_merged_states_are_never_changed_or_kept():
    x, y = spaces(80)
    before = x.copy(), y.copy()
    left, right = PairMoments(MAPS).update(x[:40], y[:40]), PairMoments(MAPS).update(x[40:], y[40:])
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])
    expected = left.state()
    merged = left.merge(right)
    value = merged.state()
    x[:], y[:] = 0.0, 0.0
    left.update(*spaces(30, seed=5))
    right.update(*spaces(30, seed=6))
    assert same_state(merged, PairMoments.from_state(value))
    again = PairMoments(MAPS).update(before[0][:40], before[1][:40])
    np.testing.assert_allclose(numbers(again), numbers(PairMoments.from_state(expected)), rtol=0, atol=1e-12)


def test_far_batches_keep_their_digits():
    """A few rows are far from the rest, which are in a cone ten thousand times narrower than its distance."""
    rng = np.random.default_rng(2)
    first = rng.standard_normal((8, 64)).astype(np.float32)
    direction = rng.standard_normal(64) * 10
    cone = (direction + 1e-3 * rng.standard_normal((4000, 64))).astype(np.float32)
    noisy = (cone + 1e-3 * rng.standard_normal((4000, 64))).astype(np.float32)
    streamed = PairMoments(reservoir=0).update(first, first).update(cone, noisy)
    exact = PairMoments(reservoir=0, products="float64")
    exact.update(np.concatenate([first, cone]), np.concatenate([first, noisy]))
    assert streamed.rsa() == pytest.approx(exact.rsa(), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_rows_of_every_type(dtype):
    x, y = (torch.from_numpy(rows).to(dtype) for rows in spaces(200, dtype=np.float32))
    x.requires_grad_(True)
    found = PairMoments(MAPS).update(x, y)
    expected = PairMoments(MAPS).update(x.detach().double().numpy(), y.double().numpy())
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=0, atol=2e-6)


def test_state_round_trips_through_safetensors(tmp_path):
    x, y = spaces(120)
    groups = np.arange(120) // 4
    moments = accumulated(x, y, [50], groups)
    safetensors.numpy.save_file(moments.state(), tmp_path / "state.safetensors")
    loaded = PairMoments.from_state(safetensors.numpy.load_file(tmp_path / "state.safetensors"))
    assert same_state(loaded, moments)
    more = spaces(30, seed=9)
    np.testing.assert_allclose(numbers(loaded.update(*more)), numbers(moments.update(*more)), rtol=0, atol=1e-12)
    empty = PairMoments.from_state(PairMoments(MAPS).state())
    assert empty.n == 0
    expected = numbers(PairMoments(MAPS).update(x, y))
    np.testing.assert_allclose(numbers(empty.update(x, y)), expected, rtol=0, atol=1e-12)
    with pytest.raises(ArrayError, match=r"no PairMoments state.*pass what state\(\) returned"):
        PairMoments.from_state({"a": x})


def test_bad_updates_name_the_row_and_leave_the_state_alone():
    x, y = spaces(40)
    moments = PairMoments(MAPS).update(x, y)
    before = PairMoments.from_state(moments.state())
    bad = x.copy()
    bad[7] = 0.0
    with pytest.raises(ArrayError, match="row 47 of x is all zeros, so it has no cosine"):
        moments.update(bad, y)
    bad[7] = np.nan
    with pytest.raises(ArrayError, match="row 47 of y is not finite"):
        moments.update(x, bad[:, :5])
    with pytest.raises(ArrayError, match="widths 5 and 7, the rows before had 7 and 5"):
        moments.update(y, x)
    with pytest.raises(ArrayError, match=r"groups has shape \(3,\)"):
        moments.update(x, y, groups=np.arange(3))
    with pytest.raises(ArrayError, match="x has 40 rows and y has 39"):
        moments.update(x, y[1:])
    assert same_state(moments, before)
    assert moments.n == 40


def several_spaces(n, offset, dtype):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((n, 7)) + offset
    ys = [x[:, :width] + rng.standard_normal((n, width)) for width in (5, 7, 3)]
    return x.astype(dtype), [y.astype(dtype) for y in ys]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_states_updated_together_equal_those_updated_apart(dtype, tolerance, offset):
    x, ys = several_spaces(90, offset, dtype)
    # States that have seen other rows before, so that their centers differ, one of other maps and products.
    before = [(x[:20] + 3.0 * k, ys[k][:20] - 2.0 * k) for k in range(2)]
    options = [{"maps": MAPS}, {"maps": MAPS}, {"maps": ("raw",), "products": "float64"}]
    apart, together = ([PairMoments(**some) for some in options] for _ in range(2))
    for states in (apart, together):
        for state, rows in zip(states, before, strict=False):
            state.update(*rows)
    groups = np.arange(90) // 4
    for rows in np.split(np.arange(90), [1, 30, 33]):
        for state, y in zip(apart, ys, strict=True):
            state.update(x[rows], y[rows], groups[rows])
        update_together(together, x[rows], [y[rows] for y in ys], groups[rows])
    for one, other in zip(apart, together, strict=True):
        assert one.n == other.n
        assert np.array_equal(one.sample.groups, other.sample.groups)
        assert np.array_equal(one.sample.y, other.sample.y)
        for row_map in one.maps:
            left, right = one.moments(row_map), other.moments(row_map)
            right = right.about(left.x_center, left.y_center)
            for name, part, same in zip(left.sums._fields, left.sums, right.sums, strict=True):
                np.testing.assert_allclose(same, part, rtol=0, atol=tolerance * np.abs(part).max(), err_msg=name)


def test_states_updated_together_share_no_memory():
    x, ys = several_spaces(60, 0.0, np.float64)
    together = [PairMoments(MAPS) for _ in ys]
    update_together(together, x[:40], [y[:40] for y in ys])
    values = [numbers(state) for state in together[1:]]
    together[0].update(x[40:], ys[0][40:])
    assert [numbers(state) for state in together[1:]] == values


def test_a_bad_row_leaves_all_states_alone():
    x, ys = several_spaces(40, 0.0, np.float64)
    together = [PairMoments(MAPS) for _ in ys]
    update_together(together, x, ys)
    values = [numbers(state) for state in together]
    ys[2] = ys[2].copy()
    ys[2][7] = np.nan
    with pytest.raises(ArrayError, match="row 47 of y is not finite"):
        update_together(together, x, ys)
    with pytest.raises(ArrayError, match="widths 7 and 7, the rows before had 7 and 3"):
        update_together(together, x, [ys[0], ys[1], ys[1]])
    with pytest.raises(OptionError, match="different backends"):
        update_together([together[0], PairMoments(backend="reference")], x, ys[:2])
    assert [numbers(state) for state in together] == values


def test_states_that_cannot_be_added_say_so():
    x, y = spaces(10)
    with pytest.raises(OptionError, match="cannot merge states of different options"):
        PairMoments(("unit",)).merge(PairMoments(("raw",)))
    with pytest.raises(ArrayError, match="widths 5 and 7"):
        PairMoments().update(x, y).merge(PairMoments().update(y, x))
    with pytest.raises(OptionError, match="unknown row map 'cosine'; expected one of unit, centred_unit, raw"):
        PairMoments(("cosine",))
    with pytest.raises(OptionError, match=r"needs the row map 'raw'; create PairMoments\(maps=\('raw', …\)\)"):
        PairMoments().update(x, y).cka()
    with pytest.raises(ArrayError, match="2 rows were seen; at least 3"):
        PairMoments().update(x[:2], y[:2]).rsa()
    with pytest.raises(OptionError, match=r"not 'rbf'; for others use bertft\.rsa"):
        PairMoments().update(x, y).rsa("rbf")


def kept_rows(moments):
    """What a sample holds, whatever the order: group, values and weight of each row."""
    sample = moments.sample
    return sorted(map(tuple, np.column_stack([sample.groups, sample.x, sample.y, sample.weights]).tolist()))


@given(data=st.data(), limit=st.sampled_from([60, 150, 300]))
def test_which_rows_are_kept_depends_only_on_which_were_seen(data, limit):
    """Thinned or dropped, in any order, split and merged in any way, saved and loaded on the way."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    groups = np.repeat(np.arange(15), rng.integers(1, 60, 15))
    x, y = spaces(len(groups), seed=5, dtype=np.float32)

    def sampled(order):
        states = []
        for shard in np.split(order, sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=3)))):
            state = PairMoments(reservoir=limit)
            for rows in np.array_split(shard, data.draw(st.integers(1, 6))):
                state.update(x[rows], y[rows], groups[rows])
            states.append(PairMoments.from_state(state.state()) if data.draw(st.booleans()) else state)
        while len(states) > 1:
            left = states.pop(data.draw(st.integers(0, len(states) - 1)))
            states.append(states.pop(data.draw(st.integers(0, len(states) - 1))).merge(left))
        return states[0]

    whole = PairMoments(reservoir=limit).update(x, y, groups)
    assert kept_rows(sampled(rng.permutation(len(groups)))) == kept_rows(whole)


@pytest.mark.parametrize("limit", [100, 200, 400, 10_000])
def test_long_groups_are_thinned_before_groups_are_dropped(limit):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, 20)
    groups = np.repeat(np.arange(20), sizes)
    x, y = spaces(len(groups))
    sample = PairMoments(reservoir=limit).update(x, y, groups).sample
    kept = np.bincount(sample.groups, minlength=20)
    most = max(kept)
    assert len(sample.groups) <= limit
    assert np.array_equal(kept[kept > 0], np.minimum(sizes, most)[kept > 0])
    assert np.allclose(np.bincount(sample.groups, weights=sample.weights, minlength=20)[kept > 0], sizes[kept > 0])
    if limit >= len(groups):
        assert most == max(sizes)
    elif limit >= np.minimum(sizes, LEAST_ROWS).sum():
        assert (kept > 0).all()
        assert np.minimum(sizes, most + 1).sum() > limit  # no thinner than the limit forces
    else:
        assert most <= LEAST_ROWS
        assert limit - len(sample.groups) < LEAST_ROWS


def test_rows_of_two_types_are_sampled_alike():
    """A row has one priority, before rows of a wider type join its sample and after."""
    x, y = spaces(400, dtype=np.float32)
    groups = np.arange(400) // 40
    narrow = PairMoments(reservoir=100).update(x, y, groups)
    mixed = PairMoments(reservoir=100).update(x[:200], y[:200], groups[:200])
    mixed.update(x[200:].astype(np.float64), y[200:].astype(np.float64), groups[200:])
    assert kept_rows(mixed) == kept_rows(narrow)


@pytest.mark.parametrize("length", [1, 30, 1000, 10_000])
@pytest.mark.parametrize("chunk", [1, 5, 150, 700])
def test_one_row_much_longer_than_the_rest(length, chunk):
    """Pairs of a row with itself are subtracted exactly; float32's rounding of them must not remain."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 32))
    y = x + rng.standard_normal(x.shape)
    x[0] *= length  # comes first, so that the first center is a poor one
    y[0] *= length
    x, y = x.astype(np.float32), y.astype(np.float32)
    exact = PairMoments(("raw",), products="float64").update(x, y)
    streamed = PairMoments(("raw",))
    for low in range(0, 700, chunk):
        streamed.update(x[low : low + chunk], y[low : low + chunk])
    assert streamed.cka() == pytest.approx(exact.cka(), abs=3e-6)
    assert streamed.rsa("dot") == pytest.approx(exact.rsa("dot"), abs=3e-6)
    assert streamed.cka() == pytest.approx(debiased_cka(x, y), abs=3e-6)


def debiased_cka(x, y):
    """Song et al. 2012, equation 5, with n x n matrices in extended precision."""
    x, y, n = x.astype(np.longdouble), y.astype(np.longdouble), len(x)

    def hsic(k, m):
        total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
        return total / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_rows_without_groups_stay_apart_when_states_are_merged():
    x, y = spaces(90)
    left, right = PairMoments().update(x[:40], y[:40]), PairMoments().update(x[40:], y[40:])
    assert len(np.unique(left.merge(right).sample.groups)) == 90


def test_states_of_other_samples_are_not_mixed():
    x, y = spaces(40)
    for options in ({"seed": 1}, {"reservoir": 10}):
        with pytest.raises(OptionError, match="cannot merge states of different options"):
            PairMoments().update(x, y).merge(PairMoments(**options).update(x, y))
    either = PairMoments(("raw", "unit")).update(x, y).merge(PairMoments(("unit", "raw")).update(x, y))
    assert either.n == 80


def test_a_changed_state_is_refused():
    x, y = spaces(40)
    state = PairMoments().update(x, y).state()
    changes = {
        "unit.xx": (state["unit.xx"][:3], "unit.xx should be finite float64 of shape"),
        "unit.scalars": (state["unit.scalars"] * 2, "the sums are of 80 rows, not 40"),
        "sample.x": (state["sample.x"][:5], "the arrays of the sample have different lengths"),
        "options": (np.frombuffer(b"[1]", dtype=np.uint8), "no PairMoments state"),
        "unit.yy": (np.full_like(state["unit.yy"], np.nan), "unit.yy should be finite"),
    }
    for name, (array, message) in changes.items():
        with pytest.raises(ArrayError, match=message):
            PairMoments.from_state(state | {name: array})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": ()}, "no row map was named"),
        ({"reservoir": -5}, "reservoir is -5; expected a number of rows"),
        ({"reservoir": 2.5}, r"reservoir is 2\.5"),
        ({"backend": "zz"}, "unknown backend 'zz'"),
        ({"products": "half"}, "unknown products 'half'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        PairMoments(**options)
