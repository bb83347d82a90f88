"""`bertft diff`: how far the weights of checkpoints are from their base's."""

from __future__ import annotations

import argparse
import sys

from bertft.commands.options import PICKLE, add_output
from bertft.commands.output import at_work, give_back, progress_bar, say

EQUAL = 1
"""The exit status of --fail-if-equal where a tuned checkpoint equals the base."""


def declare(command: argparse.ArgumentParser) -> None:
    """Compare the weights of tuned checkpoints with those of their base; nothing is run.

    BASE and TUNED are local folders or hub names of models, or adapters. The table gives
    the norm of the change relative to that of the base's weights. Example:

      bertft diff bert-base-uncased runs/mnli runs/squad --output-dir weights
    """
    command.add_argument("base", metavar="BASE", help="the checkpoint before fine-tuning")
    command.add_argument("tuned", metavar="TUNED", nargs="+", help="one or more fine-tuned checkpoints")
    add = command.add_argument_group("Analysis").add_argument
    add(
        "--spectral",
        action="store_true",
        help="also give the spectral norm and the stable rank of the change of each matrix (minutes for large models)",
    )
    add(
        "--fail-if-equal",
        action="store_true",
        help=f"end with the status {EQUAL} where all weights of a tuned checkpoint equal the base's, bit for bit",
    )
    add("--allow-pickle", action="store_true", help=PICKLE)
    add_output(command, "weights.json, weights.csv, weights.png and report.html", overwrite=True)


@at_work("weights.json", "weights.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.experiments.diff import diff

    with progress_bar(sys.stderr) as progress:
        found = diff(
            options.base,
            options.tuned,
            spectral=options.spectral,
            allow_pickle=options.allow_pickle,
            progress=progress,
        )
    from bertft.report.diff import show

    status = give_back(options, found, show)
    if options.fail_if_equal and found.equal:
        say(f"bertft: all weights of {', '.join(found.equal)} equal those of {found.rows[0]['base']}, bit for bit")
        return EQUAL
    return status
