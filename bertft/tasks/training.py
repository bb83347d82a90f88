"""Training a task's model with the Hugging Face Trainer, so that it can be killed at any time and taken up again.

While it runs, a folder holds `unfinished/` with the Trainer's own checkpoints, optimiser and generators included: after
every epoch, and every ten minutes between. When it is done, the best and the last of them are left as `best/` and
`last/`, models that `from_pretrained` loads, weights in safetensors alone, beside the record `training.json`; each
appears whole or not at all. On the CPU of one machine, with the same versions of libraries and the same number of
threads, a run that was taken up again ends with the weights of an unbroken one, bit for bit: the order of the rows
follows from the seed and the epoch, generators are stored with each checkpoint, and weights are copied into tensors
that lie in memory as those of an unbroken run do. Elsewhere rounding differs.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from bertft.errors import BertftError
from bertft.models import quiet_transformers
from bertft.records import Row, plain
from bertft.tasks.optimization import optimizer_of, raise_head_rate, schedule_of
from bertft.tasks.task import Features, Prediction, Recipe, Records, Trainable

R = TypeVar("R")
Progress = Callable[[int, int, str], None]
Condense = Callable[[Any, Any], Any]

SAVE_SECONDS = 600.0
"""How much work, in seconds, a kill may cost within an epoch."""

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


class _Trainer(Trainer):
    """The Trainer with a recipe's optimiser and schedule, and a task's metrics."""

    def __init__(
        self,
        task: Trainable[R],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        train: Features,
        dev: tuple[Features, Records[R]],
        folder: Path,
        *,
        seed: int,
        callbacks: list[TrainerCallback],
        condense: Condense | None = None,
    ) -> None:
        when = "epoch" if recipe.steps is None else "steps"
        arguments = TrainingArguments(
            output_dir=str(folder.absolute()),
            num_train_epochs=recipe.epochs,
            max_steps=recipe.steps or -1,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=2 * recipe.batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip,
            seed=seed,
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=model.device.type != "cpu",
            eval_strategy=when,
            eval_steps=recipe.every,
            save_strategy=when,
            save_steps=recipe.every or 0,
            logging_strategy=when,
            logging_steps=recipe.every or 0,
            logging_nan_inf_filter=False,
            save_total_limit=2,  # of which one is the best so far
            metric_for_best_model=task.metric,  # lower is better where it ends in "loss": the Trainer's own rule
            eval_do_concat_batches=False,
            disable_tqdm=True,
            report_to="none",
        )
        # With several GPUs in sight the Trainer would use them all, and multiply the batch size by their number.
        arguments._n_gpu = min(1, arguments.n_gpu)
        self.task, self.recipe, self.dev = task, recipe, dev
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train.rows,
            eval_dataset=dev[0].rows,
            data_collator=task.collator(tokenizer, recipe),
            processing_class=tokenizer,  # saved with each checkpoint
            optimizer_cls_and_kwargs=optimizer_of(recipe),
            callbacks=callbacks,
            preprocess_logits_for_metrics=condense,
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give the head its own learning rate."""
        first = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if first:
            raise_head_rate(optimizer, _unadapted(self.model), self.recipe.head_rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Follow the recipe."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            self.lr_scheduler = schedule_of(self.recipe, optimizer, num_training_steps)
        return self.lr_scheduler

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predict, and let the task judge."""
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        assert output.metrics is not None
        features, records = self.dev
        found = self.task.evaluate(list(_rows(output.predictions)), features, records)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output


class _Watch(TrainerCallback):
    """Report steps as they pass, and have the state saved from time to time between judgements."""

    def __init__(self, recipe: Recipe, progress: Progress | None) -> None:
        self.recipe, self.progress = recipe, progress
        self.saved = time.monotonic()
        self.predicted = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Report; save where the last time is long past."""
        epoch = math.ceil(state.epoch or 0)
        if self.progress is not None:
            what = "training" if self.recipe.steps else f"epoch {epoch} of {self.recipe.epochs}"
            self.progress(state.global_step, state.max_steps, what)
        every = self.recipe.every or state.max_steps // self.recipe.epochs
        # There the Trainer saves anyway, in a folder of the same name.
        if time.monotonic() - self.saved > SAVE_SECONDS and state.global_step % every:
            # Logged too, so that the loss of what lies before is on record.
            control.should_save = control.should_log = True
        if self.recipe.steps and state.global_step == state.max_steps:
            control.should_log = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin to wait anew."""
        self.saved = time.monotonic()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **settings: Any
    ) -> None:
        """Report."""
        self.predicted += 1
        if self.progress is not None:
            epoch = f"epoch {round(state.epoch or 0)} of {self.recipe.epochs}"
            after = f"step {state.global_step}" if self.recipe.steps else epoch
            what = f"dev after {after}" if state.global_step else "dev before training"
            self.progress(self.predicted, len(settings["eval_dataloader"]), what)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count anew."""
        self.predicted = 0


def _labels(model: PreTrainedModel) -> dict[str, int]:
    """The number of each label, as the model's config has it."""
    return {str(label): int(number) for label, number in (model.config.label2id or {}).items()}


def _unadapted(model: Any) -> Any:
    """The model itself where it is wrapped in adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _rows(batches: Any) -> Iterator[Prediction]:
    """One prediction a row, of the outputs of batches: arrays, or tuples of them."""
    for batch in batches or ():
        parts = batch if isinstance(batch, tuple) else (batch,)
        for place in range(len(parts[0])):
            yield tuple(part[place] for part in parts)


def _metrics(logged: dict[str, float]) -> dict[str, float]:
    """The task's own metrics and the loss, of what the Trainer logs after an evaluation."""
    own = {name.removeprefix("eval_"): value for name, value in logged.items() if name.startswith("eval_")}
    timings = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    return {"dev_loss" if name == "loss" else name: value for name, value in own.items() if name not in timings}


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


@contextmanager
def _outside_as_before() -> Iterator[None]:
    """Put the global generators back, which the Trainer seeds, and keep transformers' bars off the terminal."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(), quiet_transformers():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
