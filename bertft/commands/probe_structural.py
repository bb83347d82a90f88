"""`bertft probe structural`: syntax trees, read off every layer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import COMPUTING, add_computing, add_output, chosen, count, positive, ranks
from bertft.commands.output import get_ready, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Train structural probes on every layer and say how much of the syntax tree each holds.

    Each MODEL is a local folder or a hub name. DIR holds a treebank: files named
    *-ud-train.conllu, *-ud-dev.conllu and, if there is one, *-ud-test.conllu. Example:

      bertft probe structural bert-base-cased runs/mnli --treebank UD_English-EWT --out probes
    """
    command.add_argument("models", metavar="MODEL", nargs="+", help="one or more checkpoints")
    add = command.add_argument_group("what to read").add_argument
    add("--treebank", metavar="DIR", required=True, type=Path, help="folder of a treebank in CoNLL-U")
    add("--sentences", metavar="N", type=count, help="sentences to train on, or `all` (default: all)")
    add("--pooling", default="mean", help="of a word's pieces: mean, first or last (default: mean)")
    add("--cache", metavar="DIR", type=Path, help="where word vectors are kept (default: ~/.cache/bertft)")
    add = command.add_argument_group("what to train").add_argument
    add("--layers", default="all", help="layers, such as 0,3-5,-1 (default: all; 0 = embeddings)")
    add("--rank", metavar="N", type=ranks, default=(64,), help="rank of the probes, or several: 8,64 (default: 64)")
    add("--preset", default="paper", help="conventions: paper or today (default: paper)")
    add("--epochs", metavar="N", type=positive, help="most epochs (default: the preset's, 40)")
    add("--seed", type=int, default=0, help="seed of weights and of the order of batches (default: 0)")
    add("--random-seeds", metavar="N", type=int, default=1, help="models of random weights as baseline (default: 1)")
    add_computing(command)
    add_output(command, "probes.json, probes.csv, structural.png and trees.png")


def run(options: argparse.Namespace) -> int:
    """Train, evaluate, print, and write where asked."""
    get_ready(options.out)
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
    from bertft.report import structural as report

    return give_back(
        options,
        found.rows,
        found.run,
        lambda out: report.write(found.rows, found.run, found.trees, out),
        report.show,
    )
