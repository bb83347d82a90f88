"""Description length of tasks on checkpoints: in how few bits a probe on frozen vectors tells the labels.

    tasks ─► groups on one text ─► vectors of pieces, cached ─► codes of all inputs of a task ─► rows

Where accuracy says what a probe can learn in the end, the length of the code also says from how much data, or with how
many weights, so that layers differ in it where their accuracies do not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft.activations.vectors import CachedSubwords, subword_vectors
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data.edge import EdgeCorpus
from bertft.errors import OptionError
from bertft.experiments.edge_tasks import TaskGroup, group_tasks, input_names, layers_read
from bertft.experiments.inputs import Source, loaded, with_random
from bertft.experiments.run import Clock, KeptResults, versions
from bertft.options import count, integer
from bertft.probes.edge import SubwordTask, recipe_of
from bertft.probes.mdl.edge_codes import CodedTask, EdgeFit, SpanMeans, layer_of
from bertft.probes.mdl.online import PORTIONS, Fit, OnlineCode, online_codes
from bertft.probes.mdl.perceptron import PerceptronFit, PerceptronRecipe
from bertft.probes.mdl.variational import VariationalCode, VariationalRecipe, variational_codes
from bertft.progress import Progress, Say, named
from bertft.records import Row

CODES = ("online", "variational")
PROBES = ("edge", "perceptron")
HELD_OUT = ("dev", "dev-counted", "inside")
COMPAT = ("released",)

FORMAT = 1
"""Part of the name of every kept result: raised when results of an older bertft must not be used."""


@dataclass(frozen=True)
class Described:
    """What `describe` found: a row for each model, task, input and measure, and the run with its online curves."""

    rows: list[Row]
    run: dict[str, Any]


def describe(
    models: Source | Sequence[Source],
    corpora: Sequence[EdgeCorpus],
    *,
    code: str = "online",
    probe: str = "edge",
    inputs: Sequence[str] = ("layers",),
    control: bool = False,
    random_seeds: int = 0,
    sentences: int | str | None = None,
    held_out: str = "dev",
    dev_sentences: int | str | None = 500,
    draw_seed: int = 0,
    seed: int = 1234,
    hidden: int = 1000,
    epochs: int | None = None,
    learning_rate: float = 1e-3,
    thresholds: Sequence[float] | None = None,
    compat: str | None = None,
    results: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_dtype: str = "float16",
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Described:
    """Code the labels of some tasks with probes on each model, and say how many bits they take.

    models: folders, hub names, or loaded `Checkpoint`s.  corpora: see `edge_tasks.read_tasks`; their training sets are
        coded.
    code: `online`, or `variational`, by a Bayesian perceptron.  probe: of the online code, `edge` or `perceptron`.
    inputs: `layer:K`, `layers` for each of them, `top`, `lexical` and, of edge probes, `mix` and `cat`.
    control: also the control task of each, whose labels are drawn by word.  random_seeds: so many models of random
        weights of each shape.  sentences: at most so many to code, drawn under `draw_seed`.
    held_out: what probes stop by: `dev`, at most `dev_sentences` of the development set, not in the code; the same
        sent first by the uniform code, `dev-counted`; or `inside`, a tenth of what was sent.
    seed: of the order of sentences, and of the probes.  hidden, epochs, learning_rate: of perceptrons; by default
        1,000 in each of two layers, and 40 epochs, 200 of the variational code.  thresholds: of log alpha, one for
        each of the three layers, by which to count the inputs of the variational probe that are needed.
    compat: `released` adds what the released code, which mixes bits and nats, would print.
    results: a folder that keeps what is done of a model and a task, and from which it is taken where nothing changed.
    cache, cache_dtype, batch_tokens: see `subword_vectors`.
    progress: called as progress(done, total, what).  say: called with lines for people.

    Raises `DataError` for tasks that cannot be coded, `OptionError` for an option out of range, `CheckpointError` for
    a model that cannot be read, `BertftError` where the cache or the results cannot be written.

    >>> tasks = read_tasks(["pos"], treebank="UD_English-EWT")  # doctest: +SKIP
    >>> found = describe(["bert-base-cased", "runs/mnli"], tasks, sentences=2000)  # doctest: +SKIP
    >>> [row for row in found.rows if row["measure"] == "compression"]  # doctest: +SKIP

    Source: Voita and Titov 2020; by layer, Fayyaz et al. 2021.
    """
    clock = Clock()
    say = say or (lambda _line: None)
    random_seeds = integer("random_seeds", random_seeds, least=0)
    sentences = count("sentences", sentences, least=1)
    plan = _Plan(
        code=_one_of("code", code, CODES),
        probe=_one_of("probe", probe, PROBES) if code == "online" else "perceptron",
        held_out=_one_of("held_out", held_out, HELD_OUT),
        dev_sentences=count("dev_sentences", dev_sentences, least=1),
        seed=integer("seed", seed, least=0),
        hidden=integer("hidden", hidden, least=1),
        epochs=None if epochs is None else integer("epochs", epochs, least=1),
        learning_rate=learning_rate,
        thresholds=None if thresholds is None else tuple(thresholds),
    )
    if compat is not None:
        _one_of("compat", compat, COMPAT)
    sources = [models] if isinstance(models, str | os.PathLike | Checkpoint) else list(models)
    if not sources or not corpora or not inputs:
        raise OptionError(
            f"{len(sources)} models, {len(corpora)} tasks and {len(inputs)} inputs were given; give at least one of "
            "each"
        )
    with clock.phase("read"):
        groups = group_tasks(corpora, sentences, integer("draw_seed", draw_seed, least=0))
    with clock.phase("load"):
        checkpoints = loaded(sources, device=device, dtype=dtype, allow_pickle=allow_pickle)
    read = {checkpoint.name: input_names(inputs, n_layers(checkpoint.model)) for checkpoint in checkpoints}
    if plan.probe == "perceptron":
        for checkpoint in checkpoints:
            for name in read[checkpoint.name]:
                layer_of(name, range(n_layers(checkpoint.model) + 1))
    kept = None if results is None else KeptResults(Path(results), {"codes"})

    found: list[Row] = []
    notes: list[str] = []
    hashes: dict[str, str] = {}
    for name, floor, checkpoint in with_random(checkpoints, random_seeds):
        chosen = read[name]
        if checkpoint.content_hash in hashes.values() and floor:
            continue
        hashes[checkpoint.name] = checkpoint.content_hash
        for group in groups:
            with clock.phase("vectors"):
                states = subword_vectors(
                    checkpoint,
                    group.sentences,
                    layers=layers_read(chosen, n_layers(checkpoint.model)),
                    dtype=cache_dtype,
                    cache=None if cache is None else Path(cache),
                    batch_tokens=batch_tokens,
                    progress=progress,
                    say=say,
                )
            if not floor:
                notes += [f"{checkpoint.name}, {group.name}: {note}" for note in states.notes]
            for task, is_control, coded, dropped in plan.tasks(group, states, control=control):
                if not floor and not is_control:
                    notes += [f"{checkpoint.name}: {note}" for note in dropped]
                what = {"model": checkpoint.name, "baseline": floor, "task": task, "control": is_control}
                key = plan.key(checkpoint, states, group.content_hash, task, is_control, chosen)
                codes = kept.find(key) if kept else None
                if codes is not None and kept is not None:
                    say(f"{checkpoint.name}: {task} taken from {kept.path(key)}; delete it to code again")
                else:
                    title = f"{task}{' (control)' if is_control else ''} by {checkpoint.name}"
                    with clock.phase("codes"):
                        codes = plan.run(coded, states, chosen, checkpoint, named(progress, title))
                    if kept is not None:
                        kept.keep(key, codes)
                found += [
                    {**what, "input": source, "code": plan.code, "found": own}
                    for source, own in zip(chosen, codes["codes"], strict=True)
                ]
    online = [dict(row, found=_online(row["found"])) for row in found if plan.code == "online"]
    notes += [f"{row['task']}: {note}" for row in online for note in row["found"].notes]
    rows = [measured for row in online for measured in _online_rows(row, compat)]
    rows += [m for row in found if plan.code == "variational" for m in _variational_rows(row, compat)]
    run = {
        "versions": versions(),
        "options": {
            **dataclasses.asdict(plan),
            "tasks": [corpus.name for corpus in corpora],
            "inputs": read,
            "control": control,
            "random_seeds": random_seeds,
            "sentences": sentences or "all",
            "dev_sentences": plan.dev_sentences or "all",
            "draw_seed": draw_seed,
            "compat": compat,
            "portions": PORTIONS,
            "recipes": {corpus.name: plan.recipe(corpus.name) for corpus in corpora},
            "cache_dtype": cache_dtype,
            "dtype": dtype,
            "device": str(checkpoints[0].model.device),
        },
        "checkpoints": hashes,
        "data": {corpus.name: corpus.content_hash for corpus in corpora},
        "notes": list(dict.fromkeys(notes)),
        "curves": [_curve(row) for row in online],
        "timings": clock.timings(),
    }
    return Described(rows, run)


@dataclass(frozen=True)
class _Plan:
    """How tasks are coded, and what is kept of a code, as JSON knows it."""

    code: str
    probe: str
    held_out: str
    dev_sentences: int | None
    seed: int
    hidden: int
    epochs: int | None
    learning_rate: float
    thresholds: tuple[float, ...] | None

    def recipe(self, task: str) -> dict[str, Any]:
        """The recipe of the task's probes, by name."""
        if self.probe == "edge":
            return dataclasses.asdict(recipe_of("today", task))
        return dataclasses.asdict(self._variational() if self.code == "variational" else self._perceptron())

    def key(
        self, checkpoint: Checkpoint, states: CachedSubwords, data: str, task: str, control: bool, inputs: Sequence[str]
    ) -> str:
        """A hash of all that decides the code."""
        parts = [
            *(FORMAT, versions(), checkpoint.content_hash, str(checkpoint.model.dtype), str(states.dtype)),
            *(data, task, control, list(inputs), dataclasses.asdict(self), PORTIONS, self.recipe(task)),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def tasks(
        self, group: TaskGroup, states: CachedSubwords, *, control: bool
    ) -> Iterator[tuple[str, bool, CodedTask, list[str]]]:
        """The tasks of a group and, with `control`, their control tasks: name, which of both, notes with the first."""
        for is_control in (False, True) if control else (False,):
            tasks, notes = (group.control() if is_control else group).over_subwords(states.ranges)
            for number, (name, splits) in enumerate(tasks.items()):
                yield name, is_control, self._coded(splits), [] if number else notes

    def _coded(self, splits: dict[str, SubwordTask]) -> CodedTask:
        """The training set with, where probes stop by it, so much of the development set."""
        if self.code == "variational" or self.held_out == "inside":
            return CodedTask(splits["train"])
        dev = splits["dev"]
        if self.dev_sentences is not None and self.dev_sentences < len(dev.sentences):
            rng = np.random.default_rng(self.seed)
            dev = dev.at(np.sort(rng.choice(dev.sentences, self.dev_sentences, replace=False)))
        return CodedTask(splits["train"], dev)

    def run(
        self,
        task: CodedTask,
        states: CachedSubwords,
        inputs: tuple[str, ...],
        checkpoint: Checkpoint,
        told: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:
        """Code the labels by probes on each input."""
        device = checkpoint.model.device
        codes: Sequence[OnlineCode | VariationalCode]
        if self.code == "variational":
            means = SpanMeans(task, states, inputs)
            codes = variational_codes(
                means, task.uniform_bits_per_target, recipe=self._variational(), seed=self.seed, device=device,
                progress=told,
            )  # fmt: skip
        else:
            fit: Fit
            if self.probe == "edge":
                fit = EdgeFit(task, states, inputs, recipe_of("today", task.train.name), device, told)
            else:
                fit = PerceptronFit(SpanMeans(task, states, inputs), self._perceptron(), device, progress=told)
            codes = online_codes(
                task.targets,
                task.uniform_bits_per_target,
                fit,
                task.train_units,
                dev=task.dev_units,
                count_dev=self.held_out == "dev-counted",
                seed=self.seed,
            )
        # What was just found reads as what was kept.
        return {"codes": json.loads(json.dumps([dataclasses.asdict(found) for found in codes]))}

    def _perceptron(self) -> PerceptronRecipe:
        recipe = PerceptronRecipe(hidden=self.hidden, learning_rate=self.learning_rate)
        return recipe if self.epochs is None else dataclasses.replace(recipe, epochs=self.epochs)

    def _variational(self) -> VariationalRecipe:
        recipe = VariationalRecipe(hidden=self.hidden, learning_rate=self.learning_rate, thresholds=self.thresholds)
        return recipe if self.epochs is None else dataclasses.replace(recipe, epochs=self.epochs)


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise OptionError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    return value


def _online(found: dict[str, Any]) -> OnlineCode:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return OnlineCode(**values)


def _online_rows(row: Row, compat: str | None) -> Iterator[Row]:
    code: OnlineCode = row["found"]
    yield from _rows(row, code, code.n_targets, {}, compat)


def _variational_rows(row: Row, compat: str | None) -> Iterator[Row]:
    code = VariationalCode(**row["found"])
    more = {"weight_bits": code.weight_bits, "label_bits": code.label_bits}
    more |= {f"kept_inputs_{place}": count for place, count in enumerate(code.kept, 1)}
    yield from _rows(row, code, code.targets, more, compat)


def _rows(
    row: Row, code: OnlineCode | VariationalCode, targets: int, more: dict[str, float], compat: str | None
) -> Iterator[Row]:
    measures = {
        "codelength_bits": code.codelength_bits,
        "uniform_bits": code.uniform_bits,
        "compression": code.compression,
        **more,
    }
    if compat == "released":
        measures |= {"released_kbits": code.released_kbits, "released_compression": code.released_compression}
    what = {name: value for name, value in row.items() if name != "found"}
    for measure, value in measures.items():
        yield {**what, "measure": measure, "value": value, "n_targets": targets}


def _curve(row: Row) -> dict[str, Any]:
    code: OnlineCode = row["found"]
    what = {name: value for name, value in row.items() if name not in ("found", "code")}
    return {**what, "percent": code.percent, "targets": code.targets, "bits": code.block_bits}
