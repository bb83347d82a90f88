"""Training of structural probes: against autograd, against each probe trained alone, and on planted trees."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from bertft.data.treebank import Tree
from bertft.errors import ArrayError, DataError, OptionError
from bertft.probes.structural.examples import Examples, GoldBatch
from bertft.probes.structural.losses import depth_loss, distance_loss, squared_distances, tree_loss
from bertft.probes.structural.prediction import evaluate_probes, predict
from bertft.probes.structural.training import KINDS, RECIPES, Probe, Recipe, train_probes

WIDTH = 12


class InMemory:
    """Vectors of sentences in memory, [(layers, n, d)]. Empty sentences are dropped."""

    dtype = np.dtype(np.float64)

    def __init__(self, sentences: list[NDArray[np.float64]]) -> None:
        self.sentences = sentences
        self.reads: list[tuple[int, ...]] = []

    @property
    def kept(self) -> NDArray[np.int64]:
        return np.flatnonzero([sentence.size for sentence in self.sentences])

    def padded(self, sentences, layers=None, *, dtype: DTypeLike = "f4") -> NDArray:
        chosen = list(range(len(self.sentences[sentences[0]]))) if layers is None else list(layers)
        self.reads.append(tuple(chosen))
        longest = max(self.sentences[i].shape[1] for i in sentences)
        found = np.zeros((len(chosen), len(sentences), longest, self.sentences[sentences[0]].shape[2]), dtype)
        for place, i in enumerate(sentences):
            found[:, place, : self.sentences[i].shape[1]] = self.sentences[i][chosen]
        return found


def grown_tree(n: int, rng: np.random.Generator, name: str = "s") -> Tree:
    """Return a random tree: words are added in random order, each below one that is already in the tree."""
    order = rng.permutation(n)
    heads = [0] * n
    for place in range(1, n):
        heads[order[place]] = int(order[rng.integers(place)]) + 1
    tags = tuple("PUNCT" if draw < 0.1 else "NOUN" for draw in rng.random(n))
    xpos = tuple("." if tag == "PUNCT" else "NN" for tag in tags)
    return Tree(name, f"{name}:1", ("w",) * n, tags, xpos, tuple(heads), ("dep",) * n)


def noise(count: int, layers: int = 3, seed: int = 0) -> Examples:
    """Return trees of 1 to 9 words with vectors that are independent of them."""
    rng = np.random.default_rng(seed)
    trees = tuple(grown_tree(int(rng.integers(1, 10)), rng) for _ in range(count))
    return Examples(trees, InMemory([rng.standard_normal((layers, len(tree), WIDTH)) for tree in trees]))


def planted(count: int, seed: int, width: int = 64, scale: tuple[float, ...] = (0.0, 1.0)) -> Examples:
    """Return vectors whose squared distances are path lengths: a word is its head plus an own direction, then rotated.

    The root is at the origin. Layer k holds these vectors times scale[k], plus noise of standard deviation 1/20.
    """
    rng = np.random.default_rng([seed, 1])
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((width, width)))[0]
    trees, vectors = [], []
    for _ in range(count):
        tree = grown_tree(int(rng.integers(5, 15)), rng)
        place = np.zeros((len(tree), width))
        for word in np.argsort(tree.depths(), kind="stable"):
            if head := tree.heads[word]:
                place[word] = place[head - 1]
                place[word, word] += 1
        noisy = [k * place @ turn + 0.05 * rng.standard_normal(place.shape) for k in scale]
        trees.append(tree)
        vectors.append(np.stack(noisy))
    return Examples(tuple(trees), InMemory(vectors))


def batch_of(lengths: list[int], seed: int = 0) -> tuple[Tensor, GoldBatch]:
    """Return projected vectors, (2 probes, sentences, n, 4) in float64 with random padding, and trees."""
    rng = np.random.default_rng(seed)
    trees = tuple(grown_tree(n, rng) for n in lengths)
    examples = Examples(trees, InMemory([np.ones((1, n, 1)) for n in lengths]))
    projected = torch.from_numpy(rng.standard_normal((2, len(lengths), max(lengths), 4)))
    return projected, examples.gold(np.arange(len(lengths)))


def naive_distance(projected: Tensor, gold: GoldBatch, *, tree: bool = False) -> Tensor:
    """Return the published loss, by a tensor (..., n, n, rank), or with `tree` the loss of the perceptron."""
    distances = (projected.unsqueeze(-2) - projected.unsqueeze(-3)).square().sum(-1)
    total = torch.zeros(len(projected), dtype=projected.dtype)
    for probe, sentence in itertools.product(range(len(projected)), range(len(gold.lengths))):
        n = int(gold.lengths[sentence])
        d = distances[probe, sentence, :n, :n]
        if tree:
            own, best = gold_edges(gold.heads[sentence, :n]), prim(d.detach().numpy())
            total[probe] += (sum(d[e] for e in own) - sum(d[e] for e in best)) / n
        else:
            total[probe] += (d - torch.from_numpy(gold.distances[sentence, :n, :n])).abs().sum() / n**2
    return total / len(gold.lengths)


def naive_depth(projected: Tensor, gold: GoldBatch) -> Tensor:
    off = (projected.square().sum(-1) - torch.from_numpy(gold.depths)).abs()
    means = [off[:, sentence, :n].sum(-1) / n for sentence, n in enumerate(gold.lengths)]
    return torch.stack(means).mean(0)


def gold_edges(heads: NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(word, int(head) - 1) for word, head in enumerate(heads) if head]


def prim(distances: NDArray[np.float64]) -> list[tuple[int, int]]:
    inside, edges = {0}, []
    while len(inside) < len(distances):
        out = [(distances[i, j], i, j) for i in inside for j in range(len(distances)) if j not in inside]
        _, i, j = min(out)
        inside.add(j)
        edges.append((i, j))
    return edges


@pytest.mark.parametrize("lengths", [[5, 3, 7], [1], [1, 2, 9]], ids=str)
@pytest.mark.parametrize("loss", ["distance", "tree", "depth"])
def test_losses_and_gradients_are_those_of_autograd(loss: str, lengths: list[int]) -> None:
    projected, gold = batch_of(lengths)
    projected.requires_grad_()
    naive = naive_depth(projected, gold) if loss == "depth" else naive_distance(projected, gold, tree=loss == "tree")
    wanted = torch.zeros_like(projected)
    if naive.requires_grad:  # not for a tree of one word, which has no edge
        (wanted,) = torch.autograd.grad(naive.sum(), projected)
    function, values = {
        "distance": (distance_loss, gold.distances),
        "tree": (tree_loss, gold.heads),
        "depth": (depth_loss, gold.depths),
    }[loss]
    found, gradient = function(projected.detach(), torch.from_numpy(values), torch.from_numpy(gold.lengths))
    torch.testing.assert_close(found, naive.detach())
    torch.testing.assert_close(gradient, wanted)


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    rng = np.random.default_rng(0)
    near = rng.standard_normal((6, 8))
    far = torch.from_numpy(near + 300).float()
    exact = ((far.double().unsqueeze(-2) - far.double().unsqueeze(-3)) ** 2).sum(-1)
    found = squared_distances(far)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)
    assert (found.diagonal() == 0).all()
    assert (squared_distances(torch.full((3, 4), 0.1)) == 0).all()


def separate(train: Examples, dev: Examples, probe: Probe, recipe: Recipe, seed: int) -> tuple[Tensor, list, list, int]:
    """Train one probe by torch's Adam, scheduler and autograd."""
    rng = np.random.default_rng([seed, KINDS.index(probe.kind), probe.layer, probe.rank])
    weights = torch.from_numpy(rng.uniform(-recipe.initial, recipe.initial, (WIDTH, probe.rank))).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=recipe.learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.1, patience=0)

    def loss(examples: Examples, sentences: NDArray[np.int64]) -> Tensor:
        vectors = torch.from_numpy(examples.vectors.padded(sentences, [probe.layer], dtype=np.float64))
        projected, gold = vectors @ weights, examples.gold(sentences)
        if probe.kind == "depth":
            return naive_depth(projected, gold).sum()
        total = naive_distance(projected, gold).sum()
        return total + naive_distance(projected, gold, tree=True).sum() if recipe.tree_loss else total

    best, best_loss, best_epoch, losses, rates = weights.detach().clone(), float("inf"), -1, [], []
    for epoch in range(recipe.epochs):
        for sentences in train.shuffled(recipe.batch, np.random.default_rng([seed, epoch])):
            optimizer.zero_grad()
            loss(train, sentences).backward()
            optimizer.step()
        with torch.no_grad():
            summed = sum(loss(dev, part).item() * len(part) for part in dev.in_order(20))
        losses.append(summed / len(dev.trees))
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(summed)
        if losses[-1] < best_loss - 1e-4:
            best, best_loss, best_epoch = weights.detach().clone(), losses[-1], epoch
        elif best_epoch < epoch - 4:
            break
    return best, losses, rates, best_epoch


@pytest.mark.equality
@pytest.mark.parametrize("preset", RECIPES)
def test_batched_training_is_that_of_each_probe_by_itself(preset: str) -> None:
    train, dev = noise(30), noise(12, seed=1)
    recipe = replace(RECIPES[preset], batch=7, epochs=25, learning_rate=0.03)
    probes = train_probes(train, dev, [0, 1, 2], ranks=[2, 5], recipe=recipe, seed=4, dtype=torch.float64)
    assert [(p.kind, p.rank, p.layer) for p in probes] == list(itertools.product(KINDS, [2, 5], [0, 1, 2]))
    for probe in probes:
        weights, losses, rates, best_epoch = separate(train, dev, probe, recipe, seed=4)
        assert probe.best_epoch == best_epoch
        assert probe.learning_rates == pytest.approx(rates, rel=1e-12)
        assert probe.dev_losses == pytest.approx(losses, rel=1e-9)
        torch.testing.assert_close(probe.weights, weights, rtol=1e-7, atol=1e-9)
    # Probes must have stopped at different times, and learning rates fallen, or the test checks little.
    assert len({len(probe.dev_losses) for probe in probes}) > 2
    assert any(len(set(probe.learning_rates)) > 2 for probe in probes)


@pytest.mark.equality
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing_but_rounding(threads: int, set_threads: Callable[[int], None]) -> None:
    """In float64, where rounding is too small to change a decision of the training, and stays below these bounds.

    The vectors are noise in every direction, so the loss depends on every weight and no gradient is rounding alone.
    """
    train, dev = noise(30), noise(12, seed=1)
    options = {"ranks": [3], "recipe": Recipe(batch=7, epochs=6, learning_rate=0.03), "dtype": torch.float64}
    set_threads(1)
    alone = train_probes(train, dev, [0, 1, 2], **options)
    set_threads(threads)
    told: list[tuple[int, int]] = []
    together = train_probes(train, dev, [0, 1, 2], progress=lambda *at: told.append(at), **options)
    assert torch.get_num_threads() == threads
    for one, other in zip(alone, together, strict=True):
        assert (one.kind, one.layer, one.rank) == (other.kind, other.layer, other.rank)
        assert (one.best_epoch, one.learning_rates) == (other.best_epoch, other.learning_rates)
        assert other.dev_losses == pytest.approx(one.dev_losses, rel=1e-9)
        torch.testing.assert_close(other.weights, one.weights, rtol=1e-7, atol=1e-9)
    assert all(done <= total == 6 * 5 for done, total in told)


def test_an_interruption_ends_all_threads(set_threads: Callable[[int], None]) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    train, before = noise(30), threading.active_count()
    endless = Recipe(batch=7, epochs=10**6, patience=10**6)
    set_threads(2)
    with pytest.raises(KeyboardInterrupt):
        train_probes(train, train, [0, 1, 2], ranks=[3], recipe=endless, progress=interrupted)
    gc.collect()
    assert threading.active_count() == before


def test_layers_that_have_stopped_are_read_no_more() -> None:
    train, dev = noise(30), noise(12, seed=1)
    recipe = Recipe(batch=7, epochs=25, learning_rate=0.03)
    probes = train_probes(train, dev, [0, 1, 2], ranks=[3], recipe=recipe)
    last = max(len(probe.dev_losses) for probe in probes)
    going = {probe.layer for probe in probes if len(probe.dev_losses) == last}
    assert len(going) < 3
    assert set(train.vectors.reads[-1]) == going


def test_a_planted_tree_is_found_and_noise_is_not() -> None:
    train, dev = planted(300, 0), planted(60, 1)
    recipe = Recipe(epochs=15, learning_rate=0.01)
    probes = train_probes(train, dev, [0, 1], ranks=[32], recipe=recipe)
    for preset in RECIPES:
        nothing, distance, _, depth = evaluate_probes(probes, dev, preset)
        assert distance.uuas > 0.9
        assert nothing.uuas < 0.5
        assert distance.spearman > 0.9
        assert depth.spearman > 0.8
        assert depth.root_accuracy > 0.8


def test_the_tree_loss_brings_predicted_trees_nearer() -> None:
    train = planted(200, 0, scale=(1.0,))
    found = {}
    for preset in RECIPES:
        recipe = replace(RECIPES[preset], epochs=6, learning_rate=0.01)
        (probe,) = train_probes(train, train, [0], ranks=[3], kinds=["distance"], recipe=recipe, dtype=torch.float64)
        gold = train.gold(train.vectors.kept)
        vectors = torch.from_numpy(train.vectors.padded(train.vectors.kept, [0], dtype=np.float64))
        loss, _ = tree_loss(vectors @ probe.weights, torch.from_numpy(gold.heads), torch.from_numpy(gold.lengths))
        found[preset] = loss.item()
    assert found["today"] < found["paper"]


def test_predictions_are_those_of_the_weights() -> None:
    examples = noise(9)
    rng = np.random.default_rng(0)
    probes = [
        Probe(kind, layer, 2, torch.from_numpy(rng.standard_normal((WIDTH, 2))), 0, (1.0,), (1.0,), (1e-3,))
        for kind, layer in (("distance", 2), ("depth", 0))
    ]
    seen = 0
    for gold, (distances, depths) in predict(probes, examples):
        for row, tree in enumerate(gold.trees):
            sentence = next(i for i, other in enumerate(examples.trees) if other is tree)
            projected = [examples.vectors.sentences[sentence][p.layer] @ p.weights.numpy() for p in probes]
            wanted = ((projected[0][:, None] - projected[0]) ** 2).sum(-1)
            np.testing.assert_allclose(distances[row, : len(tree), : len(tree)], wanted, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(depths[row, : len(tree)], (projected[1] ** 2).sum(-1), rtol=1e-4)
            np.testing.assert_array_equal(gold.depths[row, : len(tree)], tree.depths())
            np.testing.assert_array_equal(gold.distances[row, : len(tree), : len(tree)], tree.distances())
            seen += 1
    assert seen == len(examples.trees)


def test_batches_hold_every_kept_sentence_once() -> None:
    examples = noise(50)
    examples.vectors.sentences[7] = np.zeros((3, 0, WIDTH))
    kept = sorted({*range(50)} - {7})
    for batches in (examples.shuffled(8, np.random.default_rng(0)), examples.in_order(30)):
        assert sorted(np.concatenate(batches).tolist()) == kept
    assert all(len(b) * examples.lengths[b].max() <= 30 for b in examples.in_order(30))
    spread = [np.ptp(examples.lengths[b]) for b in examples.shuffled(8, np.random.default_rng(0))]
    assert max(spread) <= 4
    first, again, other = (np.concatenate(examples.shuffled(8, np.random.default_rng(s))) for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": [0]}, "rank is 0; give a whole number from 1 to 12"),
        ({"ranks": [4, 13]}, "rank is 13"),
        ({"layers": []}, "0 layers"),
        ({"recipe": Recipe(epochs=0)}, "0 epochs"),
    ],
)
def test_options_out_of_range(options: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        train_probes(noise(3), noise(3), **({"layers": [0]} | options))


def test_a_loss_that_is_not_finite_is_refused() -> None:
    train = noise(3)
    train.vectors.sentences[0][:] = np.inf
    with pytest.raises(ArrayError, match=r"the distance probe of layer 0 has a loss of nan in epoch 1"):
        train_probes(train, train, [0], ranks=[2], recipe=Recipe(epochs=2))
    with pytest.raises(DataError, match="no sentence has vectors"):
        Examples((), InMemory([]))
