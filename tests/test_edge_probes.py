"""Edge probes: against a textbook probe in float64, together against alone, and on planted labels."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from bertft.errors import ArrayError, DataError, OptionError
from bertft.probes.edge import (
    RECIPES,
    EdgeJob,
    Recipe,
    SubwordTask,
    predict_edges,
    recipe_of,
    target_nats,
    train_edge_probes,
)
from bertft.probes.edge import feed as edge_feed
from bertft.probes.edge import model as edge_model
from bertft.probes.edge.feed import Feed, Reader, cut
from bertft.probes.edge.model import Input, Shape
from bertft.probes.edge.targets import IndexedTask

WIDTH = 12
LAYERS = (0, 1, 2)
INPUTS = ("mix", "top", "layer:1", "lexical", "cat")
SMALL = Recipe(batch=5, projected=6, hidden=7, max_epochs=4, validations_per_epoch=1, learning_rate=0.01)


class InMemory:
    """Vectors of the subwords of sentences, [(layers, n, d)]."""

    layers = LAYERS
    width = WIDTH
    dtype = np.dtype(np.float64)

    def __init__(self, sentences: list[NDArray]) -> None:
        self.sentences = sentences
        self.read: list[int] = []

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([sentence.shape[1] for sentence in self.sentences])

    def padded(self, sentences, layers=None, *, dtype: DTypeLike = "f4") -> NDArray:
        chosen = list(self.layers if layers is None else layers)
        self.read += [int(i) for i in sentences]
        longest = max(self.sentences[i].shape[1] for i in sentences)
        found = np.zeros((len(chosen), len(sentences), longest, self.width), dtype)
        for place, i in enumerate(sentences):
            found[:, place, : self.sentences[i].shape[1]] = self.sentences[i][chosen]
        return found


def states_of(count: int, seed: int = 0, dtype: type = np.float64) -> InMemory:
    rng = np.random.default_rng(seed)
    states = InMemory([rng.standard_normal((3, int(rng.integers(1, 12)), WIDTH)).astype(dtype) for _ in range(count)])
    states.dtype = np.dtype(dtype)
    return states


def task_of(
    states: InMemory, sentences, *, spans: int = 2, labels: int = 4, seed: int = 0, name: str = "t"
) -> SubwordTask:
    """Return random targets, one to four a sentence, each with several random labels or none."""
    rng = np.random.default_rng([seed, 3])
    sentence = rng.permutation(np.repeat(sentences, rng.integers(1, 5, len(sentences))))
    ends = states.lengths[sentence]

    def drawn() -> NDArray[np.int64]:
        first = (rng.random(len(ends)) * ends).astype(np.int64)
        return np.stack([first, first + 1 + (rng.random(len(ends)) * (ends - first)).astype(np.int64)], axis=1)

    gold = rng.random((len(sentence), labels)) < 0.3
    return SubwordTask(name, tuple("abcdefgh"[:labels]), sentence, drawn(), drawn() if spans == 2 else None, gold)


def textbook(weights: dict[str, Tensor], source: str, sentence: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Return the logits of one target of a sentence (layers, n, d), by the published formula, span by span."""
    if source == "mix":
        shares = torch.softmax(weights["mix"], dim=0)
        x = weights["gamma"] * sum(share * layer for share, layer in zip(shares, sentence, strict=True))
    elif source == "cat":
        x = torch.cat([sentence[-1], sentence[0]], dim=1)
    else:
        x = sentence[{"top": 2, "lexical": 0, "layer:1": 1}[source]]
    vectors = []
    for number, (first, end) in enumerate(spans, 1):
        rows = [x[i] @ weights[f"project{number}"] + weights[f"project{number}_bias"] for i in range(first, end)]
        attention = torch.softmax(torch.stack([row @ weights[f"attend{number}"] + 0.7 for row in rows]), dim=0)
        vectors.append(sum(share * row for share, row in zip(attention, rows, strict=True)))
    hidden = torch.tanh(torch.cat(vectors) @ weights["hidden"] + weights["hidden_bias"])
    norm = torch.nn.LayerNorm(len(hidden)).double()
    norm.weight.data, norm.bias.data = torch.ones(len(hidden)).double(), torch.zeros(len(hidden)).double()
    hidden = norm(hidden) * weights["norm"] + weights["norm_bias"]
    return hidden @ weights["classify"] + weights["classify_bias"]


def textbook_losses(
    weights: dict[str, Tensor], source: str, states: InMemory, task: SubwordTask, loss: str = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """Return the logits of all targets (T, K), and the mean loss."""
    found = []
    for target, sentence in enumerate(task.sentence):
        spans = [tuple(spans[target].tolist()) for spans in task.spans]
        found.append(textbook(weights, source, torch.from_numpy(states.sentences[sentence]).double(), spans))
    logits, gold = torch.stack(found), torch.from_numpy(task.gold)
    if loss == "softmax":
        return logits, torch.nn.functional.cross_entropy(logits, gold.int().argmax(dim=1))
    p = torch.sigmoid(logits)
    return logits, -torch.where(gold, p.log(), (1 - p).log()).mean()


def drawn(source: str, task: SubwordTask, probes: int) -> dict[str, Tensor]:
    """Return random parameters of some probes, including those that training initialises to 0 or 1."""
    shape = Shape.of(Input.parse(source, LAYERS), WIDTH, task, 6, 7)
    rng = np.random.default_rng(9)
    return {name: torch.from_numpy(rng.standard_normal((probes, *size))) for name, size in shape.sizes.items()}


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("spans", [1, 2])
@pytest.mark.parametrize("source", INPUTS)
def test_outputs_and_gradients_are_those_of_the_textbook(source: str, spans: int, loss: str) -> None:
    states = states_of(9)
    task = task_of(states, [0, 2, 3, 5, 8], spans=spans)
    if loss == "softmax":
        task = replace(task, gold=np.eye(4, dtype=bool)[np.random.default_rng(0).integers(0, 4, len(task))])
    weights = {name: part.requires_grad_() for name, part in drawn(source, task, 2).items()}

    indexed = IndexedTask(task, states.lengths)
    read = Input.parse(source, LAYERS)
    feed = Feed(indexed, edge_model.read_by(read.kind, [read]), [np.array([5, 0, 8, 3, 2])], torch.float64)
    (window,) = Reader(states).windows(indexed.sentences, sorted(read.layers))
    ((vectors, batch),) = feed.take(window)
    logits = edge_model.logits(weights, edge_model.arranged(read.kind, [read], vectors), batch)
    losses = edge_model.target_losses(logits, batch.gold, loss).mean(dim=1) / (4 if loss == "sigmoid" else 1)
    gradients = torch.autograd.grad(losses.sum(), list(weights.values()))

    assert sorted(batch.targets.tolist()) == list(range(len(task)))
    for probe in range(2):
        own = {name: part[probe].detach().requires_grad_() for name, part in weights.items()}
        wanted, mean = textbook_losses(own, source, states, task, loss)
        torch.testing.assert_close(logits[probe], wanted[batch.targets], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(losses[probe], mean, atol=1e-9, rtol=1e-9)
        for (name, part), found in zip(own.items(), gradients, strict=True):
            (expected,) = torch.autograd.grad(mean, part, retain_graph=True)
            torch.testing.assert_close(found[probe], expected, atol=1e-9, rtol=1e-9, msg=name)


def separate(job: EdgeJob, states: InMemory) -> tuple[dict[str, Tensor], list[float], list[float], list[float]]:
    """Train one probe without dropout by torch's Adam, scheduler and clipping, span by span."""
    recipe = job.recipe
    source = Input.parse(job.input, LAYERS)
    shape = Shape.of(source, WIDTH, job.train, recipe.projected, recipe.hidden)
    weights = {
        name: p.requires_grad_() for name, p in shape.drawn(edge_model.generator(job.seed, "t", job.input)).items()
    }
    adam = torch.optim.Adam(weights.values(), lr=recipe.learning_rate, amsgrad=recipe.amsgrad)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, mode="max", factor=recipe.decay, patience=recipe.decay_patience, threshold=1e-4, threshold_mode="abs"
    )
    best, scores, losses, rates = {}, [], [], []
    for epoch in range(recipe.max_epochs):
        order = np.random.default_rng([0, epoch]).permutation(len(states.lengths))
        for batch in cut(order[np.isin(order, job.train.sentence)], recipe.batch):
            adam.zero_grad()
            textbook_losses(weights, job.input, states, job.train.at(batch))[1].backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), recipe.clip)
            adam.step()
        with torch.no_grad():
            logits, loss = textbook_losses(weights, job.input, states, job.dev)
        predicted, gold = torch.sigmoid(logits).numpy() >= 0.5, job.dev.gold
        scores.append(2 * (predicted & gold).sum() / (predicted.sum() + gold.sum()))
        losses.append(loss.item())
        rates.append(adam.param_groups[0]["lr"])
        if scores[-1] > max(scores[:-1], default=-1):
            best = {name: part.detach().clone() for name, part in weights.items()}
        scheduler.step(scores[-1])
        if epoch - int(np.argmax(scores)) > recipe.patience:
            break
    return best, scores, losses, rates


@pytest.mark.equality
@pytest.mark.parametrize("source", ["mix", "cat", "layer:1"])
def test_training_is_that_of_torch(source: str) -> None:
    states = states_of(24)
    recipe = replace(
        SMALL, input_dropout=0, dropout=0, max_epochs=9, decay_patience=1, patience=3, clip=0.2, learning_rate=0.03
    )
    train, dev = task_of(states, range(15)), task_of(states, range(14, 24), seed=1)
    job = EdgeJob(train, dev, source, seed=3, recipe=recipe)
    (probe,) = train_edge_probes([job], states, dtype=torch.float64)
    best, scores, losses, rates = separate(job, states)
    assert probe.dev_f1 == pytest.approx(scores, rel=1e-12)
    assert probe.dev_losses == pytest.approx(losses, rel=1e-8)
    assert probe.learning_rates == pytest.approx(rates, rel=1e-12)
    for name, part in best.items():
        torch.testing.assert_close(probe.parameters[name], part, rtol=1e-6, atol=1e-8)


def company(states: InMemory) -> list[EdgeJob]:
    """Return jobs of two tasks that share some sentences, with all inputs, two seeds and two recipes."""
    one = task_of(states, range(20)), task_of(states, range(30, 40), seed=1)
    other = (
        task_of(states, range(10, 30), spans=1, labels=3, seed=2, name="u"),
        task_of(states, range(35, 42), spans=1, labels=3, seed=3, name="u"),
    )
    early = replace(SMALL, max_epochs=12, patience=1, decay_patience=1, learning_rate=0.03)
    often = replace(SMALL, max_epochs=3, validations_per_epoch=None, validate_every=3)
    jobs = [EdgeJob(*one, source, recipe=early) for source in (*INPUTS, "layer:0")]
    jobs += [EdgeJob(*one, "mix", seed=1, recipe=early), EdgeJob(*one, "top", seed=1, recipe=often)]
    return [*jobs, *(EdgeJob(*other, source, recipe=often) for source in ("mix", "layer:1", "top"))]


@pytest.mark.equality
@pytest.mark.parametrize(("threads", "held"), [(1, True), (2, False)])
def test_company_changes_nothing_but_rounding(
    threads: int, held: bool, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    """In float64, where rounding is too small to change a decision of the training (a label, a rate, a stop).

    A step sums some hundred numbers, with a relative error below 1e-13. Over 32 steps the error may grow by five orders
    of magnitude before it reaches the bound of 1e-8. Another order of sentences, or the dropout of another probe, would
    change losses by 1e-3 or more. Weights are compared by their predictions: if the loss does not depend on a weight,
    its gradient is only rounding, but Adam divides it by its size and so takes full steps in random directions.
    """
    states = states_of(42, dtype=np.float32)
    jobs = company(states)
    alone = [train_edge_probes([job], states, dtype=torch.float64)[0] for job in jobs]
    if not held:
        monkeypatch.setattr(edge_feed, "HELD_BYTES", 0)
        monkeypatch.setattr(edge_feed, "WINDOW_SUBWORDS", 20)
    told: list[tuple[int, int]] = []
    set_threads(threads)
    together = train_edge_probes(jobs, states, dtype=torch.float64, progress=lambda *at: told.append(at))
    assert torch.get_num_threads() == threads
    for job, one, other in zip(jobs, alone, together, strict=True):
        assert (one.task, one.input, one.seed) == (other.task, other.input, other.seed)
        assert (one.steps, one.best, one.dev_f1) == (other.steps, other.best, other.dev_f1)
        assert one.learning_rates == other.learning_rates
        assert other.dev_losses == pytest.approx(one.dev_losses, rel=1e-8)
        assert other.train_losses == pytest.approx(one.train_losses, rel=1e-8)
        (shares,), (wanted,) = (predict_edges([probe], job.dev, states) for probe in (other, one))
        np.testing.assert_allclose(shares, wanted, rtol=0, atol=1e-5)  # the predictions are float32
    # The probes of a group must have stopped at different times, or the test checks little.
    assert len({probe.steps for probe in together[:7]}) > 2
    assert all(0 <= done <= total for done, total in told)


@pytest.mark.equality
def test_company_begins_alike_in_float32() -> None:
    """Up to the first validation. After it, rounding might decide when a rate falls; see the test above."""
    states = states_of(42, dtype=np.float32)
    jobs = company(states)
    for job, other in zip(jobs, train_edge_probes(jobs, states), strict=True):
        (one,) = train_edge_probes([job], states)
        assert other.train_losses[0] == pytest.approx(one.train_losses[0], rel=1e-4)
        assert other.dev_losses[0] == pytest.approx(one.dev_losses[0], rel=1e-4)


def test_states_that_fit_are_read_once_and_others_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    states = states_of(42)
    jobs = [replace(job, recipe=SMALL) for job in company(states)]
    train_edge_probes(jobs, states)
    assert sorted(states.read) == sorted([*range(30), *range(30, 42)])
    states.read.clear()
    monkeypatch.setattr(edge_feed, "HELD_BYTES", 0)
    train_edge_probes(jobs, states)
    assert states.read.count(5) == SMALL.max_epochs
    assert states.read.count(15) == SMALL.max_epochs


def planted(states: InMemory, sentences) -> SubwordTask:
    """Return targets whose label is the sign of the first coordinate in layer 1. Other layers are noise."""
    task = task_of(states, sentences, spans=1, labels=2)
    span = task.span1 + 0
    span[:, 1] = span[:, 0] + 1
    high = np.array([states.sentences[s][1, i, 0] > 0 for s, i in zip(task.sentence, span[:, 0], strict=True)])
    return replace(task, span1=span, gold=np.stack([high, ~high], axis=1))


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_planted_labels_are_found_where_they_are(loss: str) -> None:
    states = states_of(300, dtype=np.float16)
    recipe = replace(SMALL, loss=loss, max_epochs=25, batch=16, dropout=0.1, input_dropout=0)
    train, dev, test = planted(states, range(200)), planted(states, range(200, 250)), planted(states, range(250, 300))
    jobs = [EdgeJob(train, dev, source, recipe=recipe) for source in INPUTS]
    probes = train_edge_probes(jobs, states)
    shares = predict_edges(probes, test, states)
    right = ((shares[..., 0] > 0.5) == test.gold[:, 0]).mean(axis=1)
    found = dict(zip(INPUTS, right, strict=True))
    assert min(found["mix"], found["layer:1"]) > 0.85
    assert max(found["top"], found["lexical"], found["cat"]) < 0.7
    assert int(np.argmax(probes[0].mix_weights)) == 1
    assert sum(probes[0].mix_weights) == pytest.approx(1)
    nats = target_nats(probes, test, states)
    own = np.where(test.gold, shares, 1 - shares) if loss == "sigmoid" else np.where(test.gold, shares, 1)
    np.testing.assert_allclose(nats, -np.log(own.astype(np.float64)).sum(axis=2), rtol=2e-4, atol=1e-5)
    assert nats.sum(axis=1)[2] < nats.sum(axis=1)[1]


def test_predictions_are_those_of_the_textbook() -> None:
    states = states_of(30)
    train = task_of(states, range(20))
    jobs = [EdgeJob(train, train, source, seed=seed, recipe=SMALL) for source in INPUTS for seed in (0, 1)]
    probes = train_edge_probes(jobs, states, dtype=torch.float64)
    test = task_of(states, range(15, 30), seed=7)
    for probe, shares in zip(probes, predict_edges(probes, test, states), strict=True):
        logits, _ = textbook_losses(probe.parameters, probe.input.name, states, test)
        np.testing.assert_allclose(shares, torch.sigmoid(logits).detach(), rtol=1e-5)


def test_dropout_is_the_probes_own_and_of_its_rate() -> None:
    drop = edge_model.Dropout([torch.Generator().manual_seed(seed) for seed in (1, 2, 1)], 0.3)
    first, second, again = drop(torch.ones(3, 50, 40))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert first.mean().item() == pytest.approx(1, abs=0.05)


def test_an_interruption_ends_all_threads(set_threads: Callable[[int], None]) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    states, before = states_of(42), threading.active_count()
    endless = replace(SMALL, max_epochs=10**6, patience=10**6, decay=1.0)
    set_threads(2)
    with pytest.raises(KeyboardInterrupt):
        train_edge_probes([replace(job, recipe=endless) for job in company(states)], states, progress=interrupted)
    gc.collect()
    assert threading.active_count() == before


def test_presets() -> None:
    assert recipe_of("paper", "srl") == RECIPES["paper"] == Recipe()
    assert recipe_of("paper", "rel").validate_every == 100
    assert recipe_of("today", "rel") == recipe_of("today", "pos") == RECIPES["today"]
    with pytest.raises(OptionError, match="unknown preset 'paper-small'"):
        recipe_of("paper-small", "pos")


@pytest.mark.parametrize(
    ("job", "error", "said"),
    [
        ({"input": "middle"}, OptionError, "unknown input 'middle'; choose one of mix, top"),
        ({"input": "layer:3"}, OptionError, "needs layer 3, and there are the layers 0, 1, 2"),
        ({"recipe": replace(SMALL, batch=0)}, OptionError, "batches of 0"),
        ({"recipe": replace(SMALL, loss="softmax")}, DataError, "has [0-9] labels, and the loss softmax wants one"),
    ],
)
def test_what_is_refused(job: dict, error: type[Exception], said: str) -> None:
    states = states_of(9)
    task = task_of(states, range(9))
    with pytest.raises(error, match=said):
        train_edge_probes([EdgeJob(**({"train": task, "dev": task, "recipe": SMALL} | job))], states)


def test_targets_that_do_not_fit_are_refused() -> None:
    states = states_of(9)
    task = task_of(states, range(9))
    with pytest.raises(DataError, match=r"target 0 has the span \[2, 2\]"):
        replace(task, span1=np.full_like(task.span1, 2))
    with pytest.raises(DataError, match="gold has shape"):
        replace(task, gold=task.gold[:, :2])
    with pytest.raises(DataError, match="leave out targets that do not fit"):
        IndexedTask(replace(task, span2=task.span1 + 11), states.lengths)
    with pytest.raises(DataError, match="number them from 0"):
        IndexedTask(replace(task, sentence=task.sentence + 5), states.lengths)
    with pytest.raises(DataError, match="no targets"):
        train_edge_probes([EdgeJob(task.at([77]), task, recipe=SMALL)], states)
    states.sentences[4][:] = math.inf
    with pytest.raises(ArrayError, match="the probe of t on mix has losses of nan"):
        train_edge_probes([EdgeJob(task, task, recipe=SMALL)], states)
    other = task_of(states, range(4), labels=3)
    probes = train_edge_probes([EdgeJob(other, other, recipe=SMALL)], states_of(9))
    with pytest.raises(DataError, match="give targets of its own task"):
        predict_edges(probes, task, states)
