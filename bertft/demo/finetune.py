"""Fine-tune a sentence classifier on the CPU with the Hugging Face Trainer, alike on every machine.

The number of steps is fixed, and no dropout is drawn: torch draws it in another way on processors of other makers.
What is left is rounding, which moves the scores of the demo by less than 1e-4.
"""

from __future__ import annotations

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

EPOCHS = 3
BATCH = 16
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Finetuned:
    """A saved checkpoint, its accuracy on held-out sentences, and a sentence that describes its training."""

    folder: Path
    accuracy: float
    note: str


class Watch(TrainerCallback):
    """Report each step."""

    def __init__(self, progress: Callable[[int, int, str], None]) -> None:
        self.progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report how many steps are done."""
        self.progress(state.global_step, state.max_steps, "fine-tuning")


def finetune(
    base: Path,
    train: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    labels: Sequence[str],
    work: Path,
    *,
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
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
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
        callbacks=[] if progress is None else [Watch(progress)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    folder = work / "tuned"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    note = f"The tuned model was trained for {trainer.state.global_step} steps on {len(train)} sentences."
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
