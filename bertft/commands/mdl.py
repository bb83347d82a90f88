"""`bertft probe mdl`: measure how many bits a probe on frozen vectors needs to transmit labels."""

from __future__ import annotations

import argparse
import sys

from bertft.commands.options import (
    RANDOM_SEEDS,
    add_computing,
    add_edge_data,
    add_output,
    count,
    edge_arguments,
    positive,
)
from bertft.commands.output import at_work, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Measure the description length of labels given frozen checkpoints (Voita and Titov 2020).

    MODEL is a local folder or a hub name. The folder of a task, in the folder of --data,
    holds train.jsonl and dev.jsonl in the edge-probing format. Without one, pos and dep
    are taken from the treebank. Example:

      bertft probe mdl bert-base-cased runs/mnli --task pos dep spr --data edge \\
        --treebank UD_English-EWT --sentences 2000 --output-dir mdl
    """
    command.add_argument("models", metavar="MODEL", nargs="+", help="one or more checkpoints")
    add_edge_data(command)
    add = command.add_argument_group("Code").add_argument
    add("--code", choices=("online", "variational"), default="online", help="online or variational (default: online)")
    add(
        "--probe",
        choices=("edge", "perceptron"),
        default="edge",
        help="probe of the online code: edge or perceptron (default: edge)",
    )
    add(
        "--input",
        metavar="INPUT",
        nargs="+",
        default=("layers",),
        help="layer:K, layers for each layer, top, lexical; edge probes also mix, cat (default: layers)",
    )
    add(
        "--held-out",
        choices=("dev", "dev-counted", "inside"),
        default="dev",
        help="data to stop training by: dev; dev-counted, dev as part of the code; inside, a tenth of the data "
        "transmitted so far (default: dev)",
    )
    add("--dev-sentences", metavar="N", type=count, default=500, help="most sentences of dev, or `all` (default: 500)")
    add("--control", action="store_true", help="also code control tasks, with random labels")
    add("--random-seeds", metavar="N", type=int, default=0, help=RANDOM_SEEDS)
    add(
        "--hidden",
        metavar="N",
        type=positive,
        default=1000,
        help="width of the hidden layers of perceptrons (default: 1000)",
    )
    add("--epochs", metavar="N", type=positive, help="epochs of perceptrons (default: 40, variational 200)")
    add("--learning-rate", metavar="X", type=float, default=1e-3, help="learning rate of perceptrons (default: 0.001)")
    add(
        "--thresholds",
        metavar="X",
        type=float,
        nargs="+",
        help="values of log alpha, one for each layer, at which inputs of the variational probe are pruned",
    )
    add("--seed", type=int, default=1234, help="seed of the order of sentences and of the probes (default: 1234)")
    add("--compat", choices=("released",), help="also report the numbers of the released code, which mix bits and nats")
    add_computing(command)
    add_output(command, "mdl.json, mdl.csv, figures and report.html")


@at_work("mdl.json", "mdl.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.experiments.mdl import describe

    with progress_bar(sys.stderr) as progress:
        found = describe(
            options.models,
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
            **edge_arguments(options),
            progress=progress,
            say=say,
        )
    from bertft.report.mdl import show

    return give_back(options, found, show)
