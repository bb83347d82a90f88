"""The Hugging Face Trainer with the optimiser, schedule and metrics of a task, and a callback that saves models."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
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

from bertft.checkpoints.load import quiet_transformers
from bertft.files import seal
from bertft.progress import Progress
from bertft.tasks.optimization import optimizer_of, raise_head_rate, schedule_of
from bertft.tasks.padding import padding_tokenizer
from bertft.tasks.task import Features, Prediction, Records, Trainable, TrainingRecipe

R = TypeVar("R")
Condense = Callable[[Any, Any], Any]
SAVE_SECONDS = 600.0
"""Seconds between two checkpoints within an epoch: the most work that is lost when a run is killed."""
STATE = "trainer_state.json"
"""The file of a checkpoint with the state of the Trainer."""
_CHECKPOINT = re.compile(r"checkpoint-[0-9]{1,18}")


class RecipeTrainer(Trainer):
    """A Trainer with the optimiser and schedule of a recipe and the metrics of a task."""

    def __init__(
        self,
        task: Trainable[R],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: TrainingRecipe,
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
            metric_for_best_model=task.metric,  # the Trainer minimises names that end in "loss"
            eval_do_concat_batches=False,
            disable_tqdm=True,
            report_to="none",
        )
        # If several GPUs are visible, the Trainer uses all of them and multiplies the batch size by their number.
        arguments._n_gpu = min(1, arguments.n_gpu)
        self.task, self.recipe, self.dev = task, recipe, dev
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train.rows,
            eval_dataset=dev[0].rows,
            data_collator=task.collator(padding_tokenizer(tokenizer, model), recipe),
            processing_class=tokenizer,  # saved with each checkpoint
            optimizer_cls_and_kwargs=optimizer_of(recipe),
            callbacks=callbacks,
            preprocess_logits_for_metrics=condense,
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimiser of the recipe; the head has a learning rate of its own."""
        first = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if first:
            raise_head_rate(optimizer, without_adapters(self.model), self.recipe.head_rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule of the recipe."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            self.lr_scheduler = schedule_of(self.recipe, optimizer, num_training_steps)
        return self.lr_scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, seal it with a manifest, and delete all but two: it, and the best or the one before it."""
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        # The Trainer sorts the names in its logs. In their own order, a resumed run has the rows of an unbroken one.
        state = json.dumps(asdict(self.state), indent=2)
        (checkpoint / STATE).write_text(f"{state}\n", encoding="utf-8")
        seal(checkpoint)
        *others, _ = checkpoints_in(folder)
        best = [path for path in others if step_of(path) == self.state.best_global_step]
        for path in others:
            if path not in (best or others[-1:]):
                shutil.rmtree(path)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predict, and add the metrics of the task to those of the Trainer."""
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        assert output.metrics is not None
        features, records = self.dev
        found = self.task.evaluate(list(_rows(output.predictions)), features, records)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output


class SaveAndReport(TrainerCallback):
    """Report every step, and save a checkpoint from time to time between two evaluations."""

    def __init__(self, recipe: TrainingRecipe, progress: Progress | None) -> None:
        self.recipe, self.progress = recipe, progress
        self.saved = time.monotonic()
        self.predicted = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Report the step, and save if the last checkpoint is older than `SAVE_SECONDS`."""
        epoch = math.ceil(state.epoch or 0)
        if self.progress is not None:
            what = "training" if self.recipe.steps else f"epoch {epoch} of {self.recipe.epochs}"
            self.progress(state.global_step, state.max_steps, what)
        every = self.recipe.every or state.max_steps // self.recipe.epochs
        # At the end of an epoch the Trainer saves anyway, to a folder of the same name.
        if time.monotonic() - self.saved > SAVE_SECONDS and state.global_step % every:
            # Log as well, so that the loss of the steps up to here is recorded.
            control.should_save = control.should_log = True
        if self.recipe.steps and state.global_step == state.max_steps:
            control.should_log = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restart the timer."""
        self.saved = time.monotonic()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **settings: Any
    ) -> None:
        """Report the batch of dev."""
        self.predicted += 1
        if self.progress is not None:
            epoch = f"epoch {round(state.epoch or 0)} of {self.recipe.epochs}"
            after = f"step {state.global_step}" if self.recipe.steps else epoch
            what = f"dev after {after}" if state.global_step else "dev before training"
            self.progress(self.predicted, len(settings["eval_dataloader"]), what)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Reset the count of batches."""
        self.predicted = 0


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the Trainer's checkpoints in a folder, by step."""
    return sorted((path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def without_adapters(model: Any) -> Any:
    """Return the model itself if it is wrapped in adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _rows(batches: Any) -> Iterator[Prediction]:
    """Yield one prediction for each row of some batches of outputs, which are arrays or tuples of arrays."""
    for batch in batches or ():
        parts = batch if isinstance(batch, tuple) else (batch,)
        for row in range(len(parts[0])):
            yield tuple(part[row] for part in parts)


def task_metrics(logged: dict[str, float]) -> dict[str, float]:
    """Return the metrics of the task and the loss from what the Trainer logs after an evaluation."""
    own = {name.removeprefix("eval_"): value for name, value in logged.items() if name.startswith("eval_")}
    timings = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    return {"dev_loss" if name == "loss" else name: value for name, value in own.items() if name not in timings}


@contextmanager
def global_state_kept() -> Iterator[None]:
    """Restore the global random generators, which the Trainer seeds, and hide the progress bars of transformers."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(), quiet_transformers():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
