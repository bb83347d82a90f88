"""Edge probing of checkpoints: what can be read off frozen vectors about the spans of a sentence, task by task.

    tasks ─► groups of tasks on one text ─► hidden states of subwords, cached ─► probes ─► rows

Models and baselines (random weights, embeddings alone) are treated alike. The text of a group of tasks is run through
a model once, and the probes of all its tasks, inputs and seeds are trained in one pass an epoch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from bertft.activations.vectors import CachedSubwords
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.data.edge import EdgeCorpus
from bertft.errors import OptionError
from bertft.experiments.edge_rows import (
    GroupResults,
    by_label,
    counted,
    differences,
    history,
    mix,
    named_rows,
    norms_by_layer,
    sizes,
)
from bertft.experiments.edge_tasks import GroupStates, group_states, group_tasks, input_names
from bertft.experiments.inputs import Computation, ProbedModel, ProbingInputs, Source, notes_on
from bertft.experiments.results import Drawing, Layout, Report, Results, reported_rows
from bertft.experiments.run import KeptResults, Run
from bertft.options import integer, integers, several
from bertft.probes.edge import EdgeJob, EdgeProbe, Recipe, SubwordTask, predict_edges, recipe_of, train_edge_probes
from bertft.progress import Feedback, Progress, Say
from bertft.records import Row, csv_bytes, plain

INPUTS = {"paper": ("mix",), "today": ("mix", "layers")}
"""The inputs that are probed by default, by preset."""

KEPT = {"notes", "counts", "labels", "mixes", "training"}
"""The keys of the results that are kept of a model and a group of tasks."""


def _f1_rows(rows: Sequence[Row]) -> list[Row]:
    return [row for row in reported_rows(rows) if row["measure"] == "f1"]


@dataclass(frozen=True)
class EdgeResults(Results):
    """What `probe_edges` returns.

    rows: one for each model, task, input, seed, split and measure.  labels: the same by label.  run: the record.
    """

    labels: list[Row]

    layout: ClassVar[Layout] = Layout(("task", "scoring", "input"), ("model",), kept=_f1_rows)

    title: ClassVar[str] = "Edge probes"
    stem: ClassVar[str] = "edge"

    def report(self) -> Report:
        """Return the figures for which there is data, and a warning for each probe that has not learnt."""
        from bertft.report.edge import COLUMNS, figures, findings

        return Report(COLUMNS, figures(self.rows, self.run), findings(self.rows, self.run))

    def numbers(self) -> dict[str, bytes]:
        """Return `edge.json`, `edge.csv` and `edge-labels.csv`, which has a line for each label."""
        from bertft.report.edge import LABEL_COLUMNS

        return {**super().numbers(), "edge-labels.csv": csv_bytes(self.labels, LABEL_COLUMNS)}

    def drawing(self) -> Drawing:
        """Return F1 by task, a mark for each model and input."""
        from bertft.report.drawing import Line
        from bertft.report.edge_scores import EdgeTable

        table = EdgeTable(self.rows)
        tasks = [task for task, scoring in table.tasks if scoring == "all"]
        lines = []
        for own in table.model_inputs:
            points = [(at, table.score(own, task, "all").value) for at, task in enumerate(tasks)]
            x, y = zip(*points, strict=True)
            lines.append(Line(f"{table.names[own.model]}, {own.input}", own.baseline, x, y))
        detail = f"{table.split} set; baselines: bars"
        return Drawing("Edge probes", detail, "Task", "F1, percent", lines, ticks=tasks, joined=False)


def probe_edges(
    models: Source | Sequence[Source],
    corpora: EdgeCorpus | Sequence[EdgeCorpus],
    *,
    inputs: str | Sequence[str] = (),
    baselines: bool = False,
    random_seeds: int = 1,
    sentences: int | str | None = None,
    draw_seed: int = 0,
    seeds: int | Sequence[int] = (0,),
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
) -> EdgeResults:
    """Train edge probes of some tasks on each model, and evaluate them and the baselines on dev and test.

    models: folders, hub names, or loaded `Checkpoint`s, one or several. Differences are to the first.
    corpora: tasks as read by `read_tasks`, one or several.
    inputs: `mix`, `top`, `lexical`, `cat`, `layer:K`, or `layers` for each layer; by default those of the preset.
    baselines: also probe the embeddings of the first model alone, and randomly initialised models.
    random_seeds: how many randomly initialised models of each model's shape to probe.
    sentences: how many training sentences of each task to draw; "all" or None takes every one.
    draw_seed: of that draw, and of the order of the sentences in training.
    seeds: of the probes; a probe is trained for each.
    preset: the conventions of training, `paper` or `today`.
    controls: also train control tasks, see `TaskGroup.control`; by default only with the preset `today`.
    epochs: the most epochs; by default those of the preset.
    results: a folder where the results of each model and group of tasks are kept, and from which they are taken if
        nothing has changed.
    cache, cache_dtype, batch_tokens: see `subword_vectors`.
    device, dtype, allow_pickle: see `bertft.score`.
    progress: called as progress(done, total, what).  say: called with lines of text for the user.

    Raises `DataError` for tasks that cannot be probed, `OptionError` for an option out of range, `CheckpointError` for
    a model that cannot be loaded, and `BertftError` if the cache or the results cannot be written.

    >>> tasks = read_tasks(["pos", "ner"], "edge", "UD_English-EWT")  # doctest: +SKIP
    >>> found = probe_edges(["bert-base-cased", "runs/mnli"], tasks, sentences=2000)  # doctest: +SKIP

    Source: Tenney et al. 2019; for preset `today`, Hewitt and Liang 2019 and Fayyaz et al. 2021.
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
    corpora = several("corpora", corpora, EdgeCorpus)
    if not corpora:
        raise OptionError("no task was given; give at least one")
    probing = EdgeProbing.checked(corpora, preset, epochs, seeds, draw_seed, controls, run.feedback)
    with run.clock.phase("read"):
        groups = group_tasks(corpora, given.sentences, probing.order_seed)
    with run.clock.phase("load"):
        probed = given.load(with_baselines=baselines)
    run.notes += notes_on(probed.checkpoints)
    wanted = several("inputs", inputs, str) or INPUTS[preset]
    chosen = ChosenInputs.of_models(probed.checkpoints, wanted, baselines=baselines)
    kept = KeptResults(None if results is None else Path(results), KEPT)
    parts = group_states(probed, groups, chosen.of, given, run)
    found = [_group_results(part, chosen.extra(part.model), probing, kept, run) for part in parts]
    with run.clock.phase("differences"):
        rows = [*(row for part in found for row in part.rows()), *differences(found)]
    record = run.record(
        {
            **probing.record(),
            "inputs": chosen.of_shape,
            "baselines": baselines,
            "preset": preset,
            **given.record(probed),
        },
        checkpoints=probed.hashes,
        data={corpus.name: corpus.content_hash for corpus in corpora},
        tasks={name: sizes(splits) for group in groups for name, splits in group.tasks.items()},
        mixes=named_rows(found, "mixes"),
        training=named_rows(found, "training"),
    )
    return EdgeResults(rows, record, named_rows(found, "labels"))


@dataclass(frozen=True)
class ChosenInputs:
    """The inputs that are probed, by the name of the model or of the model whose shape a baseline has.

    The model `first` is also probed by its embeddings alone, as a baseline.
    """

    of_shape: Mapping[str, tuple[str, ...]]
    first: Checkpoint | None

    @classmethod
    def of_models(cls, models: Sequence[Checkpoint], wanted: Sequence[str], *, baselines: bool) -> ChosenInputs:
        """Return the inputs for some models, with `layers` spelled out for the depth of each."""
        of_shape = {model.name: input_names(wanted, n_layers(model.model)) for model in models}
        return cls(of_shape, models[0] if baselines else None)

    def of(self, model: ProbedModel) -> tuple[str, ...]:
        """Return all inputs of a model."""
        return (*self.of_shape[model.shape], *self.extra(model))

    def extra(self, model: ProbedModel) -> tuple[str, ...]:
        """Return those inputs of a model that are baselines, even if the model is not."""
        return ("lexical",) if model.checkpoint is self.first and "lexical" not in self.of_shape[model.shape] else ()


def _group_results(
    part: GroupStates, extra: tuple[str, ...], probing: EdgeProbing, kept: KeptResults, run: Run
) -> GroupResults:
    """Return the results of a group in a model, kept or computed, and note what was left out."""

    def compute() -> dict[str, Any]:
        with run.clock.phase("probes"):
            return probing.run(part)

    key = part.key(probing.seeds, probing.order_seed, probing.control, probing.recipes_of(part.group.tasks))
    results = kept.get(key, f"{part.model.name}: {part.group.name}", compute, run.feedback)
    if not part.model.is_baseline:
        run.notes += [f"{part.model.name}: {note}" for note in results["notes"]]
    return GroupResults(part.model.name, part.model.is_baseline, extra, results)


@dataclass(frozen=True)
class EdgeProbing:
    """Which probes are trained on the hidden states of a group of tasks."""

    recipes: dict[str, Recipe]
    seeds: tuple[int, ...]
    order_seed: int
    control: bool
    feedback: Feedback

    @classmethod
    def checked(
        cls,
        corpora: Sequence[EdgeCorpus],
        preset: str,
        epochs: int | None,
        seeds: int | Sequence[int],
        order_seed: int,
        controls: bool | None,
        feedback: Feedback,
    ) -> EdgeProbing:
        """Return the options after checks; raises `OptionError` for one that is unknown or out of range."""
        return cls(
            recipes={corpus.name: _recipe(preset, corpus.name, epochs) for corpus in corpora},
            seeds=integers("seed", seeds, least=0),
            order_seed=integer("draw_seed", order_seed, least=0),
            control=preset == "today" if controls is None else controls,
            feedback=feedback,
        )

    def record(self) -> dict[str, Any]:
        """Return the options for the record of the run."""
        return {
            "tasks": list(self.recipes),
            "draw_seed": self.order_seed,
            "seeds": self.seeds,
            "controls": self.control,
            "recipes": self.recipes_of(self.recipes),
        }

    def recipes_of(self, tasks: Iterable[str]) -> dict[str, Any]:
        """Return the recipes of some tasks as dictionaries."""
        return {name: dataclasses.asdict(self.recipes[name]) for name in tasks}

    def run(self, part: GroupStates) -> dict[str, Any]:
        """Train and evaluate the probes of all tasks, inputs and seeds, and return results to keep."""
        states, device = part.states, part.model.checkpoint.model.device
        tasks, notes = part.group.over_subwords(states.ranges)
        kinds = {False: tasks}
        if self.control:
            kinds[True] = part.group.control().over_subwords(states.ranges)[0]
        plan = [
            Planned(control, name, source, seed)
            for control, of_kind in kinds.items()
            for name in of_kind
            for source in part.inputs
            for seed in self.seeds
        ]
        jobs = []
        for control, name, source, seed in plan:
            splits = kinds[control][name]
            jobs.append(EdgeJob(splits["train"], splits["dev"], source, seed, self.recipes[name]))
        probes = train_edge_probes(
            jobs,
            states,
            order_seed=self.order_seed,
            device=device,
            progress=self.feedback.phase(f"probes of {part.model.name}: {part.group.name}"),
        )
        trained = list(zip(plan, probes, strict=True))
        norms = norms_by_layer(states)
        found = {
            "notes": notes,
            **_evaluated(trained, kinds, states, device),
            "mixes": [
                mix(planned.task, planned.seed, probe, norms)
                for planned, probe in trained
                if probe.mix_weights and not planned.control
            ],
            "training": [history(planned.control, probe) for planned, probe in trained],
        }
        return dict(plain(found))


class Planned(NamedTuple):
    """A probe to train: on a task or its control task, from which input, and with which seed."""

    control: bool
    task: str
    input: str
    seed: int


def _evaluated(
    trained: Sequence[tuple[Planned, EdgeProbe]],
    kinds: Mapping[bool, Mapping[str, Mapping[str, SubwordTask]]],
    states: CachedSubwords,
    device: torch.device,
) -> dict[str, list[Row]]:
    """Return the counts of all probes on dev and test, and for tasks that are no controls their scores by label."""
    counts: list[Row] = []
    labels: list[Row] = []
    for control, of_kind in kinds.items():
        for name, splits in of_kind.items():
            own = [(planned, probe) for planned, probe in trained if planned[:2] == (control, name)]
            for split in [split for split in splits if split != "train"]:
                task = splits[split]
                values_of = predict_edges([probe for _, probe in own], task, states, device=device)
                for (planned, _), values in zip(own, values_of, strict=True):
                    what = {"task": name, "input": planned.input, "seed": planned.seed, "split": split}
                    predicted = values >= 0.5
                    counts += counted({**what, "control": control}, predicted, task)
                    if not control:
                        labels += by_label(what, predicted, task)
    return {"counts": counts, "labels": labels}


def _recipe(preset: str, task: str, epochs: int | None) -> Recipe:
    recipe = recipe_of(preset, task)
    return recipe if epochs is None else dataclasses.replace(recipe, max_epochs=integer("epochs", epochs, least=1))
