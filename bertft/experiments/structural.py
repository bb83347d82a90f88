"""How much syntax each layer of a checkpoint holds: models and a treebank in; rows of numbers and drawn trees out.

The word vectors of every split are computed once, into a cache, and the probes are trained on the vectors alone.
Beside the checkpoints stand floors, without which a number means little: each word hanging from the one before it, a
random tree, and a model of the same shape with random weights, on whose vectors probes are trained as on any other.
The embedding layer, layer 0, is a floor that the run holds anyway.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft.activations.vectors import word_vectors
from bertft.checkpoints.anatomy import n_layers, parse_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data.treebank import Tree, Treebank, read_treebank
from bertft.errors import DataError, OptionError, UndefinedWarning
from bertft.experiments.inputs import Source, loaded, with_random
from bertft.experiments.run import Clock, versions
from bertft.options import count, integer
from bertft.probes.structural.examples import Examples, pad_trees
from bertft.probes.structural.prediction import evaluate_batch, evaluate_probes, predict, spanning_edges
from bertft.probes.structural.training import (
    KINDS,
    RECIPES,
    DistanceEvaluation,
    Evaluation,
    Kind,
    Probe,
    Recipe,
    train_probes,
)
from bertft.progress import Progress, Say, named
from bertft.records import Row

CHAIN, RANDOM_TREE = "left-to-right chain", "random tree"
FLOOR_BATCH = 64
DRAWN, DRAWN_WORDS = 4, range(6, 15)
"""How many sentences are drawn with their trees, and how many words they have."""


@dataclass(frozen=True)
class DrawnTree:
    """A sentence with the edges of its gold tree and of the tree predicted from `layer`, as pairs of words from 0."""

    model: str
    layer: int
    sentence_id: str
    forms: tuple[str, ...]
    gold: tuple[tuple[int, int], ...]
    predicted: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Probed:
    """What `probe_structural` found: one row for each model, layer, rank, split and measure, the run, drawn trees."""

    rows: list[Row]
    run: dict[str, Any]
    trees: list[DrawnTree]


def probe_structural(
    models: Source | Sequence[Source],
    treebank: str | os.PathLike[str] | Treebank,
    *,
    layers: str | int | Iterable[int] = "all",
    ranks: Sequence[int] = (64,),
    preset: str = "paper",
    epochs: int | None = None,
    seed: int = 0,
    random_seeds: int = 1,
    sentences: int | str | None = None,
    pooling: str = "mean",
    cache: str | os.PathLike[str] | None = None,
    cache_dtype: str = "float16",
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Probed:
    """Train distance and depth probes on each layer of each model, and evaluate them and the floors on dev and test.

    models: folders, hub names, or loaded `Checkpoint`s.  treebank: a folder of `*-ud-train.conllu`, `*-ud-dev.conllu`
        and, if there is one, `*-ud-test.conllu`, or a `Treebank` of these splits.
    layers: "all", a number, several, or a text such as "0,3-5,-1".  ranks: of the probes, each trained.
    preset: `paper` or `today`, of training and evaluation both; epochs: at most so many instead of the preset's.
    random_seeds: so many random models of each model's shape.  sentences: at most so many of the training set, drawn.
    pooling, cache, cache_dtype, batch_tokens: see `word_vectors`.
    progress: called as progress(done, total, what).  say: called with lines for people.

    Raises `DataError` for a treebank that cannot be read or lacks a split, `OptionError` for an option out of range,
    `CheckpointError` for a model that cannot be read, `BertftError` where the cache cannot be written.

    >>> found = probe_structural("bert-base-cased", "UD_English-EWT")  # doctest: +SKIP
    >>> [row for row in found.rows if row["measure"] == "uuas" and row["split"] == "test"]  # doctest: +SKIP

    Source: Hewitt and Manning 2019; for preset `today`, Hall Maudslay et al. 2020.
    """
    clock = Clock()
    recipe = _recipe(preset, epochs)
    seed = integer("seed", seed, least=0)
    random_seeds = integer("random_seeds", random_seeds, least=0)
    sentences = count("sentences", sentences, least=1)
    ranks = tuple(dict.fromkeys(integer("rank", rank, least=1) for rank in ranks))
    sources = [models] if isinstance(models, str | os.PathLike | Checkpoint) else list(models)
    if not sources or not ranks:
        raise OptionError(f"{len(sources)} models and {len(ranks)} ranks were given; give at least one of each")
    with clock.phase("read"):
        bank = treebank if isinstance(treebank, Treebank) else read_treebank(Path(treebank))
        splits = _splits(bank, sentences, seed)
    with clock.phase("load"):
        checkpoints = loaded(sources, device=device, dtype=dtype, allow_pickle=allow_pickle)
    wanted = {checkpoint.name: parse_layers(layers, n_layers(checkpoint.model)) for checkpoint in checkpoints}

    rows = list(_floors(splits, preset, seed))
    drawn: list[DrawnTree] = []
    notes = _notes(splits, preset)
    hashes: dict[str, str] = {}
    history: list[dict[str, Any]] = []
    seen: dict[tuple[str, tuple[int, ...]], str] = {}
    for name, floor, checkpoint in with_random(checkpoints, random_seeds):
        key = (checkpoint.content_hash, wanted[name])
        if floor and key in seen:
            notes.append(f"{checkpoint.name} is {seen[key]}, of the same shape, and was not trained again")
            continue
        seen[key] = checkpoint.name
        hashes[checkpoint.name] = checkpoint.content_hash
        examples: dict[str, Examples] = {}
        for split, trees in splits.items():
            with clock.phase("vectors"):
                vectors = word_vectors(
                    checkpoint,
                    [tree.forms for tree in trees],
                    layers=wanted[name],
                    pooling=pooling,
                    dtype=cache_dtype,
                    cache=None if cache is None else Path(cache),
                    batch_tokens=batch_tokens,
                    progress=progress,
                    say=say,
                )
            if not floor:
                notes += [f"{checkpoint.name}, {split}: {note}" for note in vectors.notes]
            examples[split] = Examples(trees, vectors)
        with clock.phase("training"):
            probes = train_probes(
                examples["train"],
                examples["dev"],
                wanted[name],
                ranks=ranks,
                recipe=recipe,
                seed=seed,
                device=checkpoint.model.device,
                progress=named(progress, f"probes of {checkpoint.name}"),
            )
        history += [_history(checkpoint.name, probe) for probe in probes]
        with clock.phase("evaluation"):
            for split in splits:
                if split != "train":
                    found = evaluate_probes(probes, examples[split], preset, device=checkpoint.model.device)
                    for probe, result in zip(probes, found, strict=True):
                        rows += _rows(checkpoint.name, floor, split, result, layer=probe.layer, rank=probe.rank)
            if not floor:
                last = "test" if "test" in examples else "dev"
                drawn += _drawn(checkpoint, probes, examples[last], rows, preset)
    run = {
        "versions": versions(),
        "seed": seed,
        "options": {
            "layers": wanted,
            "ranks": ranks,
            "preset": preset,
            "recipe": dataclasses.asdict(recipe),
            "batches": "sentences of like length together, in an order drawn anew each epoch",
            "random_seeds": random_seeds,
            "sentences": sentences or "all",
            "pooling": pooling,
            "cache_dtype": cache_dtype,
            "dtype": dtype,
            "device": str(checkpoints[0].model.device),
        },
        "checkpoints": hashes,
        "treebank": {"name": bank.name, "content_hash": bank.content_hash},
        "sentences": {split: len(trees) for split, trees in splits.items()},
        "words": {split: sum(map(len, trees)) for split, trees in splits.items()},
        "notes": notes,
        "training": history,
        "timings": clock.timings(),
    }
    return Probed(rows, run, drawn)


def best_layers(rows: Sequence[Row], measure: str) -> dict[tuple[str, int], int]:
    """For each model and rank the layer whose value on the development set is highest; floors have one too.

    >>> best_layers([{"model": "m", "rank": 2, "layer": 1, "split": "dev", "measure": "uuas", "value": 0.5}], "uuas")
    {('m', 2): 1}
    """
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row["measure"] == measure and row["split"] == "dev" and row["layer"] is not None:
            key = (row["model"], row["rank"])
            if math.isfinite(row["value"]) and (key not in best or row["value"] > best[key]["value"]):
                best[key] = row
    return {key: row["layer"] for key, row in best.items()}


def _recipe(preset: str, epochs: int | None) -> Recipe:
    if preset not in RECIPES:
        raise OptionError(f"unknown preset {preset!r}; choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[preset]
    return recipe if epochs is None else dataclasses.replace(recipe, epochs=integer("epochs", epochs, least=1))


def _splits(bank: Treebank, sentences: int | None, seed: int) -> dict[str, tuple[Tree, ...]]:
    """The splits to use, those of no sentence refused; of the training set so many sentences, in file order."""
    missing = [split for split in ("train", "dev") if not bank.splits.get(split)]
    if missing:
        raise DataError(
            f"{bank.name}: no sentences for {' and '.join(missing)}; give a folder that holds files named "
            "*-ud-train.conllu and *-ud-dev.conllu, and *-ud-test.conllu if there is one"
        )
    splits = {split: trees for split in ("train", "dev", "test") if (trees := bank.splits.get(split))}
    train = splits["train"]
    if sentences is not None and sentences < len(train):
        chosen = np.random.default_rng(seed).choice(len(train), sentences, replace=False)
        splits["train"] = tuple(train[place] for place in np.sort(chosen))
    return splits


def _notes(splits: dict[str, tuple[Tree, ...]], preset: str) -> list[str]:
    if preset == "paper" and all(tag == "_" for trees in splits.values() for tree in trees for tag in tree.xpos):
        return ["the treebank has no XPOS tags, by which preset paper knows punctuation, so none was left out"]
    return []


def _history(model: str, probe: Probe) -> dict[str, Any]:
    return {
        "model": model,
        "probe": probe.kind,
        "layer": probe.layer,
        "rank": probe.rank,
        "best_epoch": probe.best_epoch + 1,
        "epochs": len(probe.dev_losses),
        "dev_loss": probe.dev_loss,
        "dev_losses": probe.dev_losses,
        "train_losses": probe.train_losses,
        "learning_rates": probe.learning_rates,
    }


def _floors(splits: dict[str, tuple[Tree, ...]], preset: str, seed: int) -> Iterator[Row]:
    """The rows of trees that no model made, over all sentences of dev and test."""
    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[int], tuple[int, ...]]] = {CHAIN: _chain, RANDOM_TREE: lambda n: _random(n, rng)}
    for name, made in makers.items():
        for split in [split for split in splits if split != "train"]:
            by_length = sorted(splits[split], key=len)
            results: dict[Kind, Evaluation] = {}
            for first in range(0, len(by_length), FLOOR_BATCH):
                gold = pad_trees(by_length[first : first + FLOOR_BATCH])
                guessed = pad_trees([dataclasses.replace(tree, heads=made(len(tree))) for tree in gold.trees])
                for kind, values in zip(KINDS, (guessed.distances, guessed.depths), strict=True):
                    found = evaluate_batch(kind, values, gold, preset)
                    results[kind] = results[kind].merge(found) if kind in results else found  # type: ignore[arg-type]
            for result in results.values():
                yield from _rows(name, True, split, result, layer=None, rank=None)


def _chain(n: int) -> tuple[int, ...]:
    """Heads of a tree where each word hangs from the one before it."""
    return tuple(range(n))


def _random(n: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Heads of a tree where each word, in random order, hangs from one of those before it."""
    order = rng.permutation(n)
    heads = np.zeros(n, dtype=np.int64)
    heads[order[1:]] = 1 + order[(rng.random(n - 1) * np.arange(1, n)).astype(np.int64)]
    return tuple(heads.tolist())


def _rows(
    model: str, floor: bool, split: str, result: Evaluation, *, layer: int | None, rank: int | None
) -> Iterator[Row]:
    with warnings.catch_warnings():
        # nan says it: of a split without sentences of 5 words or more.
        warnings.simplefilter("ignore", UndefinedWarning)
        if isinstance(result, DistanceEvaluation):
            values = {"distance_spearman": result.spearman, "uuas": result.uuas}
        else:
            values = {"depth_spearman": result.spearman, "root_accuracy": result.root_accuracy}
    rows_ranked = sum(result.spearman_counts.values())
    for measure, value in values.items():
        if measure == "uuas" and isinstance(result, DistanceEvaluation):
            counted = result.gold_edges
        else:
            counted = getattr(result, "sentences", 0) if measure == "root_accuracy" else rows_ranked
        yield {
            "model": model,
            "baseline": floor,
            "layer": layer,
            "rank": rank,
            "split": split,
            "measure": measure,
            "value": value,
            "count": counted,
        }


def _drawn(
    checkpoint: Checkpoint, probes: Sequence[Probe], examples: Examples, rows: Sequence[Row], preset: str
) -> list[DrawnTree]:
    """The first sentences of a handy length, with the trees predicted from the layer of the best UUAS on dev."""
    best = best_layers(rows, "uuas")
    rank = max(probe.rank for probe in probes)
    layer = best.get((checkpoint.name, rank))
    chosen = [sentence for sentence in examples.vectors.kept if examples.lengths[sentence] in DRAWN_WORDS][:DRAWN]
    if layer is None or not chosen:
        return []
    probe = next(p for p in probes if (p.kind, p.layer, p.rank) == ("distance", layer, rank))
    drawn = []
    plan = [np.array([sentence]) for sentence in chosen]
    for gold, (distances,) in predict([probe], examples, plan, device=checkpoint.model.device):
        tree = gold.trees[0]
        drawn.append(
            DrawnTree(
                model=checkpoint.name,
                layer=layer,
                sentence_id=tree.sentence_id,
                forms=tree.forms,
                gold=tuple((word, head - 1) for word, head in enumerate(tree.heads) if head),
                predicted=spanning_edges(distances, gold, preset)[0],
            )
        )
    return drawn
