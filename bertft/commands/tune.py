"""`bertft tune`: checkpoints fine-tuned on a task, to score or to probe against their base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import positive
from bertft.commands.output import console, progress_bar, quiet_libraries, say


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a checkpoint on MNLI, SQuAD v1.1 or dependency parsing, once a seed.

    MODEL is a local folder or a hub name. Each FILE is in the published format of its task
    (MNLI: JSON lines or tab-separated; SQuAD: JSON; dep: CoNLL-U), or a data set of the hub
    as NAME:SPLIT or NAME:CONFIG:SPLIT. A run that was interrupted continues with the same
    command and --resume. Example:

      bertft tune mnli --model bert-base-uncased --train train.jsonl --dev dev.jsonl --out runs/mnli
    """
    command.add_argument("task", metavar="TASK", choices=("mnli", "squad", "dep"), help="mnli, squad or dep")
    add = command.add_argument_group("what to read").add_argument
    add("--model", required=True, help="the checkpoint to begin from")
    add("--train", metavar="FILE", required=True, help="records to learn from")
    add("--dev", metavar="FILE", required=True, help="records to choose the best epoch by")
    add("--limit", metavar="N", type=positive, help="training records, drawn (default: all)")
    add("--dev-limit", metavar="N", type=positive, help="dev records, drawn (default: all)")
    add = command.add_argument_group("what to train").add_argument
    add("--freeze", metavar="K", type=int, default=-1, help="keep embeddings and blocks 0 to K (default: -1, nothing)")
    add("--truncate", metavar="K", type=int, help="cut the model down to its first K blocks")
    add("--pooler", choices=("keep", "reset"), default="keep", help="of a cut model: keep or reset (default: keep)")
    add("--lora", metavar="R", type=positive, help="train adapters of rank R alone")
    add = command.add_argument_group("how to train").add_argument
    add("--preset", default="paper", help="recipe: paper or today (default: paper)")
    add("--seeds", metavar="N", type=int, nargs="+", default=[1], help="one run each (default: 1)")
    add("--epochs", metavar="N", type=positive, help="(default: the preset's)")
    add("--learning-rate", metavar="X", type=float, help="(default: the preset's)")
    add("--batch-size", metavar="N", type=positive, help="(default: the preset's)")
    add("--max-length", metavar="N", type=positive, help="most tokens of an input (default: the preset's)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--allow-pickle", action="store_true", help="load pickled weights: only from people you trust")
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="write models, tuning.json and tuning.csv there")
    add("--resume", action="store_true", help="take up the run that DIR holds")
    add("--json", action="store_true", help="print the JSON alone instead of the table")


def run(options: argparse.Namespace) -> int:
    """Train, print, and say where the models are."""
    from bertft.report.files import require_writable

    require_writable(options.out)
    quiet_libraries()
    from bertft.tuning import tune

    with progress_bar(sys.stderr) as progress:
        tuned = tune(
            options.task,
            options.model,
            options.train,
            options.dev,
            options.out,
            seeds=options.seeds,
            freeze=options.freeze,
            truncate=options.truncate,
            pooler=options.pooler,
            lora=options.lora,
            preset=options.preset,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            max_length=options.max_length,
            limit=options.limit,
            dev_limit=options.dev_limit,
            resume=options.resume,
            device=options.device,
            allow_pickle=options.allow_pickle,
            progress=progress,
            say=say,
        )
    from bertft.records import json_bytes
    from bertft.report.tuning import show

    if options.json:
        sys.stdout.buffer.write(json_bytes(tuned.rows, tuned.run))
        return 0
    show(tuned.rows, tuned.run, console(sys.stdout))
    say(
        f"Wrote the models to {options.out}/seed-*/best and last. "
        f"Score one: bertft score {options.model} {options.out}/seed-{options.seeds[0]}/best --text FILE"
    )
    return 0
