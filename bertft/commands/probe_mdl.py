"""`bertft probe mdl`: in how few bits a probe on frozen vectors tells the labels of a task."""

from __future__ import annotations

import argparse
import sys

from bertft.commands.options import (
    COMPUTING,
    EDGE_DATA,
    add_computing,
    add_edge_data,
    add_output,
    chosen,
    count,
    positive,
)
from bertft.commands.output import get_ready, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Measure the description length of tasks on frozen checkpoints (Voita and Titov 2020).

    Each MODEL is a local folder or a hub name. DIR/TASK holds train.jsonl and dev.jsonl in the
    edge-probing format; pos and dep are made of the treebank where DIR has none. Example:

      bertft probe mdl bert-base-cased runs/mnli --task pos dep spr --data edge \\
        --treebank UD_English-EWT --sentences 2000 --out mdl
    """
    command.add_argument("models", metavar="MODEL", nargs="+", help="one or more checkpoints")
    add_edge_data(command)
    add = command.add_argument_group("how to code").add_argument
    add("--code", default="online", help="online or variational (default: online)")
    add("--probe", default="edge", help="of the online code: edge or perceptron (default: edge)")
    add(
        "--input",
        metavar="INPUT",
        nargs="+",
        default=("layers",),
        help="layer:K, layers for each, top, lexical; of edge probes mix, cat too (default: layers)",
    )
    add(
        "--held-out",
        default="dev",
        help="what probes stop by: dev, dev-counted (sent first), inside (a tenth of what was sent) (default: dev)",
    )
    add("--dev-sentences", metavar="N", type=count, default=500, help="of dev at most, or `all` (default: 500)")
    add("--control", action="store_true", help="code the control task of each task too")
    add("--random-seeds", metavar="N", type=int, default=0, help="models of random weights (default: 0)")
    add("--hidden", metavar="N", type=positive, default=1000, help="width of perceptrons (default: 1000)")
    add("--epochs", metavar="N", type=positive, help="epochs of perceptrons (default: 40; variational: 200)")
    add("--learning-rate", metavar="X", type=float, default=1e-3, help="of perceptrons (default: 0.001)")
    add(
        "--thresholds",
        metavar="X",
        type=float,
        nargs="+",
        help="of log alpha, one a layer: prune the variational probe",
    )
    add("--seed", type=int, default=1234, help="seed of the order of sentences and of probes (default: 1234)")
    add("--compat", choices=("released",), help="add what the released code prints, which mixes bits and nats")
    add_computing(command)
    add_output(command, "mdl.json, mdl.csv, mdl-layers.png and mdl-curves.png")


def run(options: argparse.Namespace) -> int:
    """Code, print, and write where asked."""
    get_ready(options.out)
    from bertft.experiments.edge_tasks import TASKS, read_tasks
    from bertft.experiments.mdl import describe

    with progress_bar(sys.stderr) as progress:
        found = describe(
            options.models,
            read_tasks(options.task or TASKS, options.data, options.treebank, tags=options.tags),
            code=options.code,
            probe=options.probe,
            inputs=options.input,
            control=options.control,
            random_seeds=options.random_seeds,
            held_out=options.held_out,
            dev_sentences=options.dev_sentences,
            seed=options.seed,
            hidden=options.hidden,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            thresholds=options.thresholds,
            compat=options.compat,
            results=None if options.out is None else options.out / "results",
            **chosen(options, (*EDGE_DATA, *COMPUTING)),
            progress=progress,
            say=say,
        )
    from bertft.report import mdl as report

    return give_back(
        options,
        found.rows,
        found.run,
        lambda out: report.write(found.rows, found.run, out),
        report.show,
    )
