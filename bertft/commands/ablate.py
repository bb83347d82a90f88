"""`bertft ablate`: fine-tune with layers frozen or removed."""

from __future__ import annotations

import argparse
import sys

from bertft.commands.options import RECIPE, add_output, add_recipe, add_task_data, chosen, model_of
from bertft.commands.output import at_work, give_back, progress_bar, say

LONGEST_WAIT = 600.0
"""For how many seconds a sweep waits while another one writes its results to the same directory."""


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a checkpoint with more and more blocks frozen, or with fewer and fewer blocks.

    K is `all` or a list such as 0,3-5. If the command is interrupted, run it again to
    continue. Tasks that share an output directory are drawn in the same figures. Example:

      bertft ablate mnli bert-base-uncased --train train.jsonl --dev dev.jsonl \\
        --freeze all --truncate all --seeds 1 2 3 --output-dir ablation
    """
    add_task_data(command, "to report the metric on")
    add = command.add_argument_group("Ablation").add_argument
    add("--freeze", metavar="K", help="last block to freeze, from 0; -1 freezes nothing and is always run")
    add("--truncate", metavar="K", help="number of blocks to keep; the whole model is always run")
    add(
        "--pooler",
        choices=("keep", "reset"),
        default="keep",
        help="keep or reset the pooler of a truncated model (default: keep)",
    )
    add_recipe(command)
    add = add_output(command, "models, ablation.json, ablation.csv, figures and report.html", required=True)
    add(
        "--keep",
        choices=("all", "best", "none"),
        default="best",
        help="models to keep: all (best and last), best or none (default: best)",
    )


@at_work("ablation.json", "ablation.csv", lock=False)
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.experiments.ablate import ablate, with_other_tasks

    with progress_bar(sys.stderr) as progress:
        found = ablate(
            options.task,
            model_of(options),
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
    from bertft.files import folder_lock
    from bertft.report.ablate import show

    # Sweeps of other tasks may have ended in the meantime, and others may end now.
    with folder_lock(options.out, wait=LONGEST_WAIT):
        found = with_other_tasks(found, options.task, options.out)
        return give_back(options, found, show)
