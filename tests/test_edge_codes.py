"""Description length of edge-probing tasks: units, means of spans, and codes by edge probes of planted labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from bertft.errors import OptionError
from bertft.probes.edge import Recipe, SubwordTask
from bertft.probes.mdl.edge_codes import CodedTask, EdgeFit, SpanMeans
from bertft.probes.mdl.online import online_codes, plan_online
from bertft.probes.mdl.perceptron import PerceptronFit, PerceptronRecipe

WIDTH = 12
RECIPE = Recipe(batch=10, projected=16, hidden=16, learning_rate=0.01, input_dropout=0, dropout=0, patience=4)


class InMemory:
    """Vectors of the subwords of sentences, [(layers, n, d)]."""

    layers = (0, 1)
    width = WIDTH
    dtype = np.dtype(np.float32)

    def __init__(self, sentences: list[NDArray]) -> None:
        self.sentences = sentences

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([sentence.shape[1] for sentence in self.sentences])

    def padded(self, sentences, layers=None, *, dtype: DTypeLike = "f4") -> NDArray:
        chosen = list(self.layers if layers is None else layers)
        longest = max(self.sentences[i].shape[1] for i in sentences)
        found = np.zeros((len(chosen), len(sentences), longest, self.width), dtype)
        for place, i in enumerate(sentences):
            found[:, place, : self.sentences[i].shape[1]] = self.sentences[i][chosen]
        return found


def planted(sentences: int, *, spans: int = 1, several: bool = False, seed: int = 0) -> tuple[CodedTask, InMemory]:
    """Return a task whose labels depend on layer 1 only: the largest of 3 coordinates of the mean over the last span.

    A fifth of the sentences are the development set. The first sentence is in both sets.
    """
    rng = np.random.default_rng(seed)
    states = InMemory([rng.standard_normal((2, int(rng.integers(3, 9)), WIDTH)) for _ in range(sentences)])
    sentence, first, second, gold = [], [], [], []
    for number, vectors in enumerate(states.sentences):
        n = vectors.shape[1]
        for _ in range(int(rng.integers(1, 4))):
            ends = [np.sort(rng.choice(n + 1, 2, replace=False)) for _ in range(2)]
            mean = vectors[1, ends[spans - 1][0] : ends[spans - 1][1], :3].mean(axis=0)
            sentence.append(number)
            first.append(ends[0])
            second.append(ends[1])
            gold.append(mean > 0 if several else np.arange(3) == mean.argmax())
    task = SubwordTask("t", ("a", "b", "c"), np.array(sentence), np.array(first),
                    np.array(second) if spans == 2 else None, np.array(gold))  # fmt: skip
    dev = np.arange(sentences - sentences // 5, sentences)
    train = np.arange(sentences - sentences // 5)
    return CodedTask(task.at(train), task.at(np.append(dev, 0))), states


@pytest.mark.parametrize("spans", [1, 2])
def test_means_are_those_of_each_span(spans: int) -> None:
    coded, states = planted(30, spans=spans)
    means = SpanMeans(coded, states, ("top", "lexical"))
    assert (means.inputs, means.width, means.n_labels) == (2, WIDTH * spans, 3)
    assert coded.dev_units is not None
    for units in (coded.train_units[[5, 2, 7]], coded.dev_units[:4]):
        own = coded.at(units)
        assert set(own.sentence) == set(coded.sentences[units])
        assert len(own) == coded.targets[units].sum()
        for inputs in ([0, 1], [1]):
            vectors, gold = means.batch(units, inputs)
            assert (gold.numpy() == own.gold).all()
            assert vectors.shape == (len(inputs), len(own), WIDTH * spans)
            for place, layer in enumerate([1, 0][i] for i in inputs):
                for target, sentence in enumerate(own.sentence):
                    wanted = [states.sentences[sentence][layer, a:b].mean(axis=0) for a, b in
                              (of_span[target] for of_span in own.spans)]  # fmt: skip
                    np.testing.assert_allclose(vectors[place, target], np.concatenate(wanted), rtol=1e-5, atol=1e-6)


def test_a_sentence_of_both_sets_is_a_unit_of_each() -> None:
    coded, _ = planted(20)
    assert coded.dev_units is not None
    assert coded.sentences[coded.train_units].tolist() == list(range(16))
    assert coded.sentences[coded.dev_units].tolist() == [0, 16, 17, 18, 19]
    assert coded.targets[0] == coded.targets[16]
    assert coded.targets.sum() == len(coded.train) + len(coded.dev or ())
    alone = replace(coded, dev=None)
    assert alone.dev_units is None
    assert len(alone.targets) == 16


def test_the_uniform_code_is_that_of_the_labels() -> None:
    one, _ = planted(20)
    any_number, _ = planted(20, several=True)
    assert (one.loss, one.uniform_bits_per_target) == ("softmax", math.log2(3))
    assert (any_number.loss, any_number.uniform_bits_per_target) == ("sigmoid", 3)


@pytest.mark.parametrize(("spans", "several"), [(1, False), (2, True)])
def test_edge_probes_code_what_their_layer_says(spans: int, several: bool) -> None:
    coded, states = planted(300, spans=spans, several=several)
    fit = EdgeFit(coded, states, ("layer:0", "layer:1", "mix"), RECIPE)
    portions = (25, 50, 100)
    nothing, top, mix = online_codes(
        coded.targets, coded.uniform_bits_per_target, fit, dev=coded.dev_units, portions=portions
    )
    assert top.n_targets == len(coded.train)
    assert nothing.compression < 1.05
    assert top.compression > 1.3 * nothing.compression
    assert mix.compression > 1.15 * nothing.compression
    assert top.bits_per_target[-1] < 0.7 * top.bits_per_target[0]


@pytest.mark.equality
def test_stages_trained_together_are_those_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding: 1e-7 of the nats after 15 float32 steps. Other batches or weights would change them by 1e-2."""
    monkeypatch.setattr("bertft.probes.mdl.edge_codes.VALIDATIONS", 3)
    coded, states = planted(60)
    fit = EdgeFit(coded, states, ("layer:1", "mix"), RECIPE)
    for dev in (coded.dev_units, None):
        sentences = coded.train_units
        plan = plan_online(coded.targets, sentences, dev=dev, portions=(10, 50, 100))
        together = fit(plan.stages, 3)
        (alone,) = fit(plan.stages[:1], 3)
        np.testing.assert_allclose(together[0], alone, rtol=1e-4)
        assert together.shape == (2, 2)


def test_perceptrons_code_means_of_spans() -> None:
    coded, states = planted(200)
    fit = PerceptronFit(SpanMeans(coded, states, ("layer:0", "layer:1")), PerceptronRecipe(hidden=32))
    nothing, top = online_codes(coded.targets, coded.uniform_bits_per_target, fit, dev=coded.dev_units)
    assert top.compression > 1.3 * nothing.compression


def test_a_perceptron_reads_one_layer() -> None:
    coded, states = planted(10)
    for name in ("mix", "cat"):
        with pytest.raises(OptionError, match=f"input '{name}' combines several layers in an edge probe"):
            SpanMeans(coded, states, ("layer:1", name))
    with pytest.raises(OptionError, match="needs layer 7"):
        SpanMeans(coded, states, ("layer:7",))
