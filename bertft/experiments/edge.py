"""Edge probing of checkpoints: what a sentence's annotation can be read off frozen vectors, task by task.

    tasks ─► groups on one text ─► vectors of pieces, cached ─► probes of all tasks and inputs ─► rows

Every model, and every floor (random weights, embeddings alone), goes the same way.  A group of tasks on one text is run
through a model once, and its probes, of all tasks, inputs and seeds, are trained in one pass an epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft.activations.vectors import CachedSubwords, subword_vectors
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data.edge import EdgeCorpus
from bertft.errors import OptionError
from bertft.experiments.edge_rows import _by_label, _counted, _differences, _Found, _history, _mix, _norms, _sizes
from bertft.experiments.edge_tasks import TaskGroup, _lexical, group_tasks, input_names, layers_read
from bertft.experiments.inputs import Source, loaded, with_random
from bertft.experiments.run import Clock, KeptResults, versions
from bertft.options import count, integer
from bertft.probes.edge import EdgeJob, Recipe, predict_edges, recipe_of, train_edge_probes
from bertft.progress import Progress, Say, named
from bertft.records import Row, plain

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
    cache, cache_dtype, batch_tokens: see `subword_vectors`.
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
                states = subword_vectors(
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

    def key(self, checkpoint: Checkpoint, states: CachedSubwords, group: TaskGroup, inputs: Sequence[str]) -> str:
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
        states: CachedSubwords,
        group: TaskGroup,
        inputs: Sequence[str],
        progress: Progress | None,
    ) -> dict[str, Any]:
        """Train and evaluate the probes of all tasks, inputs and seeds."""
        tasks, notes = group.over_subwords(states.ranges)
        kinds = {False: tasks}
        if self.control:
            kinds[True] = group.control().over_subwords(states.ranges)[0]
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


def _recipe(preset: str, task: str, epochs: int | None) -> Recipe:
    recipe = recipe_of(preset, task)
    return recipe if epochs is None else dataclasses.replace(recipe, max_epochs=integer("epochs", epochs, least=1))
