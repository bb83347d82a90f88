"""How many layers a task needs: fine-tuning with more and more layers frozen, and of shorter and shorter models.

A sweep is a table of cells. Each cell is one run of `bertft.tune` in `out/TASK/seed-N/CELL`: `untouched`, with nothing
frozen and nothing truncated, `freeze-K` and `truncate-K`. A finished cell is not run again, and one that was killed is
resumed, both only with the options they started with. Sweeps of several tasks can share `out`: their rows are then in
one record, and their lines in one figure.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bertft.checkpoints.anatomy import block_stack
from bertft.errors import BertftError, OptionError
from bertft.experiments.inputs import Computation, Source
from bertft.experiments.results import Drawing, Layout, Report, Results
from bertft.experiments.run import Run, same_run, versions
from bertft.experiments.tune import (
    ModelChanges,
    TaskData,
    TrainingOptions,
    Tuning,
    held_run,
    run_tuning,
    trainer_device,
)
from bertft.files import folder_lock, require_writable
from bertft.options import cell_ranges, check_sweep, integers, one_of
from bertft.progress import Feedback, Progress, Say
from bertft.records import TOLD, Row
from bertft.tasks import named_task
from bertft.untrusted import read_json, reason

Cells = str | int | Iterable[int] | None

KEEP = {"all": (), "best": ("last",), "none": ("last", "best")}
"""Which models of a finished cell can be kept, and which of its models are then deleted."""

KEPT = {
    "all": "the best and the last model of each cell",
    "best": "the best model of each cell",
    "none": "metrics alone: the models of finished cells are deleted",
}
"""What is kept, in words."""

UNTOUCHED = "untouched"
RECORD, OPTIONS = "ablation.json", "options.json"
KEYS = {"task", "kind", "k", "seed", "metric", "value", "mean", "spread"}


@dataclass(frozen=True)
class AblateResults(Results):
    """What `ablate` returns: one row for each task, kind, k, seed and metric, and the record of the run."""

    layout: ClassVar[Layout] = Layout(("task", "kind", "k"), ("metric",))

    title: ClassVar[str] = "Fine-tuning with frozen blocks, and of truncated models"
    stem: ClassVar[str] = "ablation"

    def report(self) -> Report:
        """Return a figure for each kind of sweep, `freeze` and `truncate`, and a finding for each sweep."""
        from bertft.report.ablate import COLUMNS, figures, findings, notes

        found = self.rows, self.run
        return Report(COLUMNS, figures(*found), findings(*found), notes(self.run))

    def drawing(self) -> Drawing:
        """Return the metric by k, a line for each task and kind of sweep."""
        from bertft.report.ablate import TITLES, sweeps
        from bertft.report.drawing import Line

        found = [(title, sweep) for kind, title in TITLES.items() for sweep in sweeps(self.rows, self.run, kind)]
        lines = [Line(f"{title}: {sweep.name}", False, sweep.ks, sweep.means) for title, sweep in found]
        along = "k: last frozen block (-1 = none), or blocks kept"
        return Drawing("Ablations", "means over seeds", along, "Metric of the task", lines)


@dataclass(frozen=True)
class Sweep:
    """A way to change a model by a number k, from `least` to `most`; the k that changes nothing is `untouched`.

    `advice` is part of the message for a k out of range.
    """

    name: str
    least: int
    most: int
    untouched: int
    advice: str


def ablate(
    task: str,
    model: Source,
    train: str | os.PathLike[str],
    dev: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    freeze: Cells = None,
    truncate: Cells = None,
    pooler: str = "keep",
    seeds: int | Sequence[int] = (1,),
    keep: str = "best",
    preset: str = "paper",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    dev_limit: int | None = None,
    device: str = "auto",
    allow_pickle: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> AblateResults:
    """Fine-tune a checkpoint with k layers frozen, or truncated to k, for each k and seed that `out` does not hold yet.

    freeze: the last block to freeze, from -1, which freezes nothing, to the last block: "all", a number, several, or a
        text such as "0,3-5".
    truncate: how many blocks to keep, from 1 to all, in the same forms.
    The untouched model is always among the cells, as k = -1 when freezing and as k = all blocks when truncating.
    pooler: of a truncated model, see `tune`.
    keep: which models of each cell to keep, `all`, the `best` or `none`; metrics are always kept.
    The other arguments are those of `tune`.

    A row holds the metric at the best epoch on dev, and its mean and standard deviation (`spread`, None for one seed)
    over the seeds.

    Raises `OptionError` for a k out of range and for options that differ from those `out` was started with, and the
    errors of `tune`.

    >>> ablate("mnli", "bert-base-uncased", "train.jsonl", "dev.jsonl", "ablation", freeze="all", seeds=(1, 2, 3))
    ... # doctest: +SKIP

    Source: Merchant et al. 2020, section 5.2, figures 3 and 4.
    """
    run, out = Run(Feedback(progress, say)), Path(out)
    kind, seeds = named_task(task), integers("seed", seeds, least=0)
    check_sweep(freeze=freeze, truncate=truncate)
    one_of("choice of models to keep", keep, KEEP)
    changes = ModelChanges(pooler=pooler)
    training = TrainingOptions(preset, epochs, learning_rate, batch_size, max_length)
    training.recipe(kind)  # a wrong option is reported before anything is read
    computation = Computation(trainer_device(device), allow_pickle=allow_pickle)
    require_writable(out)
    _other_tasks(out / RECORD, task)  # a record that cannot be read is reported before anything is trained
    with folder_lock(out / task):
        with run.clock.phase("load"):
            (checkpoint,) = computation.load([model])
        depth = len(block_stack(checkpoint.model))
        swept = _sweeps(depth, freeze, truncate)
        with run.clock.phase("read"):
            data = TaskData.read(kind, train, dev, limit, dev_limit)
        tuning = Tuning(kind, checkpoint, data, changes, training)
        options = _options(tuning)
        same_run(out / task / OPTIONS, options, resume=True)
        found = _run_cells(tuning, swept, seeds, out / task, KEEP[keep], run)
    rows = [
        row
        for sweep, values in swept.items()
        for k in values
        for row in _rows(task, sweep, k, {seed: found[cell_name(sweep, k), seed] for seed in seeds})
    ]
    run.notes += data.notes
    record = run.record(
        {**options, "preset": preset, "limit": limit, "dev_limit": dev_limit},
        metric=kind.metric,
        depth=depth,
        seeds=seeds,
        swept={sweep.name: values for sweep, values in swept.items()},
        kept=KEPT[keep],
        baselines=found[UNTOUCHED, seeds[0]]["run"]["baselines"],
    )
    told = {name: record.pop(name) for name in TOLD}
    own = AblateResults(rows, {"versions": versions(), "tasks": {task: record}, **told})
    return with_other_tasks(own, task, out)


def _options(tuning: Tuning) -> dict[str, Any]:
    """Return what must be the same when a sweep is continued."""
    checkpoint = tuning.checkpoint
    return {
        "task": tuning.task.name,
        "checkpoint": {"name": checkpoint.name, "content_hash": checkpoint.content_hash},
        "data": tuning.data.record(),
        "recipe": dataclasses.asdict(tuning.recipe),
        "pooler": tuning.changes.pooler,
    }


def _sweeps(depth: int, freeze: Cells, truncate: Cells) -> dict[Sweep, tuple[int, ...]]:
    """Return the sweeps that were asked for, with the k of each, for a model of `depth` blocks."""
    known = (
        Sweep("freeze", -1, depth - 1, -1, f"this model has blocks 0 to {depth - 1}, and -1 freezes nothing"),
        Sweep("truncate", 1, depth, depth, f"this model has {depth} blocks; keep 1 to {depth} of them"),
    )
    return {
        sweep: parse_cells(asked, sweep)
        for sweep, asked in zip(known, (freeze, truncate), strict=True)
        if asked is not None
    }


def _run_cells(
    tuning: Tuning,
    swept: Mapping[Sweep, Sequence[int]],
    seeds: Sequence[int],
    out: Path,
    unwanted: Iterable[str],
    run: Run,
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows and the record of each cell and seed, after training those that are not finished.

    The models in `unwanted` are deleted once a cell is finished.
    """
    cells = {UNTOUCHED: tuning}
    for sweep, values in swept.items():
        for k in values:
            change: dict[str, Any] = {} if k == sweep.untouched else {sweep.name: k}
            changes = dataclasses.replace(tuning.changes, **change)
            cells[cell_name(sweep, k)] = dataclasses.replace(tuning, changes=changes)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    jobs = [(name, seed) for name in cells for seed in seeds]
    for number, (name, seed) in enumerate(jobs, start=1):
        folder = out / f"seed-{seed}" / name
        part = f"{number} of {len(jobs)}"
        held = finished(folder, tuning.task.metric)
        if held is None:
            inner = Run(Feedback(run.feedback.prefixed(f"{part}, {name}, ")))
            with run.clock.phase("train"):
                results = run_tuning(cells[name], folder, inner, (seed,), held_run(folder, resume=True))
            held = {"rows": results.rows, "run": results.run}
        for model in unwanted:
            shutil.rmtree(folder / f"seed-{seed}" / model, ignore_errors=True)
        found[name, seed] = held
        metric = tuning.task.metric
        value = best_metrics(held["rows"])[metric]
        run.feedback.tell(f"{part}: {tuning.task.name}, {name}, seed {seed}: {metric} {value:.4f}")
    return found


def parse_cells(asked: str | int | Iterable[int], sweep: Sweep) -> tuple[int, ...]:
    """Return the k asked for and the untouched one in ascending order; raises `OptionError` for one out of range.

    >>> parse_cells("0,3-5", Sweep("freeze", -1, 11, -1, ""))
    (-1, 0, 3, 4, 5)
    """
    ranges = cell_ranges(sweep.name, asked)
    if ranges is None:
        return tuple(range(sweep.least, sweep.most + 1))
    chosen = {sweep.untouched}
    for first, last in ranges:
        if not sweep.least <= first <= last <= sweep.most:
            part = first if first == last else f"{first}-{last}"
            raise OptionError(f"cannot {sweep.name} {part}: {sweep.advice}")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def cell_name(sweep: Sweep, k: int) -> str:
    """Return the name of the folder of a cell."""
    return UNTOUCHED if k == sweep.untouched else f"{sweep.name}-{k}"


def finished(folder: Path, metric: str) -> dict[str, Any] | None:
    """Return the rows and the record of a finished cell, or None if the cell is not finished."""
    path = folder / "tuning.json"
    try:
        held: dict[str, Any] = read_json(path)
        if not held["run"]["finished"]:
            return None
        # JSON has no nan.
        rows = [{**row, "value": math.nan if row["value"] is None else row["value"]} for row in held["rows"]]
        if not ({metric} <= best_metrics(rows).keys() and {"baselines", "options"} <= held["run"].keys()):
            raise KeyError(metric)
        return {**held, "rows": rows}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BertftError(
            f"{path}: no record of a finished cell ({reason(error)}); delete the folder {folder}"
        ) from error


def best_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Return the metrics of a cell at its best epoch."""
    return {row["measure"]: row["value"] for row in rows if row["best"] and not row["measure"].endswith("loss")}


def _rows(task: str, sweep: Sweep, k: int, cells: dict[int, dict[str, Any]]) -> Iterator[Row]:
    """Yield the rows of one k, by metric and seed."""
    by_seed = {seed: best_metrics(cell["rows"]) for seed, cell in cells.items()}
    for metric in next(iter(by_seed.values())):
        values = [metrics[metric] for metrics in by_seed.values()]
        for seed, value in zip(by_seed, values, strict=True):
            yield {
                "task": task,
                "kind": sweep.name,
                "k": k,
                "seed": seed,
                "metric": metric,
                "value": value,
                "mean": statistics.fmean(values),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
            }


def with_other_tasks(found: AblateResults, task: str, folder: str | os.PathLike[str]) -> AblateResults:
    """Return the results of a task together with those of other tasks that a folder now holds.

    Several sweeps may share a folder: hold it, see `bertft.files.folder_lock`, from here until all are written.
    Raises `BertftError` if the record in the folder cannot be read.
    """
    rows, others = _other_tasks(Path(folder, RECORD), task)
    return AblateResults(
        [*rows, *(row for row in found.rows if row["task"] == task)],
        {**found.run, "tasks": {**others, task: found.run["tasks"][task]}},
    )


def _other_tasks(path: Path, task: str) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows and the records of other tasks that a file holds; none if there is no such file."""
    try:
        held = read_json(path)
        records = {str(name): dict(of) for name, of in held["run"]["tasks"].items() if name != task}
        rows = [
            {**row, **{name: math.nan for name in ("value", "mean") if row[name] is None}}
            for row in held["rows"]
            if row["task"] in records and row.keys() >= KEYS
        ]
        return rows, records
    except FileNotFoundError:
        return [], {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BertftError(f"{path}: cannot be read ({reason(error)}); delete it to have it written again") from error
