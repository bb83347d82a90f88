"""`bertft probe structural`: probe every layer for syntax trees."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import (
    COMPUTING,
    PRESETS,
    RANDOM_SEEDS,
    add_computing,
    add_output,
    chosen,
    count,
    positive,
    ranks,
)
from bertft.commands.output import at_work, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Train structural probes on every layer and measure how much of the syntax trees each encodes.

    MODEL is a local folder or a hub name. The treebank consists of files named
    *-ud-train.conllu, *-ud-dev.conllu and, if there is one, *-ud-test.conllu. Example:

      bertft probe structural bert-base-cased runs/mnli --treebank UD_English-EWT --output-dir probes
    """
    command.add_argument("models", metavar="MODEL", nargs="+", help="one or more checkpoints")
    add = command.add_argument_group("Input").add_argument
    add("--treebank", metavar="DIR", required=True, type=Path, help="folder with a treebank in CoNLL-U")
    add("--sentences", metavar="N", type=count, help="training sentences to draw, or `all` (default: all)")
    add(
        "--pooling",
        choices=("mean", "first", "last"),
        default="mean",
        help="vector of a word, from its subwords: mean, first or last (default: mean)",
    )
    add("--cache", metavar="DIR", type=Path, help="where word vectors are cached (default: your cache directory)")
    add = command.add_argument_group("Probes").add_argument
    add("--layers", default="all", help="layers, such as 0,3-5,-1; 0 is the embeddings (default: all)")
    add(
        "--rank",
        metavar="N",
        type=ranks,
        default=(64,),
        help="rank of the probes, or several, such as 8,64 (default: 64)",
    )
    add(
        "--preset",
        choices=PRESETS,
        default="paper",
        help="conventions of training and evaluation: paper or today (default: paper)",
    )
    add("--epochs", metavar="N", type=positive, help="most epochs (default: that of the preset, 40)")
    add("--seed", type=int, default=0, help="seed of initial weights and of batches (default: 0)")
    add("--random-seeds", metavar="N", type=int, default=1, help=RANDOM_SEEDS)
    add_computing(command)
    add_output(command, "probes.json, probes.csv, figures and report.html", overwrite=True)


@at_work("probes.json", "probes.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.experiments.structural import probe_structural

    with progress_bar(sys.stderr) as progress:
        found = probe_structural(
            options.models,
            options.treebank,
            layers=options.layers,
            ranks=options.rank,
            preset=options.preset,
            epochs=options.epochs,
            seed=options.seed,
            random_seeds=options.random_seeds,
            sentences=options.sentences,
            pooling=options.pooling,
            cache=options.cache,
            **chosen(options, COMPUTING),
            progress=progress,
            say=say,
        )
    from bertft.report.structural import show

    return give_back(options, found, show)
