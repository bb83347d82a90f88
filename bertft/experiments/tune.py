"""Fine-tune a checkpoint on a task with several seeds.

The record of a run holds everything that the result depends on. It is written after every seed, so that a run that was
killed can be resumed; resuming it with other options is refused.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainerCallback

from bertft.checkpoints.checkpoint import Checkpoint, length_limit
from bertft.checkpoints.edit import POOLERS
from bertft.checkpoints.edit import freeze as freeze_blocks
from bertft.checkpoints.edit import truncate as truncate_blocks
from bertft.errors import BertftError, OptionError
from bertft.experiments.inputs import Computation, Source
from bertft.experiments.results import Drawing, Layout, Report, Results
from bertft.experiments.run import Run, check_same
from bertft.files import folder_lock, holds_nothing, require_writable, unwritable, write_files
from bertft.options import check_changes, integers, one_of, optional_integer, rate
from bertft.progress import Feedback, Progress, Say
from bertft.records import Row
from bertft.tasks import named_task
from bertft.tasks.lora import with_lora
from bertft.tasks.task import Records, Task, TrainingRecipe
from bertft.tasks.training import Trained, evaluate, failures_explained
from bertft.tasks.training import train as train_model
from bertft.untrusted import read_json, reason

DataSource = str | os.PathLike[str] | Records[Any]

COLUMNS = ("model", "baseline", "seed", "epoch", "measure", "value", "best")
UNTRAINED = "untrained head"
RECORD = "tuning.json"


@dataclass(frozen=True)
class TuneResults(Results):
    """What `tune` returns: a row for each seed, epoch and measure and for each baseline, and the record of the run."""

    layout: ClassVar[Layout] = Layout(("model", "epoch"), ("measure",))

    title: ClassVar[str] = "Fine-tuning"
    stem: ClassVar[str] = "tuning"

    def report(self) -> Report:
        """Return the figure `tuning`, the metric by epoch."""
        return Report(COLUMNS, {"tuning": self.figure})

    def drawing(self) -> Drawing:
        """Return the metric of the task by epoch, a line for each seed and a level one for each baseline."""
        from bertft.report.drawing import Line
        from bertft.report.rows import qualified

        metric = self.run["metric"]
        of_metric = [row for row in self.rows if row["measure"] == metric]
        epochs = sorted({row["epoch"] for row in of_metric if not row["baseline"]})
        lines = []
        for seed in dict.fromkeys(row["seed"] for row in of_metric if not row["baseline"]):
            points = [(row["epoch"], row["value"]) for row in of_metric if row["seed"] == seed and not row["baseline"]]
            x, y = zip(*points, strict=True)
            lines.append(Line(f"seed {seed}", False, x, y))
        for row in of_metric:
            if row["baseline"]:
                lines.append(Line(row["model"], True, [epochs[0] - 0.4, epochs[-1] + 0.4], [row["value"]] * 2))
        detail = qualified("baselines dashed", self.run)
        return Drawing(f"Fine-tuning on {self.run['task']}", detail, "Epoch", metric, lines)


def tune(
    task: str,
    model: Source,
    train: DataSource,
    dev: DataSource,
    out: str | os.PathLike[str],
    *,
    seeds: int | Sequence[int] = (1,),
    freeze: int = -1,
    truncate: int | None = None,
    pooler: str = "keep",
    lora: int | None = None,
    preset: str = "paper",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    dev_limit: int | None = None,
    resume: bool = False,
    device: str = "auto",
    allow_pickle: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
    say: Say | None = None,
) -> TuneResults:
    """Fine-tune a checkpoint once for each seed, and write the models and their metrics on dev to a folder.

    task: `mnli`, `squad` or `dep`.
    model: a folder, a hub name, or a loaded `Checkpoint`.
    train, dev: a file in the published format of the task, a data set of the hub as `NAME:SPLIT`, or `Records`.
    out: the output directory; it gets `seed-1/best`, `seed-1/last` and so on, `tuning.json` and `tuning.csv`.
    seeds: of the weights of the head, the order of the data and dropout.
    freeze: the last block to freeze, together with the embeddings and all blocks before it; -1 freezes nothing.
    truncate: how many blocks to keep; by default all.
    pooler: of a truncated model, `keep` or `reset`, see `bertft.checkpoints.edit.truncate`.
    lora: the rank of low-rank adapters; if it is given, only they and the head are trained.
    preset: the recipe, `paper` or `today`; epochs, learning_rate, batch_size and max_length replace its numbers.
    limit, dev_limit: the most records of each set, drawn once for all seeds.
    resume: continue the run that `out` holds; its options must be the same.
    device: `auto`, `cpu` or `cuda`.
    allow_pickle: see `bertft.score`.
    callbacks: for the Trainer.
    progress: called as progress(done, total, what).  say: called with lines of text for the user.

    Raises `DataError` for data that cannot be read or trained on, `OptionError` for an option out of range,
    `CheckpointError` for a model that cannot be loaded, truncated or trained, and `BertftError` if `out` cannot be
    written, holds another run or the damaged models of this one, or if another run is at work there.

    >>> tuned = tune("mnli", "bert-base-uncased", "train.jsonl", "dev.jsonl", "runs/mnli", seeds=[1, 2, 3])
    ... # doctest: +SKIP

    Source: Merchant et al. 2020, section 3; Devlin et al. 2019.
    """
    run, out = Run(Feedback(progress, say)), Path(out)
    kind, seeds = named_task(task), integers("seed", seeds, least=0)
    changes = ModelChanges(freeze, truncate, pooler, lora)
    training = TrainingOptions(preset, epochs, learning_rate, batch_size, max_length)
    training.recipe(kind)  # a wrong option is reported before anything is read
    computation = Computation(trainer_device(device), allow_pickle=allow_pickle)
    require_writable(out)
    with folder_lock(out):
        held = held_run(out, resume=resume)
        with run.clock.phase("read"):
            data = TaskData.read(kind, train, dev, limit, dev_limit)
        with run.clock.phase("load"):
            (checkpoint,) = computation.load([model])
        return run_tuning(Tuning(kind, checkpoint, data, changes, training), out, run, seeds, held, callbacks)


@dataclass(frozen=True)
class TrainingOptions:
    """A preset of a task, and the numbers that replace those of its recipe."""

    preset: str
    epochs: int | None
    learning_rate: float | None
    batch_size: int | None
    max_length: int | None

    def recipe(self, task: Task[Any]) -> TrainingRecipe:
        """Return the recipe for a task; raises `OptionError` for an option out of range."""
        recipe = task.recipes[one_of("preset", self.preset, task.recipes)]
        given: dict[str, Any] = {
            "epochs": optional_integer("epochs", self.epochs, least=1),
            "learning_rate": None if self.learning_rate is None else rate(self.learning_rate),
            "batch_size": optional_integer("batch_size", self.batch_size, least=1),
            "max_length": optional_integer("max_length", self.max_length, least=8),
        }
        return dataclasses.replace(recipe, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ModelChanges:
    """How a model is changed before it is trained; see `tune` for each option."""

    freeze: int = -1
    truncate: int | None = None
    pooler: str = "keep"
    lora: int | None = None

    def __post_init__(self) -> None:
        one_of("treatment of the pooler", self.pooler, POOLERS)
        check_changes(truncate=self.truncate, lora=self.lora)

    def apply(self, model: Any) -> Any:
        """Change a model in place and return it, wrapped if it gets adapters."""
        if self.truncate is not None:
            truncate_blocks(model, self.truncate, pooler=self.pooler)
        freeze_blocks(model, self.freeze)
        return model if self.lora is None else with_lora(model, self.lora, first_block=self.freeze + 1)

    def record(self) -> dict[str, Any]:
        """Return the changes for the record of the run."""
        return {**dataclasses.asdict(self), "pooler": self.pooler if self.truncate is not None else None}


@dataclass(frozen=True)
class TaskData:
    """The records to train on and to evaluate on, and how many of each were drawn at most."""

    train: Records[Any]
    dev: Records[Any]
    limit: int | None
    dev_limit: int | None

    @classmethod
    def read(
        cls, task: Task[Any], train: DataSource, dev: DataSource, limit: int | None, dev_limit: int | None
    ) -> TaskData:
        """Read both sets; raises `DataError` if one cannot be read, or if nothing can be learned from the first."""

        def read(source: DataSource, name: str, most: int | None) -> Records[Any]:
            records = source if isinstance(source, Records) else task.read(os.fspath(source))
            return records.limited(optional_integer(name, most, least=1), seed=0)

        data = cls(read(train, "limit", limit), read(dev, "dev_limit", dev_limit), limit, dev_limit)
        task.check(data.train)
        return data

    @property
    def notes(self) -> list[str]:
        """The notes of both sets, with the name of the set."""
        return [f"{name}: {note}" for name, records in self._sets for note in records.notes]

    def record(self) -> dict[str, Any]:
        """Return the name, hash and size of both sets for the record of the run."""
        return {
            name: {"name": records.name, "content_hash": records.content_hash, "records": len(records.items)}
            for name, records in self._sets
        }

    @property
    def _sets(self) -> tuple[tuple[str, Records[Any]], ...]:
        return ("train", self.train), ("dev", self.dev)


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning of a checkpoint on a task: everything that the result depends on, except for the seed."""

    task: Task[Any]
    checkpoint: Checkpoint
    data: TaskData
    changes: ModelChanges
    training: TrainingOptions

    @property
    def recipe(self) -> TrainingRecipe:
        """The recipe, with inputs no longer than the model takes."""
        recipe = self.training.recipe(self.task)
        return dataclasses.replace(recipe, max_length=min(recipe.max_length, length_limit(self.checkpoint)))

    def build(self, seed: int) -> Any:
        """Return a new model to train; torch's generators are left as they were."""
        with torch.random.fork_rng(), failures_explained(self.task, self.checkpoint.model):
            torch.manual_seed(seed)
            return self.changes.apply(self.task.build(self.checkpoint, self.data.train))

    def record(self, seeds: Sequence[int]) -> dict[str, Any]:
        """Return what identifies the run: it must be the same when the run is resumed."""
        return {
            "options": {
                "seeds": seeds,
                **self.changes.record(),
                "preset": self.training.preset,
                "limit": self.data.limit,
                "dev_limit": self.data.dev_limit,
                "device": str(self.checkpoint.model.device.type),
            },
            "task": self.task.name,
            "checkpoints": {self.checkpoint.name: self.checkpoint.content_hash},
            "data": self.data.record(),
            "recipe": dataclasses.asdict(self.recipe),
        }

    def baselines(self, untrained: Any, progress: Progress | None) -> dict[str, dict[str, float]]:
        """Return the metrics of the baselines on dev, among them a model whose head is not trained."""
        found = dict(self.task.baselines(self.data.train, self.data.dev, seed=0))
        found[UNTRAINED] = evaluate(
            self.task, untrained, self.checkpoint.tokenizer, self.data.dev, self.recipe, progress=progress
        )
        return found

    def train(
        self,
        seed: int,
        folder: Path,
        callbacks: Sequence[TrainerCallback],
        progress: Progress | None,
        say: Say | None = None,
    ) -> Trained:
        """Train a model with one seed, or continue if its folder holds it unfinished."""
        return train_model(
            self.task,
            self.build(seed),
            self.checkpoint.tokenizer,
            self.data.train,
            self.data.dev,
            folder,
            self.recipe,
            seed=seed,
            resume=True,
            progress=progress,
            callbacks=callbacks,
            say=say,
        )


def run_tuning(
    tuning: Tuning,
    out: Path,
    run: Run,
    seeds: Sequence[int],
    held: Mapping[str, Any] | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TuneResults:
    """Train with each seed and write the results so far after each; `held` is the record of a run to resume.

    The caller holds `out`, see `bertft.files.folder_lock`.
    """
    untrained = tuning.build(seeds[0])
    parts = tuning.record(seeds)
    if held is not None:
        check_same(out, {part: held.get(part) for part in parts}, parts)
        baselines = _held_baselines(held)
    else:
        with run.clock.phase("baselines"):
            baselines = tuning.baselines(untrained, run.feedback.progress)
    rows = list(_baseline_rows(baselines))
    run.notes += tuning.data.notes

    metric = tuning.task.metric

    def written(*, finished: bool) -> TuneResults:
        record = run.record(**parts, metric=metric, baselines=baselines, finished=finished)
        results = TuneResults(rows, record)
        write_files(out, results.files().numbers)
        return results

    results = written(finished=False)
    for seed in seeds:
        with run.clock.phase("training"):
            progress = run.feedback.prefixed(f"seed {seed}, ")
            trained = tuning.train(seed, out / f"seed-{seed}", callbacks, progress, run.feedback.say)
        rows += _rows(tuning.checkpoint.name, seed, trained)
        run.notes += trained.notes
        best = next((row for row in trained.history if row["epoch"] == trained.best_epoch), {})
        if metric not in best:
            raise BertftError(
                f"{out / f'seed-{seed}'}: its record lacks the {metric} of the best epoch; delete the folder"
            )
        run.feedback.tell(f"seed {seed}: {metric} {best[metric]:.4f} after epoch {trained.best_epoch}")
        results = written(finished=seed == seeds[-1])
    return results


def trainer_device(device: str) -> str:
    """Return a device that the Trainer can be told to use; raises `OptionError` for one of several GPUs."""
    if device.startswith("cuda:"):
        raise OptionError(
            f"the Trainer uses the first visible GPU; give cuda, and set CUDA_VISIBLE_DEVICES={device[5:]}"
        )
    return device


def held_run(out: Path, *, resume: bool) -> dict[str, Any] | None:
    """Return the record of the run that a folder holds, or None if the folder is empty or does not exist.

    Raises `BertftError` if the folder holds something else, or a run and `resume` is false.
    """
    path = out / RECORD
    try:
        if holds_nothing(out):
            return None
        run: dict[str, Any] = read_json(path)["run"]
        _held_baselines(run)
    except FileNotFoundError:
        raise BertftError(f"{out}: holds other files, and no run to resume; name a new or an empty folder") from None
    except OSError as error:
        raise unwritable(out, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BertftError(
            f"{path}: no record of a run ({reason(error)}); restore it, or name another folder"
        ) from error
    if not resume:
        raise BertftError(f"{out}: holds a run already; resume it (--resume) or name another folder")
    return run


def _held_baselines(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the baselines of a record that was read from JSON, which has no nan."""
    return {
        str(name): {str(measure): math.nan if value is None else float(value) for measure, value in metrics.items()}
        for name, metrics in run["baselines"].items()
    }


def _rows(model: str, seed: int, trained: Trained) -> Iterator[Row]:
    """Yield the rows of one seed, by epoch and measure."""
    for entry in trained.history:
        for measure, value in entry.items():
            if measure not in ("epoch", "step"):
                yield {
                    "model": model,
                    "baseline": False,
                    "seed": seed,
                    "epoch": entry["epoch"],
                    "measure": measure,
                    "value": value,
                    "best": entry["epoch"] == trained.best_epoch,
                }


def _baseline_rows(baselines: Mapping[str, Mapping[str, float]]) -> Iterator[Row]:
    for name, metrics in baselines.items():
        for measure, value in metrics.items():
            row = {"model": name, "baseline": True, "seed": None, "epoch": None}
            yield {**row, "measure": measure, "value": value, "best": False}
