"""Edge probing of checkpoints: what a sentence's annotation can be read off frozen vectors, task by task.

    tasks ─► groups on one text ─► vectors of pieces, cached ─► probes of all tasks and inputs ─► rows

Every model, and every floor (random weights, embeddings alone), goes the same way.  A group of tasks on one text is run
through a model once, and its probes, of all tasks, inputs and seeds, are trained in one pass an epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft.activations.vectors import CachedPieces, piece_vectors
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data.edge import EdgeCorpus
from bertft.edge_tasks import TaskGroup, group_tasks
from bertft.errors import OptionError
from bertft.options import count, integer
from bertft.probes.edge import EdgeJob, EdgeProbe, EdgeTask, Input, Recipe, predict_edges, recipe_of, train_edge_probes
from bertft.probes.edge_counts import EdgeCounts, count_cells, difference, intervals, reported_labels
from bertft.progress import Progress, Say, named
from bertft.records import Row, plain
from bertft.runs import Clock, KeptResults, Source, loaded, versions, with_random

TASKS = ("pos", "dep", "const", "ner", "srl", "coref", "spr", "rel")
"""The tasks of the paper."""

INPUTS = {"paper": ("mix",), "today": ("mix", "layers")}
"""What a preset probes where it is not said."""

KEPT = {"notes", "counts", "labels", "mixes", "training"}
"""What is kept of a model and a group of tasks."""

FORMAT = 1
"""Part of the name of every kept result: raised when results of an older bertft must not be used."""


@dataclass(frozen=True)
class EdgeProbed:
    """What `probe_edges` found: a row for each model, task, input, seed, split and measure, rows by label, the run."""

    rows: list[Row]
    labels: list[Row]
    run: dict[str, Any]


def probe_edges(
    models: Source | Sequence[Source],
    corpora: Sequence[EdgeCorpus],
    *,
    inputs: Sequence[str] = (),
    baselines: bool = False,
    random_seeds: int = 1,
    sentences: int | str | None = None,
    draw_seed: int = 0,
    seeds: Sequence[int] = (0,),
    preset: str = "paper",
    controls: bool | None = None,
    epochs: int | None = None,
    results: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_dtype: str = "float16",
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> EdgeProbed:
    """Train probes of some tasks on each model, and evaluate them on dev and test beside floors.

    models: folders, hub names, or loaded `Checkpoint`s; differences are to the first.  corpora: see `read_tasks`.
    inputs: `mix`, `top`, `lexical`, `cat`, `layer:K`, or `layers` for each of them; by default those of the preset.
    baselines: also the embeddings of the first model and, of each shape, `random_seeds` models of random weights.
    sentences: at most so many training sentences a task, drawn under `draw_seed`, which orders them too.
    seeds: of the probes; each is a probe of its own.  preset: `paper` or `today`.
    controls: whether control tasks are trained as well; by default those of preset `today` are.
    epochs: at most so many.  results: a folder that keeps what is done of a model and a group of tasks, and from which
        it is taken where nothing has changed.
    cache, cache_dtype, batch_tokens: see `piece_vectors`.
    progress: called as progress(done, total, what).  say: called with lines for people.

    Raises `DataError` for tasks that cannot be probed, `OptionError` for an option out of range, `CheckpointError` for
    a model that cannot be read, `BertftError` where the cache cannot be written.

    >>> tasks = read_tasks(["pos", "ner"], "edge", "UD_English-EWT")  # doctest: +SKIP
    >>> found = probe_edges(["bert-base-cased", "runs/mnli"], tasks, sentences=2000)  # doctest: +SKIP

    Source: Tenney et al. 2019; for preset `today`, Hewitt and Liang 2019 and Fayyaz et al. 2021.
    """
    clock = Clock()
    say = say or (lambda _line: None)
    seeds = tuple(dict.fromkeys(integer("seed", seed, least=0) for seed in seeds))
    random_seeds = integer("random_seeds", random_seeds, least=0)
    draw_seed = integer("draw_seed", draw_seed, least=0)
    sentences = count("sentences", sentences, least=1)
    recipes = {corpus.name: _recipe(preset, corpus.name, epochs) for corpus in corpora}
    sources = [models] if isinstance(models, str | os.PathLike | Checkpoint) else list(models)
    if not sources or not corpora or not seeds:
        raise OptionError(
            f"{len(sources)} models, {len(corpora)} tasks and {len(seeds)} seeds were given; give at least one of each"
        )
    with clock.phase("read"):
        groups = group_tasks(corpora, sentences, draw_seed)
    with clock.phase("load"):
        checkpoints = loaded(sources, device=device, dtype=dtype, allow_pickle=allow_pickle)
    wanted = inputs or INPUTS[preset]
    read = {checkpoint.name: input_names(wanted, n_layers(checkpoint.model)) for checkpoint in checkpoints}
    plan = _Plan(recipes, seeds, draw_seed, preset == "today" if controls is None else controls)
    kept = None if results is None else KeptResults(Path(results), KEPT)

    found: list[_Found] = []
    notes: list[str] = []
    hashes: dict[str, str] = {}
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    for name, floor, checkpoint in with_random(checkpoints, random_seeds if baselines else 0):
        chosen = read[name]
        if floor and (checkpoint.content_hash, chosen) in seen:
            continue
        seen[checkpoint.content_hash, chosen] = checkpoint.name
        hashes[checkpoint.name] = checkpoint.content_hash
        alone = () if floor or not baselines or checkpoint is not checkpoints[0] else _lexical(chosen)
        for group in groups:
            with clock.phase("vectors"):
                states = piece_vectors(
                    checkpoint,
                    group.sentences,
                    layers=layers_read((*chosen, *alone), n_layers(checkpoint.model)),
                    dtype=cache_dtype,
                    cache=None if cache is None else Path(cache),
                    batch_tokens=batch_tokens,
                    progress=progress,
                    say=say,
                )
            key = plan.key(checkpoint, states, group, (*chosen, *alone))
            results_of_group = kept.find(key) if kept else None
            if kept and results_of_group:
                say(f"{checkpoint.name}: {group.name} taken from {kept.path(key)}; delete it to train again")
            else:
                with clock.phase("probes"):
                    results_of_group = plan.run(checkpoint, states, group, (*chosen, *alone), progress)
                if kept:
                    kept.keep(key, results_of_group)
            if not floor:
                notes += [f"{checkpoint.name}, {group.name}: {note}" for note in states.notes]
                notes += [f"{checkpoint.name}: {note}" for note in results_of_group["notes"]]
            found.append(_Found(checkpoint.name, floor, alone, results_of_group))
    rows = [row for part in found for row in part.rows()]
    with clock.phase("differences"):
        rows += _differences(found)
    run = {
        "versions": versions(),
        "options": {
            "tasks": [corpus.name for corpus in corpora],
            "inputs": read,
            "baselines": baselines,
            "random_seeds": random_seeds,
            "sentences": sentences or "all",
            "draw_seed": draw_seed,
            "seeds": seeds,
            "preset": preset,
            "controls": plan.control,
            "recipes": {name: dataclasses.asdict(recipe) for name, recipe in recipes.items()},
            "cache_dtype": cache_dtype,
            "dtype": dtype,
            "device": str(checkpoints[0].model.device),
        },
        "checkpoints": hashes,
        "data": {corpus.name: corpus.content_hash for corpus in corpora},
        "tasks": {name: _sizes(splits) for group in groups for name, splits in group.tasks.items()},
        "notes": notes,
        "mixes": [mix for part in found for mix in part.named("mixes")],
        "training": [history for part in found for history in part.named("training")],
        "timings": clock.timings(),
    }
    return EdgeProbed(rows, [row for part in found for row in part.named("labels")], run)


@dataclass(frozen=True)
class _Plan:
    """What is trained on the states of a group, and what is kept of it, as JSON knows it."""

    recipes: dict[str, Recipe]
    seeds: tuple[int, ...]
    order_seed: int
    control: bool

    def key(self, checkpoint: Checkpoint, states: CachedPieces, group: TaskGroup, inputs: Sequence[str]) -> str:
        """A hash of all that decides the results."""
        parts = [
            *(FORMAT, versions(), checkpoint.content_hash, str(checkpoint.model.dtype), str(states.dtype)),
            *(group.content_hash, list(inputs), self.seeds, self.order_seed, self.control),
            {name: dataclasses.asdict(self.recipes[name]) for name in group.tasks},
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def run(
        self,
        checkpoint: Checkpoint,
        states: CachedPieces,
        group: TaskGroup,
        inputs: Sequence[str],
        progress: Progress | None,
    ) -> dict[str, Any]:
        """Train and evaluate the probes of all tasks, inputs and seeds."""
        tasks, notes = group.over_pieces(states.ranges)
        kinds = {False: tasks}
        if self.control:
            kinds[True] = group.control().over_pieces(states.ranges)[0]
        plan = [
            (control, name, source, seed)
            for control, of_kind in kinds.items()
            for name in of_kind
            for source in inputs
            for seed in self.seeds
        ]
        jobs = [
            EdgeJob(kinds[control][name]["train"], kinds[control][name]["dev"], source, seed, self.recipes[name])
            for control, name, source, seed in plan
        ]
        probes = train_edge_probes(
            jobs,
            states,
            order_seed=self.order_seed,
            device=checkpoint.model.device,
            progress=named(progress, f"probes of {checkpoint.name}: {group.name}"),
        )
        norms = _norms(states)
        counted: list[dict[str, Any]] = []
        labels: list[Row] = []
        for control, of_kind in kinds.items():
            for name, splits in of_kind.items():
                own = [place for place, job in enumerate(plan) if job[:2] == (control, name)]
                for split in [split for split in splits if split != "train"]:
                    task = splits[split]
                    values_of = predict_edges([probes[i] for i in own], task, states, device=checkpoint.model.device)
                    for place, values in zip(own, values_of, strict=True):
                        what = {"task": name, "input": plan[place][2], "seed": plan[place][3], "split": split}
                        marked = values >= 0.5
                        counted += _counted({**what, "control": control}, marked, task)
                        if not control:
                            labels += _by_label(what, marked, task)
        found = {
            "notes": notes,
            "counts": counted,
            "labels": labels,
            "mixes": [
                _mix(name, seed, probe, norms)
                for (control, name, _, seed), probe in zip(plan, probes, strict=True)
                if probe.mix_weights and not control
            ],
            "training": [_history(control, probe) for (control, *_), probe in zip(plan, probes, strict=True)],
        }
        # What was just found reads as what was kept.
        return dict(json.loads(json.dumps(plain(found))))


@dataclass(frozen=True)
class _Found:
    """The results of a model and a group of tasks, under the model's name; `alone` are inputs that are floors."""

    model: str
    floor: bool
    alone: tuple[str, ...]
    results: dict[str, Any]

    def named(self, what: str) -> Iterator[Row]:
        """Some of the results as rows."""
        for row in self.results[what]:
            yield {"model": self.model, "floor": self.is_floor(row), **row}

    def is_floor(self, row: Row) -> bool:
        return self.floor or row["input"] in self.alone

    def counts(self) -> Iterator[tuple[Row, EdgeCounts]]:
        for row in self.named("counts"):
            counts = EdgeCounts(np.array(row.pop("sentences")), np.array(row.pop("cells")).reshape(-1, 3))
            yield row, counts

    def rows(self) -> Iterator[Row]:
        """Precision, recall and F1 with their intervals; of controls F1, and what the task's is above it."""
        controls: dict[tuple[Any, ...], float] = {}
        counted = list(self.counts())
        for row, counts in counted:
            if row["control"]:
                controls[_key(row)] = counts.measures["f1"]
        for row, counts in counted:
            if row.pop("control"):
                continue
            sizes = {"n_targets": row.pop("n_targets"), "n_sentences": len(counts.sentences)}
            halves, ranges = counts.reference_half, intervals(counts)
            for measure, value in counts.measures.items():
                low, high = ranges[measure]
                interval = {"value": value, "low": low, "high": high, "reference_half": halves[measure]}
                yield {**row, "measure": measure, **interval, **sizes}
            if (control := controls.get(_key(row))) is not None:
                for measure, value in (("control_f1", control), ("selectivity", counts.measures["f1"] - control)):
                    yield {**row, "measure": measure, "value": value, "low": None, "high": None, **sizes}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("task", "input", "seed", "split", "scoring"))


def _differences(found: Sequence[_Found]) -> Iterator[Row]:
    """How far the mean F1 over seeds is from the first model's, by the same input; floors of another from its first."""
    probes: dict[tuple[str, bool, str, str, str, str], list[EdgeCounts]] = {}
    for part in found:
        for row, counts in part.counts():
            if not row["control"]:
                key = (part.model, row["floor"], row["task"], row["input"], row["split"], row["scoring"])
                probes.setdefault(key, []).append(counts)
    base = next(iter(probes))[0]
    first = next(iter(probes))[3]
    for (model, floor, task, source, split, scoring), of_seed in probes.items():
        if model == base and not floor:
            continue
        own = probes.get((base, False, task, source, split, scoring))
        against = source if own else first
        of_base = own or probes[base, False, task, first, split, scoring]
        value, low, high = difference(of_base, of_seed)
        yield {
            "model": model,
            "floor": floor,
            "task": task,
            "input": source,
            "seed": None,
            "split": split,
            "scoring": scoring,
            "measure": "f1_difference",
            "value": value,
            "low": low,
            "high": high,
            "against": f"{base}, {against}",
            "n_sentences": len(of_seed[0].sentences),
        }


def _recipe(preset: str, task: str, epochs: int | None) -> Recipe:
    recipe = recipe_of(preset, task)
    return recipe if epochs is None else dataclasses.replace(recipe, max_epochs=integer("epochs", epochs, least=1))


def input_names(wanted: Sequence[str], depth: int) -> tuple[str, ...]:
    """The inputs for a model of so many blocks, `layers` spelled out."""
    names = [
        name
        for given in wanted
        for name in ([f"layer:{k}" for k in range(depth + 1)] if given == "layers" else [given])
    ]
    for name in names:
        Input.parse(name, range(depth + 1))
    return tuple(dict.fromkeys(names))


def _lexical(inputs: Sequence[str]) -> tuple[str, ...]:
    return () if "lexical" in inputs else ("lexical",)


def layers_read(inputs: Sequence[str], depth: int) -> list[int]:
    """The layers that some inputs read."""
    return sorted({layer for name in inputs for layer in Input.parse(name, range(depth + 1)).layers})


def _counted(what: Row, marked: NDArray[np.bool_], task: EdgeTask) -> Iterator[Row]:
    """Counts of all labels, and of those that Tenney et al. report where that is not all."""
    reported = reported_labels(task.name, task.labels)
    for scoring, labels in {"all": None, "reported": reported}.items():
        if scoring == "all" or labels is not None:
            counts = count_cells(marked, task, labels)
            yield {
                **what,
                "scoring": scoring,
                "n_targets": len(task),
                "sentences": counts.sentences.tolist(),
                "cells": counts.cells.ravel().tolist(),
            }


def _by_label(what: Row, marked: NDArray[np.bool_], task: EdgeTask) -> Iterator[Row]:
    """Precision, recall and F1 of each label that is gold or was marked."""
    sums = [counts.sum(axis=0).tolist() for counts in (marked & task.gold, marked, task.gold)]
    for label, right, found, gold in zip(task.labels, *sums, strict=True):
        if found or gold:
            yield {
                **what,
                "label": label,
                "precision": right / found if found else math.nan,
                "recall": right / gold if gold else math.nan,
                "f1": 2 * right / (found + gold),
                "gold": gold,
                "marked": found,
            }


def _norms(states: CachedPieces) -> dict[int, float]:
    """The mean length of a vector by layer, over all pieces."""
    norms = {}
    for layer in states.layers:
        rows = states.layer(layer)
        parts = [rows[first : first + 4096].astype(np.float32) for first in range(0, len(rows), 4096)]
        norms[layer] = sum(float(np.linalg.norm(part, axis=1).sum()) for part in parts) / len(rows)
    return norms


def _mix(task: str, seed: int, probe: EdgeProbe, norms: dict[int, float]) -> Row:
    """What a probe mixes: the weight of each layer, and its share once the lengths of vectors are counted in."""
    weights = np.array(probe.mix_weights)
    shares = weights * [norms[layer] for layer in probe.input.layers]
    shares /= shares.sum()
    return {
        "task": task,
        "input": probe.input.name,
        "seed": seed,
        "layers": list(probe.input.layers),
        "weights": weights.tolist(),
        "shares": shares.tolist(),
        "center": float(weights @ probe.input.layers),
        "center_of_shares": float(shares @ probe.input.layers),
    }


def _history(control: bool, probe: EdgeProbe) -> Row:
    return {
        "task": probe.task,
        "control": control,
        "input": probe.input.name,
        "seed": probe.seed,
        "steps": probe.steps,
        "best": probe.best + 1,
        "dev_f1": list(probe.dev_f1),
        "dev_losses": list(probe.dev_losses),
        "train_losses": list(probe.train_losses),
        "learning_rates": list(probe.learning_rates),
    }


def _sizes(splits: Mapping[str, EdgeTask]) -> dict[str, Any]:
    first = next(iter(splits.values()))
    sizes = {split: {"targets": len(task), "sentences": len(task.sentences)} for split, task in splits.items()}
    return {"labels": len(first.labels), "spans": len(first.spans), **sizes}
