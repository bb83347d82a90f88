"""How much syntax each layer of a checkpoint encodes: models and a treebank in; rows of numbers and drawn trees out.

The word vectors of every split are computed once, into a cache, and the probes are trained on the vectors alone.
The rows include baselines to compare the numbers with: a chain in which each word depends on the previous one, a random
tree, and randomly initialised models of the same shapes, whose vectors are probed like those of the others. Layer 0,
the embeddings, is a baseline that is always among the rows.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertft.activations.vectors import word_vectors
from bertft.checkpoints.anatomy import n_layers, parse_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data.treebank import Tree, Treebank, read_treebank
from bertft.errors import DataError, UndefinedWarning
from bertft.experiments.inputs import Computation, ProbedModel, ProbingInputs, Source, notes_on
from bertft.experiments.results import Drawing, Layout, Report, Results, reported_rows
from bertft.experiments.run import Run
from bertft.options import integer, integers, one_of
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
from bertft.progress import Feedback, Progress, Say
from bertft.records import Row, as_float

CHAIN, RANDOM_TREE = "left-to-right chain", "random tree"
BASELINE_BATCH = 64
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
class StructuralResults(Results):
    """What `probe_structural` returns.

    rows: one for each model, layer, rank, split and measure.  run: the record of the run.  trees: the drawn trees.
    """

    trees: list[DrawnTree]

    layout: ClassVar[Layout] = Layout(
        ("model", "rank", "layer"), ("measure",), kept=reported_rows, error=lambda row: as_float(row.get("stderr"))
    )

    title: ClassVar[str] = "Structural probes"
    stem: ClassVar[str] = "probes"

    def report(self) -> Report:
        """Return figure 1 of the paper, the drawn trees, and a finding for each model and rank."""
        from bertft.report.structural import COLUMNS, figures, findings

        return Report(COLUMNS, figures(self.rows, self.run, self.trees), findings(self.rows, self.run))

    def drawing(self) -> Drawing:
        """Return UUAS by layer, a line for each model and rank; trees made without a model are level lines."""
        from bertft.report.drawing import Line
        from bertft.report.rows import shown_split
        from bertft.report.structural import curves, labels

        found = curves(self.rows)
        names = labels(found)
        layers = sorted({layer for curve in found for layer, _ in curve.points("uuas")}) or [0]
        lines = []
        for curve in found:
            points = curve.points("uuas")
            if not points and math.isfinite(value := curve.values["uuas"].get(None, math.nan)):
                points = [(layers[0], value), (layers[-1], value)]
            if points:
                x, y = zip(*points, strict=True)
                lines.append(Line(names[curve.model, curve.rank], curve.baseline, x, y))
        detail = f"{self.run['treebank']['name']}, {shown_split(self.rows)}; baselines dashed"
        return Drawing("Structural probes", detail, "Layer (0 = embeddings)", "UUAS", lines)


def probe_structural(
    models: Source | Sequence[Source],
    treebank: str | os.PathLike[str] | Treebank,
    *,
    layers: str | int | Iterable[int] = "all",
    ranks: int | Sequence[int] = (64,),
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
) -> StructuralResults:
    """Train distance and depth probes on each layer of each model, and evaluate them and the baselines on dev and test.

    models: folders, hub names, or loaded `Checkpoint`s, one or several.
    treebank: a folder of `*-ud-train.conllu`, `*-ud-dev.conllu` and, if there is one, `*-ud-test.conllu`, or a
        `Treebank` of these splits.
    layers: "all", a number, several, or a text such as "0,3-5,-1"; 0 is the output of the embeddings.
    ranks: of the probes, one or several; a probe is trained for each.
    preset: the conventions of training and evaluation, `paper` or `today`.
    epochs: the most epochs; by default those of the preset.
    seed: of the weights of the probes, the order of the batches and the draw of sentences.
    random_seeds: how many randomly initialised models of each model's shape to probe as baselines.
    sentences: how many training sentences to draw; "all" or None takes every one.
    pooling, cache, cache_dtype, batch_tokens: see `word_vectors`.
    device, dtype, allow_pickle: see `bertft.score`.
    progress: called as progress(done, total, what).  say: called with lines of text for the user.

    Raises `DataError` for a treebank that cannot be read or lacks a split, `OptionError` for an option out of range,
    `CheckpointError` for a model that cannot be loaded, and `BertftError` if the cache cannot be written.

    >>> found = probe_structural("bert-base-cased", "UD_English-EWT")  # doctest: +SKIP
    >>> [row for row in found.rows if row["measure"] == "uuas" and row["split"] == "test"]  # doctest: +SKIP

    Source: Hewitt and Manning 2019; for preset `today`, Hall Maudslay et al. 2020.
    """
    run = Run(Feedback(progress, say))
    given = ProbingInputs.checked(
        models,
        Computation(device, dtype, batch_tokens, allow_pickle),
        random_seeds=random_seeds,
        sentences=sentences,
        cache=cache,
        cache_dtype=cache_dtype,
    )
    options = StructuralOptions(
        ranks=integers("rank", ranks, least=1),
        preset=preset,
        recipe=_recipe(preset, epochs),
        seed=integer("seed", seed, least=0),
        pooling=pooling,
    )
    with run.clock.phase("read"):
        bank = treebank if isinstance(treebank, Treebank) else read_treebank(Path(treebank))
        splits = _splits(bank, given.sentences, options.seed)
    with run.clock.phase("load"):
        probed = given.load()
    run.notes += notes_on(probed.checkpoints)
    layers_of = {model.name: parse_layers(layers, n_layers(model.model)) for model in probed.checkpoints}
    probing = _Probing(splits, layers_of, options, given, run)
    for model in probed:
        probing.probe(model)
    run.notes += [f"{name} is {same}, of the same shape, and was not trained again" for name, same in probed.skipped]
    record = run.record(
        {**options.record(), "layers": layers_of, **given.record(probed)},
        seed=options.seed,
        checkpoints=probed.hashes,
        treebank={"name": bank.name, "content_hash": bank.content_hash},
        sentences={split: len(trees) for split, trees in splits.items()},
        words={split: sum(map(len, trees)) for split, trees in splits.items()},
        training=probing.history,
    )
    return StructuralResults(probing.rows, record, probing.trees)


@dataclass(frozen=True)
class StructuralOptions:
    """How probes are trained and evaluated."""

    ranks: tuple[int, ...]
    preset: str
    recipe: Recipe
    seed: int
    pooling: str

    def record(self) -> dict[str, Any]:
        """Return the options for the record of the run."""
        return {
            "ranks": self.ranks,
            "preset": self.preset,
            "recipe": dataclasses.asdict(self.recipe),
            "batches": "sentences of similar length together, in an order drawn anew for each epoch",
            "pooling": self.pooling,
        }


@dataclass
class _Probing:
    """The probing of one model after another; the results are collected in `rows`, `trees` and `history`."""

    splits: Mapping[str, tuple[Tree, ...]]
    layers_of: Mapping[str, tuple[int, ...]]
    options: StructuralOptions
    given: ProbingInputs
    run: Run
    rows: list[Row] = field(default_factory=list)
    trees: list[DrawnTree] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows += _tree_baselines(self.splits, self.options.preset, self.options.seed)
        self.run.notes += _notes(self.splits, self.options.preset)

    def probe(self, model: ProbedModel) -> None:
        """Train and evaluate the probes of a model."""
        options, device = self.options, model.checkpoint.model.device
        examples = self._examples(model)
        with self.run.clock.phase("training"):
            probes = train_probes(
                examples["train"],
                examples["dev"],
                self.layers_of[model.shape],
                ranks=options.ranks,
                recipe=options.recipe,
                seed=options.seed,
                device=device,
                progress=self.run.feedback.phase(f"probes of {model.name}"),
            )
        self.history += [_history(model.name, probe) for probe in probes]
        with self.run.clock.phase("evaluation"):
            for split in [split for split in examples if split != "train"]:
                found = evaluate_probes(probes, examples[split], options.preset, device=device)
                for probe, result in zip(probes, found, strict=True):
                    what = _what(model.name, model.is_baseline, split, layer=probe.layer, rank=probe.rank)
                    self.rows += _rows(what, result)
            if not model.is_baseline:
                last = "test" if "test" in examples else "dev"
                self.trees += _drawn(model.checkpoint, probes, examples[last], self.rows, options.preset)

    def _examples(self, model: ProbedModel) -> dict[str, Examples]:
        """Return the trees of each split with the vectors of their words."""
        examples: dict[str, Examples] = {}
        for split, trees in self.splits.items():
            with self.run.clock.phase("vectors"):
                vectors = word_vectors(
                    model.checkpoint,
                    [tree.forms for tree in trees],
                    layers=self.layers_of[model.shape],
                    pooling=self.options.pooling,
                    **self.given.vector_options(self.run.feedback),
                )
            if not model.is_baseline:
                self.run.notes += [f"{model.name}, {split}: {note}" for note in vectors.notes]
            examples[split] = Examples(trees, vectors)
        return examples


def best_layers(rows: Sequence[Row], measure: str) -> dict[tuple[str, int], int]:
    """Return for each model and rank, baselines included, the layer with the highest value on the development set.

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
    recipe = RECIPES[one_of("preset", preset, RECIPES)]
    return recipe if epochs is None else dataclasses.replace(recipe, epochs=integer("epochs", epochs, least=1))


def _splits(bank: Treebank, sentences: int | None, seed: int) -> dict[str, tuple[Tree, ...]]:
    """Return the splits that have sentences; of the training set so many are drawn, and kept in file order."""
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
        splits["train"] = tuple(train[index] for index in np.sort(chosen))
    return splits


def _notes(splits: Mapping[str, tuple[Tree, ...]], preset: str) -> list[str]:
    if preset == "paper" and all(tag == "_" for trees in splits.values() for tree in trees for tag in tree.xpos):
        return ["the treebank has no XPOS tags, by which the preset paper finds punctuation, so none was left out"]
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


def _tree_baselines(splits: Mapping[str, tuple[Tree, ...]], preset: str, seed: int) -> Iterator[Row]:
    """Yield the rows of the trees that no model predicts, over all sentences of dev and test."""
    rng = np.random.default_rng(seed)
    baselines: dict[str, Callable[[int], tuple[int, ...]]] = {CHAIN: _chain, RANDOM_TREE: lambda n: _random(n, rng)}
    for name, heads in baselines.items():
        for split in [split for split in splits if split != "train"]:
            by_length = sorted(splits[split], key=len)
            results: dict[Kind, Evaluation] = {}
            for first in range(0, len(by_length), BASELINE_BATCH):
                gold = pad_trees(by_length[first : first + BASELINE_BATCH])
                guessed = pad_trees([dataclasses.replace(tree, heads=heads(len(tree))) for tree in gold.trees])
                for kind, values in zip(KINDS, (guessed.distances, guessed.depths), strict=True):
                    found = evaluate_batch(kind, values, gold, preset)
                    results[kind] = results[kind].merge(found) if kind in results else found  # type: ignore[arg-type]
            for result in results.values():
                yield from _rows(_what(name, True, split, layer=None, rank=None), result)


def _chain(n: int) -> tuple[int, ...]:
    """Return the heads of a tree in which each word depends on the previous one."""
    return tuple(range(n))


def _random(n: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the heads of a tree in which each word, in random order, depends on a random earlier one."""
    order = rng.permutation(n)
    heads = np.zeros(n, dtype=np.int64)
    heads[order[1:]] = 1 + order[(rng.random(n - 1) * np.arange(1, n)).astype(np.int64)]
    return tuple(heads.tolist())


def _what(model: str, baseline: bool, split: str, *, layer: int | None, rank: int | None) -> Row:
    return {"model": model, "baseline": baseline, "layer": layer, "rank": rank, "split": split}


def _rows(what: Row, result: Evaluation) -> Iterator[Row]:
    """Yield the rows of an evaluation; `what` says of which model, layer, rank and split."""
    with warnings.catch_warnings():
        # The value is nan for a split without sentences of 5 words or more; a warning adds nothing.
        warnings.simplefilter("ignore", UndefinedWarning)
        if isinstance(result, DistanceEvaluation):
            kind, second = "distance", ("uuas", result.uuas, result.uuas_stderr, result.gold_edges)
        else:
            accuracy, stderr = result.root_accuracy, result.root_accuracy_stderr
            kind, second = "depth", ("root_accuracy", accuracy, stderr, result.sentences)
        ranked = sum(result.spearman_counts.values())
        first = (f"{kind}_spearman", result.spearman, result.spearman_stderr, ranked)
    for measure, value, stderr, counted in (first, second):
        yield {**what, "measure": measure, "value": value, "stderr": stderr, "count": counted}


def _drawn(
    checkpoint: Checkpoint, probes: Sequence[Probe], examples: Examples, rows: Sequence[Row], preset: str
) -> list[DrawnTree]:
    """Return the first sentences of suitable length, with trees predicted from the layer of the best UUAS on dev."""
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
