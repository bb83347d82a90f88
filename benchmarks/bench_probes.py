"""Structural probes, evaluated on one core and trained, against the way they are published; the answers are checked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from memory import peak_memory
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import spearmanr

from bertft import kernels
from bertft.data.treebank import Tree
from bertft.kernels import reference
from bertft.probes import evaluate_depths, evaluate_distances
from bertft.probes.structural.examples import Examples
from bertft.probes.structural.training import Recipe, train_probes

WIDTH = 40


@pytest.fixture
def one_core():
    """Everything timed, our threads included, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


def treebank(each, dtype=np.float32, seed=0):
    """`each` random trees of every length from 5 to 40: noisy and gold distances, likewise depths, lengths, masks."""
    rng = np.random.default_rng(seed)
    lengths = np.tile(np.arange(5, WIDTH + 1), each)
    gold, depths = np.zeros((len(lengths), WIDTH, WIDTH), dtype), np.zeros((len(lengths), WIDTH), dtype)
    for distances, depth, n in zip(gold, depths, lengths, strict=True):
        for word in range(1, n):  # hung from one of the last few words, then shuffled below
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
    """SciPy's Spearman a word and Kruskal in Python over all cells, sentence by sentence: Spearman by length, UUAS.

    Given tensors, as the published code is, most of the time goes into sorting cells that are tensors themselves; given
    arrays the cells are turned into plain numbers first, which is as fast as this way gets.
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
    """Union and find over the cells in order of distance; ties by row, then column, for sorting is stable."""
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.benchmark(group="distance evaluation, 5 to 40 words, one core")
def bench_distances(race, one_core, dtype):
    predicted, gold, _, _, lengths, keep = treebank(12, dtype)

    def ours():
        found = evaluate_distances(predicted, gold, lengths, keep)
        return found.spearman, found.uuas

    tensors = torch.from_numpy(predicted), torch.from_numpy(gold)
    truth = published_distances(predicted, gold, lengths, keep)

    def check(name, answer):
        assert answer[0] == pytest.approx(truth[0], abs=1e-9), name
        assert answer[1] == truth[1], name

    rivals = {
        "the published way": lambda: published_distances(*tensors, lengths, keep),
        "the published way over plain numbers": lambda: published_distances(predicted, gold, lengths, keep),
    }
    race(ours, rivals, check, rounds=5, pause=0, goals={"the published way": ("at least", 1000)})


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

    truth = published()

    def check(name, answer):
        assert answer == pytest.approx(truth, abs=1e-9), name

    race(ours, {"scipy and Python": published}, check, rounds=9, pause=0)


@pytest.mark.benchmark(group="spanning trees alone, 5 to 40 words, one core")
def bench_trees(race, one_core):
    distances, _, _, _, lengths, keep = treebank(20)
    lengths = lengths.astype(np.int64)
    ops = kernels.select("cpu")
    kept = [np.ix_(words, words) for words in (np.flatnonzero(row[:n]) for row, n in zip(keep, lengths, strict=True))]
    dense = [side[cells] for side, cells in zip(distances, kept, strict=True)]
    parents = reference.spanning_trees(distances, lengths, keep)
    # Distances that do not tie have one tree, so its weight tells whether it was found.
    weight = sum(
        side[row >= 0, row[row >= 0]].sum(dtype=np.float64) for side, row in zip(distances, parents, strict=True)
    )

    def check(name, answer):
        if name == "bertft":
            np.testing.assert_array_equal(answer, parents)
        else:
            assert sum(tree.data.sum(dtype=np.float64) for tree in answer) == pytest.approx(weight, rel=1e-6), name

    race(
        lambda: ops.spanning_trees(distances, lengths, keep),
        {"scipy csgraph": lambda: [minimum_spanning_tree(side) for side in dense]},
        check,
        rounds=19,
        pause=0,
        goals={"scipy csgraph": ("at least", 50)},
    )


class InMemory:
    """Vectors of sentences by layer, as the cache gives them, (layers, words, d) float16, with the tree of each."""

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
    """The same read from files a sentence at a time, as the cache does."""

    def __init__(self, lengths, layers, width, folder):
        super().__init__(lengths, 0, width)
        rng = np.random.default_rng(0)
        self.files = [Path(folder) / f"{len(lengths)}-{layer}" for layer in range(layers)]
        for path in self.files:
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
    """Sentences whose lengths spread as those of English web text, each a tree grown from random words."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(1.6, 10.2, count).astype(int), 1, 90)
    trees = []
    for n in lengths:
        heads = (0, *(int(rng.integers(max(1, word - 5), word + 1)) for word in range(1, n)))
        trees.append(Tree("s", "s:1", ("w",) * n, ("X",) * n, ("X",) * n, heads, ("dep",) * n))
    vectors = InMemory(lengths, layers, width) if folder is None else OnDisk(lengths, layers, width, folder)
    return Examples(tuple(trees), vectors)


def straightforward_epoch(examples, layer, width, rank, seed):
    """One distance probe for one epoch as published: shuffled batches of 20, autograd, (batch, n, n, rank)."""
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.uniform(-0.05, 0.05, (width, rank)).astype(np.float32)).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=1e-3)
    order, total = rng.permutation(len(examples.trees)), 0.0
    for first in range(0, len(order), 20):
        sentences = order[first : first + 20]
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
    return total / len(order)


@pytest.mark.long
@pytest.mark.benchmark(group="one epoch of distance probes, 13 layers × 768, rank 64")
def bench_training_epoch(race):
    layers, width, rank = 13, 768, 64
    train, dev = training_sentences(400, layers, width), training_sentences(4, layers, width)
    recipe = Recipe(epochs=1)

    def ours():
        probes = train_probes(train, dev, range(layers), ranks=[rank], kinds=["distance"], recipe=recipe)
        return [probe.train_losses[0] for probe in probes]

    def straightforward():
        return [straightforward_epoch(train, layer, width, rank, layer) for layer in range(layers)]

    def check(name, answer):
        # Weights and batches are drawn differently, so the losses agree in size and no further.
        assert answer == pytest.approx([np.mean(answer)] * layers, rel=0.1), name
        assert np.mean(answer) == pytest.approx(size, rel=0.15), name

    size = straightforward_epoch(train, 0, width, rank, 99)
    race(
        ours,
        {"a probe at a time over (batch, n, n, rank)": straightforward},
        check,
        rounds=3,
        goals={"a probe at a time over (batch, n, n, rank)": ("at least", 10)},
    )


@pytest.mark.long
@pytest.mark.benchmark(group="training probes on 12,544 sentences × 7 layers of 384")
def bench_training_memory(benchmark, tmp_path):
    """Both kinds at rank 64 for an epoch, from vectors on disk as the cache has them: memory over the base process."""
    setup = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import bench_probes
train, dev = (bench_probes.training_sentences(count, 7, 384, {str(tmp_path)!r}) for count in (12544, 200))
"""
    work = """
probes = bench_probes.train_probes(train, dev, range(7), ranks=[64], recipe=bench_probes.Recipe(epochs=1))
answer = max(probe.train_losses[0] for probe in probes)
"""
    memory = peak_memory(setup, work)
    assert 0 < memory["answer"] < 100
    benchmark.extra_info.update(memory=memory["over"], goals={"memory, MiB": ("at most", 1536)})
    benchmark.pedantic(lambda: None, rounds=1)
