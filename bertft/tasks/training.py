"""Train the model of a task with the Hugging Face Trainer, so that a run can be killed at any time and resumed.

While a run is in progress, its folder holds `unfinished/` with the Trainer's own checkpoints, including the state of
the optimiser and of the random generators: one after every epoch, and one every ten minutes in between. When the run is
finished, the best and the last checkpoint are copied to `best/` and `last/` as models that `from_pretrained` loads,
with their weights in safetensors alone, beside the record `training.json`. Each of the three appears as a whole or not
at all.

A manifest with hashes is written last to each of the Trainer's checkpoints. One that is not as it was written is
removed, and training goes on from the newest one before it that is. The record holds the hashes of both models.

On the CPU of one machine, with the same versions of libraries and the same number of threads, a resumed run ends with
the weights of an uninterrupted one, bit for bit: the order of the rows follows from the seed and the epoch, the
generators are stored with each checkpoint, and weights are copied into tensors that are aligned in memory as those of
an uninterrupted run are. Elsewhere rounding differs.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
)

from bertft.checkpoints.files import first_line
from bertft.errors import BertftError, CheckpointError, out_of_memory
from bertft.files import (
    MANIFEST,
    broken_seal,
    checked_description,
    copy_files,
    damage,
    describe,
    folder_lock,
    holds_nothing,
    listed,
    unwritable,
    write_files,
)
from bertft.progress import Progress, Say
from bertft.records import Row, plain
from bertft.tasks.task import Features, Records, Trainable, TrainingRecipe
from bertft.tasks.trainer import (
    STATE,
    Condense,
    R,
    RecipeTrainer,
    SaveAndReport,
    checkpoints_in,
    global_state_kept,
    step_of,
    task_metrics,
)
from bertft.untrusted import read_json, reason

RECORD, UNFINISHED = "training.json", "unfinished"
_TORCH_WRITER = "PytorchStreamWriter"  # in the errors that torch raises when it cannot write


@dataclass(frozen=True)
class Trained:
    """A finished run: the folders of its two models, and one row for each epoch with the training loss and the metrics.

    `best` is the model of the epoch with the best metric on dev, the earliest of equals.
    """

    best: Path
    last: Path
    history: tuple[Row, ...]
    best_epoch: int
    steps: int
    planned_steps: int
    notes: tuple[str, ...]


def train(
    task: Trainable[R],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Records[R],
    dev: Records[R],
    folder: Path,
    recipe: TrainingRecipe,
    *,
    seed: int,
    resume: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    condense: Condense | None = None,
    say: Say | None = None,
) -> Trained:
    """Train the parameters of a model that require a gradient, on the model's device, and keep the best and last state.

    resume: continue the run that `folder` holds, or start one if it holds none. The caller ensures that the options are
        the same, and passes the model as it was before the run began.
    progress: called as progress(done, total, what).
    callbacks: added to the Trainer.
    say: called with a line of text for each checkpoint of an earlier run that cannot be used.
    condense: called with the model's outputs for a batch of dev and with its labels; returns what is kept of them for
        `task.evaluate`. Use it when all outputs would take too much memory.

    The Trainer seeds the global random generators; afterwards they are restored.

    Raises `BertftError` if the folder cannot be written, if another run is at work there, if it holds a run and
    `resume` is false, or a finished run whose models are not as they were written; `CheckpointError` if the model
    cannot be trained. Checkpoints that were complete before an error are kept.

    >>> trained = train(task, model, tokenizer, records, dev, Path("run"), task.recipes["paper"], seed=1)
    ... # doctest: +SKIP
    """
    with folder_lock(folder):
        unfinished = folder / UNFINISHED
        if (folder / RECORD).exists() and resume:
            with _clean_on_error(folder):
                found = read_trained(folder)
                if unfinished.is_dir():  # the run was killed while it was deleted
                    shutil.rmtree(unfinished)
            return found
        if not resume and ((folder / RECORD).exists() or not holds_nothing(unfinished)):
            raise BertftError(f"{folder}: holds a run already; resume it, or name another folder")
        with _clean_on_error(folder), failures_explained(task, model):
            features = {
                name: task.encode(records, tokenizer, recipe, labels=_labels(model), training=name == "train")
                for name, records in (("train", train), ("dev", dev))
            }
            unfinished.mkdir(parents=True, exist_ok=True)
            checkpoint = _newest_whole(unfinished, say)
            with global_state_kept():
                trainer = RecipeTrainer(
                    task,
                    model,
                    tokenizer,
                    recipe,
                    features["train"],
                    (features["dev"], dev),
                    unfinished,
                    seed=seed,
                    callbacks=[SaveAndReport(recipe, progress)],
                    condense=condense,
                )
                for callback in callbacks:
                    trainer.add_callback(callback)
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            return _finish(folder, trainer.state, recipe, features)


def evaluate(
    task: Trainable[R],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records[R],
    recipe: TrainingRecipe,
    *,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the metrics of a model as it is; raises `CheckpointError` if it cannot be run."""
    # The Trainer requires a folder, and writes nothing to it.
    with failures_explained(task, model), global_state_kept(), tempfile.TemporaryDirectory() as folder:
        features = task.encode(records, tokenizer, recipe, labels=_labels(model), training=False)
        trainer = RecipeTrainer(
            task,
            model,
            tokenizer,
            recipe,
            Features(()),
            (features, records),
            Path(folder),
            seed=0,
            callbacks=[SaveAndReport(recipe, progress)],
        )
        return task_metrics(trainer.evaluate())


def _finish(folder: Path, state: TrainerState, recipe: TrainingRecipe, features: Mapping[str, Features]) -> Trained:
    """Write the best and last model and the record of a run to its folder, and delete what was unfinished."""
    last = state.global_step
    best = last if state.best_global_step is None else state.best_global_step
    history = _history(state)
    trained = Trained(
        best=folder / "best",
        last=folder / "last",
        history=history,
        best_epoch=next((row["epoch"] for row in history if row["step"] == best), recipe.epochs),
        steps=last,
        planned_steps=state.max_steps,
        notes=tuple(f"{name}: {note}" for name, found in features.items() for note in found.notes),
    )
    unfinished = folder / UNFINISHED
    models: dict[str, Any] = {}
    for name, step in (("best", best), ("last", last)):
        checkpoint = unfinished / f"checkpoint-{step}"
        copied, sealed = _model_files(checkpoint), listed(checkpoint)
        copy_files(copied, folder / name)
        for file, described in describe(folder / name, [file.name for file in copied]).items():
            if described != sealed.get(file):
                raise BertftError(
                    f"{checkpoint}: {file} has changed since it was written; resume the run to train again"
                )
            models[f"{name}/{file}"] = described
    write_files(folder, {RECORD: _record_bytes(trained, models)})
    shutil.rmtree(unfinished)
    return trained


def read_trained(folder: Path) -> Trained:
    """Return the finished run that a folder holds; raises `BertftError` if it holds none, or not its models."""
    try:
        record = dict(read_json(folder / RECORD))
        models = checked_description(record.pop("files", {}))
        # JSON has no nan.
        history = tuple(
            {name: math.nan if value is None else value for name, value in row.items()} for row in record["history"]
        )
        if not history or not all(row.keys() >= {"epoch", "step"} for row in history):
            raise KeyError("epoch")
        notes = tuple(map(str, record["notes"]))
        trained = Trained(folder / "best", folder / "last", **{**record, "history": history, "notes": notes})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BertftError(f"{folder / RECORD}: no record of a finished run ({reason(error)}); train again") from error
    problems = []
    for name in ("best", "last"):
        own = {file: of for file, of in models.items() if file.startswith(f"{name}/")}
        if problem := damage(folder, own) if (folder / name).is_dir() else f"{name} is missing":
            problems.append(problem)
    if problems:
        raise BertftError(
            f"{folder}: {' and '.join(problems)}, but the run is finished; restore the models, or delete {folder} to "
            "train them again"
        )
    return trained


def _labels(model: PreTrainedModel) -> dict[str, int]:
    """Return the index of each label in the model's config."""
    return {str(label): int(number) for label, number in (model.config.label2id or {}).items()}


def _history(state: TrainerState) -> tuple[Row, ...]:
    """Return a row for each epoch: its number, its last step, its mean loss, the metrics and the logs of callbacks."""
    rows: list[Row] = []
    losses: list[tuple[float, float]] = []
    before = 0.0
    for entry in state.log_history:
        if "loss" in entry:
            # The mean over the steps since the previous entry.
            losses.append((entry["loss"], entry["step"] - before))
            before = entry["step"]
        elif "eval_runtime" in entry:
            steps = sum(count for _, count in losses)
            mean = sum(loss * count for loss, count in losses) / steps if steps else math.nan
            row = {"epoch": math.ceil(entry["epoch"]), "step": entry["step"], "train_loss": mean}
            rows.append({**row, **task_metrics(entry)})
            losses = []
        elif rows and entry["step"] == rows[-1]["step"] and "train_runtime" not in entry:
            # Logged by a callback after the evaluation.
            rows[-1] |= {name: value for name, value in entry.items() if name not in ("epoch", "step")}
    return tuple(rows)


def _newest_whole(unfinished: Path, say: Say | None) -> Path | None:
    """Return the newest checkpoint that is as it was written, and delete later ones."""
    found = checkpoints_in(unfinished)
    refused: list[tuple[Path, str]] = []
    while found and (problem := _unusable(found[-1])):
        refused.append((found.pop(), problem))
    going = f"training goes on from {found[-1].name}" if found else "training starts from the beginning"
    for checkpoint, problem in refused:
        if say is not None:
            say(f"{checkpoint}: {problem}; it is deleted, and {going}")
        shutil.rmtree(checkpoint)
    return found[-1] if found else None


def _unusable(checkpoint: Path) -> str | None:
    """Return why a run cannot be continued from a checkpoint, or None if it can."""
    if problem := broken_seal(checkpoint):
        return problem
    try:
        best = read_json(checkpoint / STATE).get("best_global_step")
    except (OSError, ValueError, AttributeError):
        return f"{STATE} cannot be read"
    if best is None or best == step_of(checkpoint):
        return None
    problem = broken_seal(checkpoint.with_name(f"checkpoint-{best}"))
    return problem and f"the best checkpoint before it, checkpoint-{best}, cannot be used: {problem}"


def _model_files(checkpoint: Path) -> list[Path]:
    """Return the files of the model and the tokenizer, without those that only the Trainer reads."""
    return [
        file
        for file in checkpoint.iterdir()
        if file.name not in (STATE, "README.md") and file.name[0] != "." and file.suffix not in (".bin", ".pt", ".pth")
    ]


def _record_bytes(trained: Trained, models: Mapping[str, Any]) -> bytes:
    record: dict[str, Any] = {name: value for name, value in asdict(trained).items() if name not in ("best", "last")}
    record["files"] = models
    return (json.dumps(plain(record), ensure_ascii=False, indent=2) + "\n").encode()


@contextmanager
def _clean_on_error(folder: Path) -> Iterator[None]:
    """Report a failure to write as a `BertftError`, and delete incomplete checkpoints."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, BertftError) as error:
        # torch and safetensors raise errors of their own when a disk is full.
        if isinstance(error, RuntimeError) and _TORCH_WRITER not in str(error):
            raise
        unfinished = folder / UNFINISHED
        with suppress(OSError):
            for checkpoint in checkpoints_in(unfinished):
                if not (checkpoint / MANIFEST).exists():
                    shutil.rmtree(checkpoint)
            if holds_nothing(unfinished):
                shutil.rmtree(unfinished)
        if isinstance(error, BertftError):
            raise
        raise unwritable(folder, error) from error


@contextmanager
def failures_explained(task: Trainable[R], model: Any) -> Iterator[None]:
    """Report what a model, its tokenizer or the Trainer raises as a `CheckpointError` that names the model.

    A lack of memory and failures to write are left as they are.
    """
    try:
        yield
    except (BertftError, OSError, SafetensorError, MemoryError):
        raise
    except Exception as error:
        if out_of_memory(error) or _TORCH_WRITER in str(error):
            raise
        if isinstance(error, ImportError):
            raise BertftError(f"{first_line(error)}; fine-tuning needs pip install 'bertft[tune]'") from error
        name = getattr(model, "name_or_path", None) or getattr(model.config, "model_type", type(model).__name__)
        raise CheckpointError(
            f"{name}: cannot be trained or run on {task.name}: {type(error).__name__}: {first_line(error)}; try a "
            "checkpoint of another architecture, or set BERTFT_DEBUG=1 to see where it failed"
        ) from error
