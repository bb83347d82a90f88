"""`bertft tune`: checkpoints fine-tuned on a task, to score or to probe against their base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import RECIPE, add_recipe, add_task_data, chosen, positive
from bertft.commands.output import console, get_ready, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a checkpoint on MNLI, SQuAD v1.1 or dependency parsing, once a seed.

    MODEL is a local folder or a hub name. Each FILE is in the published format of its task
    (MNLI: JSON lines or tab-separated; SQuAD: JSON; dep: CoNLL-U), or a data set of the hub
    as NAME:SPLIT or NAME:CONFIG:SPLIT. A run that was interrupted continues with the same
    command and --resume. Example:

      bertft tune mnli --model bert-base-uncased --train train.jsonl --dev dev.jsonl --out runs/mnli
    """
    add_task_data(command, "choose the best epoch")
    add = command.add_argument_group("what to train").add_argument
    add("--freeze", metavar="K", type=int, default=-1, help="keep embeddings and blocks 0 to K (default: -1, nothing)")
    add("--truncate", metavar="K", type=int, help="cut the model down to its first K blocks")
    add("--pooler", choices=("keep", "reset"), default="keep", help="of a cut model: keep or reset (default: keep)")
    add("--lora", metavar="R", type=positive, help="train adapters of rank R alone")
    add_recipe(command)
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="write models, tuning.json and tuning.csv there")
    add("--resume", action="store_true", help="take up the run that DIR holds")
    add("--json", action="store_true", help="print the JSON alone instead of the table")


def run(options: argparse.Namespace) -> int:
    """Train, print, and say where the models are."""
    get_ready(options.out)
    from bertft.experiments.tune import tune

    with progress_bar(sys.stderr) as progress:
        tuned = tune(
            options.task,
            options.model,
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
    from bertft.records import json_bytes
    from bertft.report.tune import show

    if options.json:
        sys.stdout.buffer.write(json_bytes(tuned.rows, tuned.run))
        return 0
    show(tuned.rows, tuned.run, console(sys.stdout))
    say(
        f"Wrote the models to {options.out}/seed-*/best and last. "
        f"Score one: bertft score {options.model} {options.out}/seed-{options.seeds[0]}/best --text FILE"
    )
    return 0
