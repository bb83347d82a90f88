"""States of an accumulator that are damaged or are none: `ArrayError`, or the same number."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bertft import PairMoments
from bertft.errors import ArrayError
from bertft.similarity import states

MUTATIONS = 400


def state_of(seed=0, maps=("unit", "raw"), outlier=1.0, scale=1.0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    x[4] *= outlier
    return PairMoments(maps, reservoir=16).update(x * scale, y, np.arange(30) // 3).state()


def numbers(moments):
    return [moments.rsa(), moments.cka(), moments.rsa("sqeuclidean"), moments.procrustes()]


@pytest.mark.parametrize("changes", [{}, {"outlier": 1e6}, {"scale": 1e300}, {"outlier": 1e6, "scale": 1e-300}])
def test_what_a_state_holds_comes_back(changes):
    state = state_of(**changes)
    assert ("raw.off_diagonal" in state) == ("outlier" in changes)
    loaded = PairMoments.from_state(state)
    assert all(np.array_equal(loaded.state()[name], array) for name, array in state.items())
    tensors = {name: torch.from_numpy(array) for name, array in state.items() if array.dtype != np.uint64}
    again = PairMoments.from_state(tensors | {"sample.bound": state["sample.bound"]})
    assert numbers(again) == numbers(loaded)
    # Rows without groups stay apart from those of other states, also after loading.
    x, y = np.random.default_rng(5).standard_normal((2, 10, 3))
    left, right = (PairMoments.from_state(PairMoments().update(x + k, y).state()).update(x, y) for k in (0, 1))
    assert len(np.unique(left.merge(right).sample.groups)) == 40


def no_states():
    """Yield things that are no state, each with the reason."""
    state = state_of()
    options = json.loads(state["options"].tobytes())

    def with_options(text):
        changed = {**state, "options": np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)}
        return changed | {"checksum": states._checksum(changed)}

    for thing in (None, 3, "state", [state], np.zeros(3)):
        yield thing, "no PairMoments state"
    yield {}, "'options' is missing"
    yield {"options": None}, "no PairMoments state"
    yield {3: np.zeros(2), **state}, "no PairMoments state"
    yield {**state, "more": np.zeros(2)}, "'more' is not one of them"
    yield {name: array for name, array in state.items() if name != "raw.xy"}, "'raw.xy' is missing"
    yield {name: array for name, array in state.items() if name != "checksum"}, "'checksum' is missing"
    for text, message in (
        ("[" * 100_000, "nested too deeply"), ("1" * 5000, "too many digits"), (b"\xff\xfe", "not UTF-8|not JSON"),
        ("", "not JSON"), ("[1]", "no JSON object"), ("{}", "of format None"),
        (json.dumps(options | {"format": "bertft.PairMoments/2"}), "of format 'bertft.PairMoments/2'.*the rows again"),
        (json.dumps(options | {"format": "\x1b[31m" * 50}), "of format"),
    ):  # fmt: skip
        yield with_options(text), message
    for name, values in {
        "n": (-1, 2.5, "30", None, True, 10**30, 31), "maps": ("unit", [], ["unit", "unit"], ["x"], [[1]], {}, ["raw"]),
        "products": ("half", None, 3), "reservoir": (-1, 1.5, "x"), "seed": ("x", 0.5, 10**40, None),
        "first": (-1, 2**32, "x"), "more": (1,),
    }.items():  # fmt: skip
        for value in values:
            yield with_options(json.dumps(options | {name: value})), "state"
    for name, array in state.items():
        if name in ("options", "checksum"):
            continue
        for bad in (
            np.empty(0), np.array(0), array.astype(str), array[None], array.astype(complex), array[:0],
            np.array([None]), np.zeros((10**4, 0)),
        ):  # fmt: skip
            changed = {**state, name: bad}
            for checked in (changed, _with_checksum(changed)):
                yield checked, "state"
        if array.dtype == np.float64:
            for bad in (array * np.nan, array + np.inf, array.astype(np.float32), array.astype(">f8")):
                if name not in ("sample.x", "sample.y") or bad.dtype != np.float32:
                    yield _with_checksum({**state, name: bad}), "state"
    for name, bad in (
        ("sample.groups", state["sample.groups"].astype(np.int32)), ("sample.weights", -state["sample.weights"]),
        ("sample.weights", state["sample.weights"] * 1e9), ("sample.bound", np.zeros(2, np.uint64)),
        ("raw.exponents", np.array([5000, 0])), ("raw.exponents", np.array([-(2**63), 0])),
        ("raw.exponents", np.zeros(2)), ("raw.off_diagonal", np.zeros(3)), ("raw.scalars", np.zeros((5, 5))),
    ):  # fmt: skip
        yield _with_checksum({**state, name: bad}), "state"


def _with_checksum(flat):
    """Return a state with its checksum made again, as someone who changes it on purpose may do."""
    try:
        return {**flat, "checksum": states._checksum(flat)}
    except (AttributeError, TypeError, ValueError):
        return flat


def test_what_is_no_state_is_refused():
    tried = 0
    for thing, message in no_states():
        with pytest.raises(ArrayError, match=message) as raised:
            PairMoments.from_state(thing)
        assert str(raised.value).isprintable()
        tried += 1
    assert tried > 100


def test_every_changed_number_is_found():
    """A center that is halved, a moment or a row of the sample that is changed: nothing but a checksum can tell."""
    state = state_of(outlier=1e6)
    for name, array in state.items():
        for place in range(array.size):
            changed = array.copy()
            if array.dtype == np.uint8:
                changed.reshape(-1)[place] ^= 1
            else:
                changed.reshape(-1)[place] += max(abs(changed.reshape(-1)[place]) // 2, 1)
            if not np.array_equal(changed, array):
                with pytest.raises(ArrayError):
                    PairMoments.from_state({**state, name: changed})


def mutated(rng, state):
    """Return a state with one to three random changes."""
    flat = dict(state)
    for _ in range(rng.integers(1, 4)):
        name = rng.choice(sorted(flat))
        array = np.atleast_1d(np.asarray(flat[name]))
        kind = rng.integers(0, 9) if array.dtype.kind in "iuf" else 0  # what was made text before is taken away
        if kind == 0:
            del flat[name]
            if not flat:
                break
        elif kind == 1:
            flat[name] = flat[rng.choice(sorted(flat))]
        elif kind == 2:
            flat[name] = array[: rng.integers(0, len(array) + 1)]
        elif kind == 3:
            flat[name] = array.astype(rng.choice(["f2", "f4", "f8", "i1", "i8", "u8", "U8", "c16", ">f8", "?"]))
        elif kind == 4:
            flat[name] = rng.choice([0.0, np.nan, np.inf, -1.0, 1e308]) * np.ones(
                rng.integers(0, 4, rng.integers(0, 3))
            )
        elif kind == 5 and array.size:
            changed = array.copy()
            raw = changed.view(np.uint8).reshape(-1)
            raw[rng.integers(0, len(raw))] ^= np.uint8(1 << rng.integers(0, 8))
            flat[name] = changed
        elif kind == 6:
            flat[name] = array.T.copy() if rng.random() < 0.5 else array[None]
        elif kind == 7:
            flat[str(rng.choice(["more", "raw.xz", "sample.z", ""]))] = array
        else:
            flat[name] = rng.choice(np.array([None, "text", 3, 2.5, b"x", [1, 2]], dtype=object))
    return flat


def test_mutated_states_are_refused_or_give_the_same_numbers():
    """Random changes with a fixed seed, of states and of states with a checksum that was made again."""
    rng = np.random.default_rng(11)
    sources = [state_of(), state_of(maps=("raw",), outlier=1e6), PairMoments(("unit", "raw"), reservoir=0).state()]
    messages = []
    for number in range(MUTATIONS):
        state = sources[number % 3]
        with np.errstate(all="ignore"):
            flat = mutated(rng, state)
        forged = number % 4 == 3
        try:
            found = PairMoments.from_state(_with_checksum(flat) if forged else flat)
        except ArrayError as error:
            messages.append(str(error))
            continue
        if not forged:
            assert all(np.array_equal(found.state()[name], array) for name, array in state.items())
        x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
        found.update(x, y)  # whatever was taken can be used
    print(f"{MUTATIONS} states tried, {len(messages)} refused")
    assert len(messages) > MUTATIONS // 2
    assert all(message.isprintable() for message in messages)
