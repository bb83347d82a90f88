"""`bertft probe edge`: probe frozen vectors for the labels of spans."""

from __future__ import annotations

import argparse
import sys

from bertft.commands.options import (
    PRESETS,
    RANDOM_SEEDS,
    add_computing,
    add_edge_data,
    add_output,
    add_seeds,
    edge_arguments,
    positive,
)
from bertft.commands.output import at_work, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Train edge probes on frozen checkpoints and compare the checkpoints with the first one.

    MODEL is a local folder or a hub name; give the one before fine-tuning first. The
    folder of a task, in the folder of --data, holds train.jsonl, dev.jsonl and test.jsonl
    in the edge-probing format. Without one, pos and dep are taken from the treebank.
    Example:

      bertft probe edge bert-base-cased runs/mnli --data edge --treebank UD_English-EWT \\
        --baselines --sentences 2000 --preset today --output-dir edge-probes
    """
    command.add_argument("models", metavar="MODEL", nargs="+", help="one or more checkpoints")
    add_edge_data(command)
    add = command.add_argument_group("Probes").add_argument
    add(
        "--input",
        metavar="INPUT",
        nargs="+",
        default=(),
        help="mix, top, lexical, cat, layer:K, or layers for each layer (default: mix; today: mix layers)",
    )
    add("--baselines", action="store_true", help="also probe embeddings alone and randomly initialised models")
    add("--random-seeds", metavar="N", type=int, default=1, help=RANDOM_SEEDS)
    add("--preset", choices=PRESETS, default="paper", help="conventions of training: paper or today (default: paper)")
    add(
        "--controls",
        action=argparse.BooleanOptionalAction,
        help="also train control tasks, with random labels (default: only with --preset today)",
    )
    add("--epochs", metavar="N", type=positive, help="most epochs (default: that of the preset)")
    add_seeds(add, "probe", 0)
    add_computing(command)
    add_output(command, "edge.json, edge.csv, edge-labels.csv, figures and report.html")


@at_work("edge.json", "edge.csv", "edge-labels.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.experiments.edge import probe_edges

    with progress_bar(sys.stderr) as progress:
        found = probe_edges(
            options.models,
            inputs=options.input,
            baselines=options.baselines,
            random_seeds=options.random_seeds,
            seeds=options.seeds,
            preset=options.preset,
            controls=options.controls,
            epochs=options.epochs,
            **edge_arguments(options),
            progress=progress,
            say=say,
        )
    from bertft.report.edge import show

    return give_back(options, found, show)
