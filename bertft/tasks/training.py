"""Training a task's model with the Hugging Face Trainer, so that it can be killed at any time and taken up again.

While it runs, a folder holds `unfinished/` with the Trainer's own checkpoints, optimiser and generators included: after
every epoch, and every ten minutes between. When it is done, the best and the last of them are left as `best/` and
`last/`, models that `from_pretrained` loads, weights in safetensors alone, beside the record `training.json`; each
appears whole or not at all. On the CPU a run that was taken up again ends with the weights of an unbroken one, bit for
bit, because the order of the rows follows from the seed and the epoch, and generators are stored with each checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
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
from bertft.progress import Progress
from bertft.records import Row, plain
from bertft.tasks.task import Features, Recipe, Records, Trainable
from bertft.tasks.trainer import Condense, R, _metrics, _outside_as_before, _Trainer, _Watch

RECORD, UNFINISHED = "training.json", "unfinished"
_STATE = "trainer_state.json"  # the last file the Trainer writes of a checkpoint


@dataclass(frozen=True)
class Trained:
    """A finished run: its two models, and one row an epoch with the training loss and the metrics on dev.

    `best` is the model of the epoch with the best metric, the first of equals; `seconds` counts the last stretch
    alone where the run was taken up again.
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
    recipe: Recipe,
    *,
    seed: int,
    resume: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    condense: Condense | None = None,
) -> Trained:
    """Train a model on the device it is on, parameters that need no gradient left out, keep its best and last state.

    resume: take up what `folder` holds of the same run, or begin where it holds nothing; the caller answers for the
    options being the same, and gives the model as it was built. progress: called as progress(done, total, what).
    condense: called with the model's outputs for a batch of dev and its labels, gives what is kept of the outputs for
    `task.evaluate`, where all of them would be too much. Global random generators are set by the Trainer, and put back.

    Raises `BertftError` where the folder cannot be written, or holds a run and `resume` is not asked for; what was
    complete before then stays.

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
    with _writing(folder):
        unfinished = folder / UNFINISHED
        unfinished.mkdir(parents=True, exist_ok=True)
        checkpoint = _newest_whole(unfinished)
        with _outside_as_before():
            trainer = _Trainer(
                task,
                model,
                tokenizer,
                recipe,
                features["train"],
                (features["dev"], dev),
                unfinished,
                seed=seed,
                callbacks=[_Watch(recipe, progress)],
                condense=condense,
            )
            for callback in callbacks:
                if hasattr(callback, "attach"):  # one that logs, such as RSACallback, has to know the Trainer
                    callback.attach(trainer)
                else:
                    trainer.add_callback(callback)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
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
            seconds=time.perf_counter() - start,
            notes=tuple(f"{name}: {note}" for name, found in features.items() for note in found.notes),
        )
        for name, step in (("best", best), ("last", last)):
            _publish(unfinished / f"checkpoint-{step}", folder / name)
        _write_record(trained, folder / RECORD)
        shutil.rmtree(unfinished)
    return trained


def evaluate(
    task: Trainable[R],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records[R],
    recipe: Recipe,
    *,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The metrics of a model as it is."""
    features = task.encode(records, tokenizer, recipe, labels=_labels(model), training=False)
    # The Trainer wants a folder, and leaves it empty.
    with _outside_as_before(), tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            task,
            model,
            tokenizer,
            recipe,
            Features(()),
            (features, records),
            Path(folder),
            seed=0,
            callbacks=[_Watch(recipe, progress)],
        )
        return _metrics(trainer.evaluate())


def read_trained(folder: Path) -> Trained:
    """What a finished run left in its folder; raises `BertftError` where there is none."""
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
    """The number of each label, as the model's config has it."""
    return {str(label): int(number) for label, number in (model.config.label2id or {}).items()}


def _history(state: TrainerState) -> tuple[Row, ...]:
    """One row an epoch: its number, its last step, the mean loss of its steps, the metrics and callbacks' after it."""
    rows: list[Row] = []
    losses: list[tuple[float, float]] = []
    before = 0.0
    for entry in state.log_history:
        if "loss" in entry:
            # A mean over the steps since the entry before.
            losses.append((entry["loss"], entry["step"] - before))
            before = entry["step"]
        elif "eval_runtime" in entry:
            steps = sum(count for _, count in losses)
            mean = sum(loss * count for loss, count in losses) / steps if steps else math.nan
            row = {"epoch": math.ceil(entry["epoch"]), "step": entry["step"], "train_loss": mean}
            rows.append({**row, **_metrics(entry)})
            losses = []
        elif rows and entry["step"] == rows[-1]["step"] and "train_runtime" not in entry:
            # What a callback logged after the evaluation.
            rows[-1] |= {name: value for name, value in entry.items() if name not in ("epoch", "step")}
    return tuple(rows)


def _newest_whole(unfinished: Path) -> Path | None:
    """The newest checkpoint that was written to its end; those that were not are deleted."""
    found = sorted(unfinished.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = None
    for checkpoint in found:
        try:
            json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
            whole = checkpoint
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return whole


def _publish(checkpoint: Path, target: Path) -> None:
    """Copy the model of a checkpoint and its tokenizer, and nothing that only the Trainer reads."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for file in checkpoint.iterdir():
            if file.name not in (_STATE, "README.md") and file.suffix not in (".bin", ".pt", ".pth"):
                shutil.copyfile(file, temporary / file.name)
                _sync(temporary / file.name)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_record(trained: Trained, path: Path) -> None:
    record = {name: value for name, value in asdict(trained).items() if name not in ("best", "last")}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(plain(record), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Within: what goes wrong in writing is told in one line, half-written checkpoints go, and an empty folder too."""
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch and safetensors have errors of their own for a disk that is full.
        if type(error) is RuntimeError and "PytorchStreamWriter" not in str(error):
            raise
        if (folder / UNFINISHED).is_dir():
            _newest_whole(folder / UNFINISHED)
        for place in (folder / UNFINISHED, *made):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise BertftError(f"{folder}: cannot write there: {reason}; free space or name another folder") from error
