"""Description length of tasks on checkpoints: how many bits a probe on frozen vectors needs to transmit the labels.

    tasks ─► groups of tasks on one text ─► hidden states of subwords, cached ─► codes of a task's inputs ─► rows

Accuracy measures what a probe has learned in the end. The length of the code also depends on how much data, or how many
weights, the probe needs to learn it, so it differs between layers whose accuracies do not.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertft.checkpoints.anatomy import n_layers
from bertft.data.edge import EdgeCorpus
from bertft.errors import OptionError
from bertft.experiments.edge_tasks import GroupStates, group_states, group_tasks, input_names
from bertft.experiments.inputs import Computation, ProbingInputs, Source, notes_on
from bertft.experiments.results import Drawing, Layout, Report, Results
from bertft.experiments.run import KeptResults, Run
from bertft.options import count, integer, one_of, optional_integer, rate, several
from bertft.probes.edge import SubwordTask, recipe_of
from bertft.probes.mdl.edge_codes import CodedTask, EdgeFit, SpanMeans, layer_of
from bertft.probes.mdl.online import PORTIONS, Fit, OnlineCode, online_codes
from bertft.probes.mdl.perceptron import PerceptronFit, PerceptronRecipe
from bertft.probes.mdl.variational import VariationalCode, VariationalRecipe, variational_codes
from bertft.progress import Feedback, PhaseProgress, Progress, Say
from bertft.records import Row

CODES = ("online", "variational")
PROBES = ("edge", "perceptron")
HELD_OUT = ("dev", "dev-counted", "inside")
COMPAT = ("released",)


@dataclass(frozen=True)
class MdlResults(Results):
    """What `describe` returns.

    rows: one for each model, task, input and measure.  run: the record of the run, with the curves of online codes.
    """

    layout: ClassVar[Layout] = Layout(("task", "control", "model", "input"), ("measure",))

    title: ClassVar[str] = "Description length"
    stem: ClassVar[str] = "mdl"

    def report(self) -> Report:
        """Return the figures for which there is data, and a finding for each task."""
        from bertft.report.mdl import COLUMNS, figures, findings

        return Report(COLUMNS, figures(self.rows, self.run), findings(self.rows, self.run))

    def drawing(self) -> Drawing:
        """Return the compression of each input, a line for each task and model."""
        from bertft.report.drawing import Line
        from bertft.report.mdl import codelengths
        from bertft.report.rows import short_names

        found = codelengths(self.rows)
        inputs = list(dict.fromkeys(each.input for each in found))
        names = short_names(each.model for each in found)
        lines = []
        for task, model, baseline in dict.fromkeys((each.task, each.model, each.baseline) for each in found):
            own = [each for each in found if (each.task, each.model) == (task, model)]
            x = [inputs.index(each.input) for each in own]
            lines.append(Line(f"{task}, {names[model]}", baseline, x, [each.values["compression"] for each in own]))
        return Drawing("Description length", "baselines dashed", "Input", "Compression", lines, ticks=inputs)


def describe(
    models: Source | Sequence[Source],
    corpora: EdgeCorpus | Sequence[EdgeCorpus],
    *,
    code: str = "online",
    probe: str = "edge",
    inputs: str | Sequence[str] = ("layers",),
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
) -> MdlResults:
    """Code the labels of the training sets of some tasks with probes on each model, and measure the code lengths.

    models: folders, hub names, or loaded `Checkpoint`s, one or several.
    corpora: tasks as read by `edge_tasks.read_tasks`, one or several.
    code: `online`, or `variational`, which uses a Bayesian perceptron.
    probe: of the online code, `edge` or `perceptron`.
    inputs: `layer:K`, `layers` for each layer, `top`, `lexical` and, for edge probes, `mix` and `cat`.
    control: also code the control task of each task, see `TaskGroup.control`.
    random_seeds: how many randomly initialised models of each model's shape to code with as baselines.
    sentences: how many training sentences of each task to code, drawn with `draw_seed`; "all" or None takes every one.
    held_out: the data by which the training of a probe is stopped. `dev`: `dev_sentences` of the development set,
        which are not part of the code. `dev-counted`: the same, transmitted first by the uniform code. `inside`: a
        tenth of the data transmitted so far.
    seed: of the order of the sentences, and of the probes.
    hidden: the width of both hidden layers of perceptrons.
    epochs, learning_rate: of perceptrons; by default 40 epochs, or 200 for the variational code.
    thresholds: of log alpha, one for each of the three layers, at which inputs of the variational probe are pruned.
    compat: `released` adds the numbers that the released code would print, which mixes bits and nats.
    results: a folder where the codes of each model and task are kept, and from which they are taken if nothing has
        changed.
    cache, cache_dtype, batch_tokens: see `subword_vectors`.
    device, dtype, allow_pickle: see `bertft.score`.
    progress: called as progress(done, total, what).  say: called with lines of text for the user.

    Raises `DataError` for tasks that cannot be coded, `OptionError` for an option out of range, `CheckpointError` for
    a model that cannot be loaded, and `BertftError` if the cache or the results cannot be written.

    >>> tasks = read_tasks(["pos"], treebank="UD_English-EWT")  # doctest: +SKIP
    >>> found = describe(["bert-base-cased", "runs/mnli"], tasks, sentences=2000)  # doctest: +SKIP
    >>> [row for row in found.rows if row["measure"] == "compression"]  # doctest: +SKIP

    Source: Voita and Titov 2020; by layer, Fayyaz et al. 2021.
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
    corpora, wanted = several("corpora", corpora, EdgeCorpus), several("inputs", inputs, str)
    if not corpora or not wanted:
        raise OptionError(f"{len(corpora)} tasks and {len(wanted)} inputs were given; give at least one of each")
    draw_seed = integer("draw_seed", draw_seed, least=0)
    options = CodeOptions.checked(code, probe, held_out, dev_sentences, seed, hidden, epochs, learning_rate, thresholds)
    released = compat is not None and one_of("compat", compat, COMPAT) == "released"
    with run.clock.phase("read"):
        groups = group_tasks(corpora, given.sentences, draw_seed)
    with run.clock.phase("load"):
        probed = given.load()
    run.notes += notes_on(probed.checkpoints)
    chosen = {model.name: options.input_names(wanted, n_layers(model.model)) for model in probed.checkpoints}
    kept = KeptResults(None if results is None else Path(results), {"codes"})
    parts = group_states(probed, groups, lambda model: chosen[model.shape], given, run)
    found = [coded for part in parts for coded in _coded(part, options, kept, run, control=control)]
    run.notes += [note for coded in found for note in coded.notes]
    record = run.record(
        {
            **options.record([corpus.name for corpus in corpora]),
            "inputs": chosen,
            "control": control,
            "draw_seed": draw_seed,
            "compat": compat,
            **given.record(probed),
        },
        checkpoints=probed.hashes,
        data={corpus.name: corpus.content_hash for corpus in corpora},
        curves=[coded.curve() for coded in found if isinstance(coded.code, OnlineCode)],
    )
    return MdlResults([row for coded in found for row in coded.rows(released=released)], record)


@dataclass(frozen=True)
class CodeOptions:
    """How tasks are coded."""

    code: str
    probe: str
    held_out: str
    dev_sentences: int | None
    seed: int
    hidden: int
    epochs: int | None
    learning_rate: float
    thresholds: tuple[float, ...] | None

    @classmethod
    def checked(
        cls,
        code: str,
        probe: str,
        held_out: str,
        dev_sentences: Any,
        seed: Any,
        hidden: Any,
        epochs: Any,
        learning_rate: float,
        thresholds: Sequence[float] | None,
    ) -> CodeOptions:
        """Return the options after checks; raises `OptionError` for one that is unknown or out of range."""
        return cls(
            code=one_of("code", code, CODES),
            probe=one_of("probe", probe, PROBES) if code == "online" else "perceptron",
            held_out=one_of("held_out", held_out, HELD_OUT),
            dev_sentences=count("dev_sentences", dev_sentences, least=1),
            seed=integer("seed", seed, least=0),
            hidden=integer("hidden", hidden, least=1),
            epochs=optional_integer("epochs", epochs, least=1),
            learning_rate=rate(learning_rate),
            thresholds=None if thresholds is None else tuple(thresholds),
        )

    def record(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return the options for the record of the run."""
        return {
            **dataclasses.asdict(self),
            "tasks": tasks,
            "dev_sentences": self.dev_sentences or "all",
            "portions": PORTIONS,
            "recipes": {task: self.recipe(task) for task in tasks},
        }

    def input_names(self, wanted: Sequence[str], depth: int) -> tuple[str, ...]:
        """Return the inputs for a model of `depth` blocks; raises `OptionError` for one that the probe cannot take."""
        names = input_names(wanted, depth)
        if self.probe == "perceptron":
            for name in names:
                layer_of(name, range(depth + 1))
        return names

    def recipe(self, task: str) -> dict[str, Any]:
        """Return the recipe of the probes of a task as a dictionary."""
        if self.probe == "edge":
            return dataclasses.asdict(recipe_of("today", task))
        return dataclasses.asdict(self.variational() if self.code == "variational" else self.perceptron())

    def perceptron(self) -> PerceptronRecipe:
        """Return the recipe of the perceptrons of the online code."""
        recipe = PerceptronRecipe(hidden=self.hidden, learning_rate=self.learning_rate)
        return recipe if self.epochs is None else dataclasses.replace(recipe, epochs=self.epochs)

    def variational(self) -> VariationalRecipe:
        """Return the recipe of the Bayesian perceptrons of the variational code."""
        recipe = VariationalRecipe(hidden=self.hidden, learning_rate=self.learning_rate, thresholds=self.thresholds)
        return recipe if self.epochs is None else dataclasses.replace(recipe, epochs=self.epochs)

    def coded_task(self, splits: dict[str, SubwordTask]) -> CodedTask:
        """Return the training set and, if probes are stopped by it, the part of the development set that is used."""
        if self.code == "variational" or self.held_out == "inside":
            return CodedTask(splits["train"])
        dev = splits["dev"]
        if self.dev_sentences is not None and self.dev_sentences < len(dev.sentences):
            rng = np.random.default_rng(self.seed)
            dev = dev.at(np.sort(rng.choice(dev.sentences, self.dev_sentences, replace=False)))
        return CodedTask(splits["train"], dev)


@dataclass(frozen=True)
class Coded:
    """The code of the labels of a task, or of its control task, by the probe of one input of one model."""

    what: Row
    code: OnlineCode | VariationalCode

    @property
    def notes(self) -> list[str]:
        """Notes on the code, with the name of the task."""
        notes = self.code.notes if isinstance(self.code, OnlineCode) else ()
        return [f"{self.what['task']}: {note}" for note in notes]

    def rows(self, *, released: bool) -> Iterator[Row]:
        """Yield the rows; with `released`, also the numbers that the released code would print."""
        code = self.code
        measures = {
            "codelength_bits": code.codelength_bits,
            "uniform_bits": code.uniform_bits,
            "compression": code.compression,
        }
        if isinstance(code, OnlineCode):
            targets = code.n_targets
        else:
            targets = code.targets
            measures |= {"weight_bits": code.weight_bits, "label_bits": code.label_bits}
            measures |= {f"kept_inputs_{number}": kept for number, kept in enumerate(code.kept, 1)}
        if released:
            measures |= {"released_kbits": code.released_kbits, "released_compression": code.released_compression}
        for measure, value in measures.items():
            yield {**self.what, "measure": measure, "value": value, "n_targets": targets}

    def curve(self) -> Row:
        """Return the bits of each portion of an online code."""
        assert isinstance(self.code, OnlineCode)
        what = {name: value for name, value in self.what.items() if name != "code"}
        return {**what, "percent": self.code.percent, "targets": self.code.targets, "bits": self.code.block_bits}


def _coded(part: GroupStates, options: CodeOptions, kept: KeptResults, run: Run, *, control: bool) -> Iterator[Coded]:
    """Yield the codes of the tasks of a group and, with `control`, of their control tasks, by each input."""
    model, group = part.model, part.group
    for is_control in (False, True) if control else (False,):
        tasks, notes = (group.control() if is_control else group).over_subwords(part.states.ranges)
        if not model.is_baseline and not is_control:
            run.notes += [f"{model.name}: {note}" for note in notes]
        for task, splits in tasks.items():
            title = f"{task}{' (control)' if is_control else ''} by {model.name}"

            def compute(splits: dict[str, SubwordTask] = splits, title: str = title) -> dict[str, Any]:
                with run.clock.phase("codes"):
                    codes = _codes(options.coded_task(splits), part, options, run.feedback.phase(title))
                return {"codes": [dataclasses.asdict(code) for code in codes]}

            key = part.key(task, is_control, dataclasses.asdict(options), PORTIONS, options.recipe(task))
            results = kept.get(key, f"{model.name}: {task}", compute, run.feedback)
            for source, values in zip(part.inputs, results["codes"], strict=True):
                what = {"model": model.name, "baseline": model.is_baseline, "task": task, "control": is_control}
                what |= {"input": source, "code": options.code}
                yield Coded(what, VariationalCode(**values) if options.code == "variational" else _online(values))


def _codes(
    task: CodedTask, part: GroupStates, options: CodeOptions, progress: PhaseProgress | None
) -> Sequence[OnlineCode | VariationalCode]:
    """Code the labels of a task by probes on each input."""
    states, inputs, device = part.states, part.inputs, part.model.checkpoint.model.device
    if options.code == "variational":
        return variational_codes(
            SpanMeans(task, states, inputs),
            task.uniform_bits_per_target,
            recipe=options.variational(),
            seed=options.seed,
            device=device,
            progress=progress,
        )
    fit: Fit
    if options.probe == "edge":
        fit = EdgeFit(task, states, inputs, recipe_of("today", task.train.name), device, progress)
    else:
        fit = PerceptronFit(SpanMeans(task, states, inputs), options.perceptron(), device, progress=progress)
    return online_codes(
        task.targets,
        task.uniform_bits_per_target,
        fit,
        task.train_units,
        dev=task.dev_units,
        count_dev=options.held_out == "dev-counted",
        seed=options.seed,
    )


def _online(found: dict[str, Any]) -> OnlineCode:
    """Return a code that went through JSON, its lists as tuples again."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return OnlineCode(**values)
