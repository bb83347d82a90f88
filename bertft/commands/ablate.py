"""`bertft ablate`: how many layers a task needs, by freezing them and by cutting them off."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import RECIPE, add_recipe, add_task_data, chosen
from bertft.commands.output import get_ready, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a checkpoint with more and more blocks frozen, or cut off, and say what that costs.

    K lists are `all`, or such as 0,3-5. Run again, the same command goes on where it was
    stopped; with other tasks in the same DIR, the pictures show all of them. Example:

      bertft ablate mnli --model bert-base-uncased --train train.jsonl --dev dev.jsonl \\
        --freeze all --truncate all --seeds 1 2 3 --out ablation
    """
    add_task_data(command, "judge")
    add = command.add_argument_group("what to sweep").add_argument
    add("--freeze", metavar="K", help="last blocks to freeze up to, 0 the first; -1, nothing, is always run")
    add("--truncate", metavar="K", help="numbers of blocks to keep; the whole model is always run")
    add("--pooler", choices=("keep", "reset"), default="keep", help="of a cut model: keep or reset (default: keep)")
    add_recipe(command)
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="write ablation.json, .csv, pictures and models there")
    add("--keep", default="best", help="models of a finished k: all (best and last), best or none (default: best)")
    add("--json", action="store_true", help="print the JSON alone instead of the tables")


def run(options: argparse.Namespace) -> int:
    """Sweep, print, and write."""
    get_ready(options.out)
    from bertft.experiments.ablate import ablate

    with progress_bar(sys.stderr) as progress:
        found = ablate(
            options.task,
            options.model,
            options.train,
            options.dev,
            options.out,
            freeze=options.freeze,
            truncate=options.truncate,
            pooler=options.pooler,
            keep=options.keep,
            **chosen(options, RECIPE),
            progress=progress,
            say=say,
        )
    from bertft.report import ablate as report

    return give_back(options, found.rows, found.run, lambda out: report.write(found.rows, found.run, out), report.show)
