"""Fine-tune a sentence classifier on the CPU with the Hugging Face Trainer, for a fixed number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

EPOCHS = 6
BATCH = 16
LEARNING_RATE = 5e-5


@dataclass(frozen=True)
class Finetuned:
    """A saved checkpoint, its accuracy on held-out sentences, and a sentence that describes its training."""

    folder: Path
    accuracy: float
    note: str


class Watch(TrainerCallback):
    """Report each step, and stop training after a time limit."""

    def __init__(self, seconds: float, progress: Callable[[int, int, str], None] | None) -> None:
        self.deadline = time.monotonic() + seconds
        self.progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask the Trainer to stop once the deadline has passed."""
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps, "fine-tuning")
        control.should_training_stop |= time.monotonic() > self.deadline
        return control


def finetune(
    base: Path,
    train: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    labels: Sequence[str],
    work: Path,
    *,
    seconds: float,
    seed: int,
    progress: Callable[[int, int, str], None] | None,
) -> Finetuned:
    """Train a classifier on (label, sentence) pairs from the base model and save it under `work` as safetensors."""
    # The classifier's weights are drawn when the model is built, before the Trainer sets its seed.
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    # Half of the weights are word embeddings, which 200 sentences hardly change. Frozen, they halve the time of a step.
    model.base_model.embeddings.requires_grad_(False)
    examples = [{"labels": labels.index(label), **tokenizer(text)} for label, text in train]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(work / "trainer"),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            warmup_steps=10,
            seed=seed,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        ),
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Watch(seconds, progress)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    folder = work / "tuned"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    done, total = trainer.state.global_step, trainer.state.max_steps
    early = f", stopped early by its limit of {seconds:g} seconds" if done < total else ""
    note = f"The tuned model was trained for {done} of {total} steps on {len(train)} sentences{early}."
    return Finetuned(folder, accuracy(model, tokenizer, held_out, labels), note)


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], labels: Sequence[str]
) -> float:
    """Return the accuracy of the classifier on (label, sentence) pairs, 0 to 1."""
    model.train(False)
    with torch.inference_mode():
        batch = tokenizer([text for _, text in pairs], padding=True, return_tensors="pt")
        guesses = model(**batch).logits.argmax(dim=1)
    return float((guesses == torch.tensor([labels.index(label) for label, _ in pairs])).double().mean())
