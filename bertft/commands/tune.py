"""`bertft tune`: fine-tune a checkpoint on a task."""

from __future__ import annotations

import argparse
import sys

from bertft.commands.options import RECIPE, add_output, add_recipe, add_task_data, chosen, model_of, positive
from bertft.commands.output import at_work, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a checkpoint on MNLI, SQuAD v1.1 or dependency parsing, once for each seed.

    MODEL is a local folder or a hub name. FILE is in the published format of the task
    (MNLI: JSON lines or tab-separated; SQuAD: JSON; dep: CoNLL-U), or a data set of the hub
    as NAME:SPLIT or NAME:CONFIG:SPLIT. If the command is interrupted, run it again with
    --resume to continue. Example:

      bertft tune mnli bert-base-uncased --train train.jsonl --dev dev.jsonl --output-dir runs/mnli
    """
    add_task_data(command, "to choose the best epoch by")
    add = command.add_argument_group("Model").add_argument
    add(
        "--freeze",
        metavar="K",
        type=int,
        default=-1,
        help="freeze the embeddings and blocks 0 to K (default: -1, nothing)",
    )
    add("--truncate", metavar="K", type=int, help="keep only the first K blocks (default: all)")
    add(
        "--pooler",
        choices=("keep", "reset"),
        default="keep",
        help="keep or reset the pooler of a truncated model (default: keep)",
    )
    add("--lora", metavar="R", type=positive, help="train only the head and low-rank adapters (LoRA) of rank R")
    add_recipe(command)
    add = add_output(command, "models, tuning.json, tuning.csv, tuning.png and report.html", required=True)
    add("--resume", action="store_true", help="continue the run that DIR holds")


@at_work("tuning.json", "tuning.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.experiments.tune import tune

    with progress_bar(sys.stderr) as progress:
        tuned = tune(
            options.task,
            model_of(options),
            options.train,
            options.dev,
            options.out,
            freeze=options.freeze,
            truncate=options.truncate,
            pooler=options.pooler,
            lora=options.lora,
            resume=options.resume,
            **chosen(options, RECIPE),
            progress=progress,
            say=say,
        )
    from bertft.report.tune import show

    status = give_back(options, tuned, show)
    say(
        f"Wrote the models to {options.out}/seed-*/best and last. "
        f"Score one: bertft score {model_of(options)} {options.out}/seed-{options.seeds[0]}/best --text FILE"
    )
    return status
