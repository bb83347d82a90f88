"""Train the model of a task with the Hugging Face Trainer, so that a run can be killed at any time and resumed.

While a run is in progress, its folder holds `unfinished/` with the Trainer's own checkpoints, including the state of
the optimiser and of the random generators: one after every epoch, and one every ten minutes in between. When the run is
finished, the best and the last checkpoint are copied to `best/` and `last/` as models that `from_pretrained` loads,
with their weights in safetensors alone, beside the record `training.json`. Each of the three appears as a whole or not
at all.

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
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
)

from bertft.errors import BertftError
from bertft.files import copy_files, unwritable, write_files
from bertft.progress import Progress
from bertft.records import Row, plain
from bertft.tasks.task import Features, Records, Trainable, TrainingRecipe
from bertft.tasks.trainer import Condense, R, RecipeTrainer, SaveAndReport, global_state_kept, task_metrics

RECORD, UNFINISHED = "training.json", "unfinished"
_STATE = "trainer_state.json"  # the last file that the Trainer writes of a checkpoint


@dataclass(frozen=True)
class Trained:
    """A finished run: the folders of its two models, and one row for each epoch with the training loss and the metrics.

    `best` is the model of the epoch with the best metric on dev, the earliest of equals. `seconds` is the time since
    the run was started or last resumed.
    """

    best: Path
    last: Path
    history: tuple[Row, ...]
    best_epoch: int
    steps: int
    planned_steps: int
    seconds: float
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
) -> Trained:
    """Train the parameters of a model that require a gradient, on the model's device, and keep the best and last state.

    resume: continue the run that `folder` holds, or start one if it holds none. The caller ensures that the options are
        the same, and passes the model as it was before the run began.
    progress: called as progress(done, total, what).
    callbacks: added to the Trainer; one that has a method `attach`, such as `RSACallback`, is attached to it.
    condense: called with the model's outputs for a batch of dev and with its labels; returns what is kept of them for
        `task.evaluate`. Use it when all outputs would take too much memory.

    The Trainer seeds the global random generators; afterwards they are restored.

    Raises `BertftError` if the folder cannot be written, or if it holds a run and `resume` is false. Checkpoints that
    were complete before an error are kept.

    >>> trained = train(task, model, tokenizer, records, dev, Path("run"), task.recipes["paper"], seed=1)
    ... # doctest: +SKIP
    """
    if (folder / RECORD).exists() and resume:
        return read_trained(folder)
    if not resume and any((folder / name).exists() for name in (RECORD, UNFINISHED)):
        raise BertftError(f"{folder}: holds a run already; resume it, or name another folder")
    start = time.perf_counter()
    features = {
        name: task.encode(records, tokenizer, recipe, labels=_labels(model), training=name == "train")
        for name, records in (("train", train), ("dev", dev))
    }
    with _clean_on_error(folder):
        unfinished = folder / UNFINISHED
        unfinished.mkdir(parents=True, exist_ok=True)
        checkpoint = _newest_complete(unfinished)
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
            _add_callbacks(trainer, callbacks)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return _finish(folder, trainer.state, recipe, features, time.perf_counter() - start)


def evaluate(
    task: Trainable[R],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records[R],
    recipe: TrainingRecipe,
    *,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the metrics of a model as it is."""
    features = task.encode(records, tokenizer, recipe, labels=_labels(model), training=False)
    # The Trainer requires a folder, and writes nothing to it.
    with global_state_kept(), tempfile.TemporaryDirectory() as folder:
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


def _add_callbacks(trainer: RecipeTrainer, callbacks: Sequence[TrainerCallback]) -> None:
    for callback in callbacks:
        if hasattr(callback, "attach"):  # a callback that logs needs the Trainer
            callback.attach(trainer)
        else:
            trainer.add_callback(callback)


def _finish(
    folder: Path, state: TrainerState, recipe: TrainingRecipe, features: Mapping[str, Features], seconds: float
) -> Trained:
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
        seconds=seconds,
        notes=tuple(f"{name}: {note}" for name, found in features.items() for note in found.notes),
    )
    unfinished = folder / UNFINISHED
    for name, step in (("best", best), ("last", last)):
        copy_files(_model_files(unfinished / f"checkpoint-{step}"), folder / name)
    write_files(folder, {RECORD: _record_bytes(trained)})
    shutil.rmtree(unfinished)
    return trained


def read_trained(folder: Path) -> Trained:
    """Return the finished run that a folder holds; raises `BertftError` if it holds none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Trained(
            best=folder / "best",
            last=folder / "last",
            **{**record, "history": tuple(record["history"]), "notes": tuple(record["notes"])},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BertftError(f"{folder / RECORD}: no record of a finished run ({error}); train again") from error


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


def _newest_complete(unfinished: Path) -> Path | None:
    """Return the newest checkpoint that was written completely, and delete those that were not."""
    found = sorted(unfinished.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = None
    for checkpoint in found:
        try:
            json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
            complete = checkpoint
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return complete


def _model_files(checkpoint: Path) -> list[Path]:
    """Return the files of the model and the tokenizer, without those that only the Trainer reads."""
    return [
        file
        for file in checkpoint.iterdir()
        if file.name not in (_STATE, "README.md") and file.suffix not in (".bin", ".pt", ".pth")
    ]


def _record_bytes(trained: Trained) -> bytes:
    record = {name: value for name, value in asdict(trained).items() if name not in ("best", "last")}
    return (json.dumps(plain(record), ensure_ascii=False, indent=2) + "\n").encode()


@contextmanager
def _clean_on_error(folder: Path) -> Iterator[None]:
    """Report a failure to write as a `BertftError`, and delete incomplete checkpoints and folders that are empty."""
    created = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, BertftError) as error:
        # torch and safetensors raise errors of their own when a disk is full.
        if type(error) is RuntimeError and "PytorchStreamWriter" not in str(error):
            raise
        if (folder / UNFINISHED).is_dir():
            _newest_complete(folder / UNFINISHED)
        for path in (folder / UNFINISHED, *created):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        if isinstance(error, BertftError):
            raise
        raise unwritable(folder, error) from error
