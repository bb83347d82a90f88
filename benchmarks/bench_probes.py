"""Time the evaluation (on one core) and the training of structural probes against the published code.

All answers are checked. The reference for evaluations and trees is SciPy and plain Python. The references for losses
are autograd over (batch, n, n, rank) and NumPy.
"""

from __future__ import annotations

import os
from pathlib import Path

import costs
import numpy as np
import pytest
import torch
from memory import OwnProcess
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import spearmanr

from bertft import kernels
from bertft.data.treebank import Tree
from bertft.probes import evaluate_depths, evaluate_distances
from bertft.probes.structural.examples import Examples
from bertft.probes.structural.training import Recipe, train_probes

WIDTH = 40


@pytest.fixture
def one_core():
    """Restrict the process, with the threads of bertft, to one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


def treebank(each, dtype=np.float32, seed=0):
    """Return `each` random trees of every length from 5 to 40.

    The arrays are noisy distances, gold distances, noisy depths, gold depths, lengths and masks.
    """
    rng = np.random.default_rng(seed)
    lengths = np.tile(np.arange(5, WIDTH + 1), each)
    gold, depths = np.zeros((len(lengths), WIDTH, WIDTH), dtype), np.zeros((len(lengths), WIDTH), dtype)
    for distances, depth, n in zip(gold, depths, lengths, strict=True):
        for word in range(1, n):  # the head is one of the last few words; the words are shuffled below
            head = rng.integers(max(0, word - 6), word)
            distances[word, :word] = distances[:word, word] = distances[head, :word] + 1
            distances[word, head] = distances[head, word] = 1
            depth[word] = depth[head] + 1
        order = rng.permutation(n)
        distances[:n, :n], depth[:n] = distances[np.ix_(order, order)], depth[order]
    noise = rng.standard_normal(gold.shape)
    predicted = np.abs(gold + 0.6 * (noise + noise.transpose(0, 2, 1))) * (gold > 0)
    predicted_depths = np.abs(depths + rng.standard_normal(depths.shape))
    keep = rng.random(depths.shape) > 0.12
    return predicted.astype(dtype), gold, predicted_depths.astype(dtype), depths, lengths, keep


def published_distances(predicted, gold, lengths, keep):
    """Return Spearman averaged by length, and UUAS, as the published code computes them.

    It handles one sentence at a time. SciPy computes Spearman for each word, and Kruskal's algorithm runs in Python
    over all cells. The published code passes tensors, and most of the time goes into sorting cells that are tensors
    themselves. Arrays are converted to Python numbers first, which is the fastest form of this method.
    """
    of_length, correct, total = {}, 0, 0
    for distances, truth, n, kept in zip(predicted, gold, lengths.tolist(), keep.tolist(), strict=True):
        sides = distances[:n, :n], truth[:n, :n]
        of_length.setdefault(n, []).extend(spearmanr(x, y).statistic for x, y in zip(*sides, strict=True))
        edges, gold_edges = (kruskal(side if torch.is_tensor(side) else side.tolist(), kept) for side in sides)
        correct += len(edges & gold_edges)
        total += len(gold_edges)
    return np.mean([np.mean(of_length[n]) for n in of_length if 5 <= n <= 50]), correct / total


def kruskal(distances, kept):
    """Return the edges of the minimum spanning tree, by union-find over the cells in order of distance.

    The sort is stable, so ties are broken by row, then by column.
    """
    cells = {(i, j): cell for i, row in enumerate(distances) if kept[i] for j, cell in enumerate(row) if kept[j]}
    parent = {i: i for i, _ in cells}

    def find(word):
        while parent[word] != word:
            parent[word] = parent[parent[word]]
            word = parent[word]
        return word

    edges = set()
    for i, j in sorted(cells, key=cells.__getitem__):
        if (a := find(i)) != (b := find(j)):
            parent[a] = b
            edges.add((min(i, j), max(i, j)))
    return edges


def largest_difference(name, answer, truth):
    """Return the largest difference from the reference. This is a `check` for `race`."""
    return float(np.max(np.abs(np.subtract(answer, truth))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.benchmark(group="distance evaluation, 5 to 40 words, one core")
def bench_distances(race, one_core, dtype):
    predicted, gold, _, _, lengths, keep = treebank(12, dtype)

    def ours():
        found = evaluate_distances(predicted, gold, lengths, keep)
        return found.spearman, found.uuas

    tensors = torch.from_numpy(predicted), torch.from_numpy(gold)
    slow = "published code", "published code on Python numbers"
    race(
        ours,
        {
            slow[0]: lambda: published_distances(*tensors, lengths, keep),
            slow[1]: lambda: published_distances(predicted, gold, lengths, keep),
        },
        largest_difference,
        tolerances={"bertft": 1e-9, slow[0]: 1e-9},
        reference=slow[1],
        rounds=9,
        rounds_of=dict.fromkeys(slow, 3),
        warm_up=ours,
        pause=0,
        costs=dict.fromkeys(("bertft", *slow), costs.pairs_of_words(lengths, 2, predicted.itemsize)),
        goals={slow[0]: ("at least", 1000), slow[1]: None},
    )


@pytest.mark.benchmark(group="depth evaluation, 5 to 40 words, one core")
def bench_depths(race, one_core):
    _, _, predicted, gold, lengths, keep = treebank(20)

    def ours():
        found = evaluate_depths(predicted, gold, lengths, keep)
        return found.spearman, found.root_accuracy

    def published():
        of_length, right = {}, 0
        for depths, truth, n, kept in zip(predicted, gold, lengths, keep, strict=True):
            of_length.setdefault(int(n), []).append(spearmanr(depths[:n], truth[:n]).statistic)
            words = np.flatnonzero(kept[:n]) if kept[:n].any() else np.arange(n)
            right += words[np.argmin(depths[words])] == truth[:n].tolist().index(0)
        return np.mean([np.mean(values) for values in of_length.values()]), right / len(lengths)

    name = "scipy and Python"
    race(
        ours,
        {name: published},
        largest_difference,
        tolerances={"bertft": 1e-9},
        reference=name,
        rounds=9,
        pause=0,
        costs=dict.fromkeys(("bertft", name), costs.words(lengths, 2, predicted.itemsize)),
        goals={name: None},
    )


@pytest.mark.benchmark(group="spanning trees alone, 5 to 40 words, one core")
def bench_trees(race, one_core):
    distances, _, _, _, lengths, keep = treebank(20)
    lengths = lengths.astype(np.int64)
    ops = kernels.select("cpu")
    kept = [np.flatnonzero(row[:n]) for row, n in zip(keep, lengths, strict=True)]
    dense = [side[np.ix_(words, words)] for side, words in zip(distances, kept, strict=True)]

    def check(name, parents, trees):
        """Return the number of edges in only one of the two trees. Without ties the tree is unique."""
        differing = 0
        for row, tree, words in zip(parents, trees, kept, strict=True):
            theirs = {(words[min(edge)], words[max(edge)]) for edge in zip(*tree.nonzero(), strict=True)}
            ours = {(min(word, row[word]), max(word, row[word])) for word in np.flatnonzero(row >= 0)}
            differing += len(theirs ^ ours)
        return differing

    race(
        lambda: ops.spanning_trees(distances, lengths, keep),
        {"scipy csgraph": lambda: [minimum_spanning_tree(side) for side in dense]},
        check,
        tolerances={"bertft": 0},
        reference="scipy csgraph",
        rounds=19,
        pause=0,
        costs=dict.fromkeys(("bertft", "scipy csgraph"), costs.pairs_of_words(lengths, 1, distances.itemsize)),
        goals={"scipy csgraph": ("at least", 50)},
    )


class InMemory:
    """Word vectors of sentences by layer, (layers, words, d) in float16, with the interface of the cache."""

    dtype = np.dtype(np.float16)

    def __init__(self, lengths, layers, width, seed=0):
        rng = np.random.default_rng(seed)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.vectors = rng.standard_normal((layers, self.starts[-1], width), np.float32).astype(np.float16)
        self.kept = np.arange(len(lengths))

    def padded(self, sentences, layers=None, *, dtype="f4"):
        chosen = range(len(self.vectors)) if layers is None else layers
        lengths = self.starts[sentences + 1] - self.starts[sentences]
        found = np.zeros((len(chosen), len(sentences), lengths.max(), self.vectors.shape[2]), dtype)
        for of_layer, layer in zip(found, chosen, strict=True):
            for place, sentence, n in zip(of_layer, sentences, lengths, strict=True):
                place[:n] = self.vectors[layer, self.starts[sentence] : self.starts[sentence] + n]
        return found


class OnDisk(InMemory):
    """Word vectors read from files one sentence at a time, as the cache does.

    Missing files are written first.
    """

    def __init__(self, lengths, layers, width, folder):
        super().__init__(lengths, 0, width)
        self.files = [Path(folder) / f"{len(lengths)}-{layer}" for layer in range(layers)]
        for layer, path in enumerate(self.files):
            if path.exists():
                continue
            rng = np.random.default_rng([0, layer])
            with path.open("wb") as file:
                for n in lengths:
                    rng.standard_normal((n, width), np.float32).astype(np.float16).tofile(file)
        self.width = width

    def padded(self, sentences, layers=None, *, dtype="f4"):
        chosen = range(len(self.files)) if layers is None else layers
        lengths = self.starts[sentences + 1] - self.starts[sentences]
        found = np.zeros((len(chosen), len(sentences), lengths.max(), self.width), dtype)
        for of_layer, layer in zip(found, chosen, strict=True):
            for place, sentence, n in zip(of_layer, sentences, lengths, strict=True):
                start = 2 * self.width * int(self.starts[sentence])
                rows = np.fromfile(self.files[layer], np.float16, self.width * int(n), offset=start)
                place[:n] = rows.reshape(-1, self.width)
        return found


def training_sentences(count, layers, width, folder=None):
    """Return random trees, with the sentence lengths of English web text, and their word vectors.

    The first word is the root. The head of every other word is one of the six words before it.
    """
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(1.6, 10.2, count).astype(int), 1, 90)
    trees = []
    for n in lengths:
        heads = (0, *(int(rng.integers(max(1, word - 5), word + 1)) for word in range(1, n)))
        trees.append(Tree("s", "s:1", ("w",) * n, ("X",) * n, ("X",) * n, heads, ("dep",) * n))
    vectors = InMemory(lengths, layers, width) if folder is None else OnDisk(lengths, layers, width, folder)
    return tuple(trees), vectors


def path_lengths(heads):
    """Return the number of edges between all pairs of words of a tree; the first row holds the depths.

    Heads are indices from 1. Every head precedes its word.
    """
    found = np.zeros((len(heads), len(heads)))
    for word, head in enumerate(heads[1:], start=1):
        found[word, :word] = found[:word, word] = found[head - 1, :word] + 1
        found[word, head - 1] = found[head - 1, word] = 1
    return found


def float64_loss(kind, layer, weights, trees, vectors):
    """Return the mean loss of a probe over sentences, by definition: from the differences of all word pairs."""
    losses = []
    for sentence, tree in enumerate(trees):
        projected = vectors.padded(np.array([sentence]), [layer])[0, 0].astype(np.float64) @ weights
        gold = path_lengths(tree.heads)
        if kind == "distance":
            found = np.square(projected[:, None] - projected[None]).sum(axis=-1)
        else:
            found, gold = np.square(projected).sum(axis=-1), gold[0]
        losses.append(np.abs(found - gold).mean())
    return np.mean(losses)


def straightforward_epoch(examples, layer, weights, batches):
    """Train one distance probe for one epoch as published, with autograd over (batch, n, n, rank).

    Returns the mean of the losses, each computed before its step.
    """
    weights = torch.tensor(weights).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=1e-3)
    total = 0.0
    for sentences in batches:
        vectors = torch.from_numpy(examples.vectors.padded(sentences, [layer]))[0]
        gold = examples.gold(sentences)
        inside = torch.from_numpy(gold.lengths)[:, None] > torch.arange(vectors.shape[1])
        projected = vectors @ weights
        distances = (projected.unsqueeze(2) - projected.unsqueeze(1)).pow(2).sum(-1)
        off = (distances - torch.from_numpy(gold.distances)).abs() * (inside.unsqueeze(1) & inside.unsqueeze(2))
        loss = (off.sum(dim=(1, 2)) / torch.from_numpy(gold.lengths) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(sentences)
    return total / sum(map(len, batches))


@pytest.mark.long
@pytest.mark.benchmark(group="one epoch of distance probes, 13 layers × 768, rank 64")
def bench_training_epoch(race):
    """Time one epoch against the published code, which draws its batches from sentences in random order.

    The reference losses of bertft come from the same autograd code, with the same initial weights and with the batches
    that bertft draws.
    """
    layers, width, rank = 13, 768, 64
    train, dev = (Examples(*training_sentences(count, layers, width)) for count in (400, 4))

    def trained(**options):
        recipe = Recipe(epochs=1, **options)
        return train_probes(train, dev, range(layers), ranks=[rank], kinds=["distance"], recipe=recipe)

    first = [probe.weights.numpy() for probe in trained(learning_rate=0.0)]
    order = np.random.default_rng(0).permutation(len(train.trees))
    shuffled = [order[start : start + 20] for start in range(0, len(order), 20)]
    drawn = train.shuffled(20, np.random.default_rng([0, 0]))
    truth = {layer: straightforward_epoch(train, layer, first[layer], drawn) for layer in (0, layers - 1)}
    name = "one probe at a time over (batch, n, n, rank)"

    def check(contestant, losses):
        """Return the largest relative error. Losses over other batches agree only approximately."""
        return max(abs(losses[layer] / loss - 1) for layer, loss in truth.items())

    race(
        lambda: [probe.train_losses[0] for probe in trained()],
        {name: lambda: [straightforward_epoch(train, layer, first[layer], shuffled) for layer in range(layers)]},
        check,
        tolerances={"bertft": 1e-4, name: 0.15},
        rounds=3,
        costs={"bertft": costs.distance_probes(train.lengths, layers, width, rank)},
        goals={name: ("at least", 10)},
    )


@pytest.mark.long
@pytest.mark.benchmark(group="training probes on 12,544 sentences × 7 layers of 384")
def bench_training_memory(race, tmp_path):
    """Measure the peak memory of training above the base process.

    Probes of both kinds, of rank 64, train for one epoch from vectors on disk, stored as in the cache. The loss of the
    trained weights on 200 other sentences is checked against NumPy in float64. It must be below the loss of untrained
    weights.
    """
    ours = OwnProcess(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bench_probes import *
train, dev = (training_sentences(count, 7, 384, {str(tmp_path)!r}) for count in (12544, 200))
""",
        """
examples = Examples(*train), Examples(*dev)
probes = train_probes(*examples, range(7), ranks=[64], recipe=Recipe(epochs=1))
""",
        "answer = dev_loss_error(probes, *dev)",
    )
    race(
        ours,
        {},
        lambda name, error: error,
        tolerances={"bertft": 1e-4},
        rounds=3,
        warm_up=lambda: None,
        goals={"memory, MiB": ("at most", 1536)},
        memory=ours.memory,
    )


def dev_loss_error(probes, trees, vectors):
    """Return the largest relative error of the reported development losses, recomputed from the weights."""
    largest = 0.0
    untrained = np.random.default_rng(0).uniform(-0.05, 0.05, probes[0].weights.shape)
    for probe in probes:
        found = float64_loss(probe.kind, probe.layer, probe.weights.double().numpy(), trees, vectors)
        assert found < float64_loss(probe.kind, probe.layer, untrained, trees, vectors)
        largest = max(largest, abs(probe.dev_loss / found - 1))
    return largest
