"""`bertft score`: fine-tuned checkpoints against their base, layer by layer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import COMPUTING, add_computing, add_output, chosen, count, names
from bertft.commands.output import get_ready, give_back, progress_bar
from bertft.errors import OptionError


def declare(command: argparse.ArgumentParser) -> None:
    """Score fine-tuned checkpoints against their base, layer by layer.

    Each of BASE and TUNED is a local folder or a hub name. FILE is plain text (one
    sentence a line), CoNLL-U, MNLI JSON lines or SQuAD JSON. Example:

      bertft score bert-base-uncased runs/mnli --text wiki.txt --out scores

    Several bases, such as seeds of one pre-training, are given as pairs, and the mean
    over the pairs is given with its standard deviation:

      bertft score --pair base-1 mnli-1 --pair base-2 mnli-2 --text wiki.txt
    """
    command.add_argument("base", metavar="BASE", nargs="?", help="the model before fine-tuning")
    command.add_argument("tuned", metavar="TUNED", nargs="*", help="one or more fine-tuned checkpoints of it")
    command.add_argument(
        "--pair", metavar=("BASE", "TUNED"), nargs=2, action="append", help="a base and its own TUNED; repeatable"
    )
    command.add_argument(
        "--compare-bases", action="store_true", help="also compare the bases of the pairs with one another"
    )
    command.add_argument("--floor", dest="compare_bases", action="store_true", help=argparse.SUPPRESS)
    add = command.add_argument_group("what to read").add_argument
    add("--text", metavar="FILE", nargs="+", required=True, help="text to read; each file is scored by itself")
    add("--tokens", metavar="N", type=count, default=5000, help="tokens to draw, or `all` (default: 5000)")
    add(
        "--sentences",
        metavar="N",
        type=count,
        default=1000,
        help="sentences to draw them from, or `all` (default: 1000)",
    )
    add("--seed", type=int, default=0, help="seed of both draws (default: 0)")
    add("--single", action="store_true", help="of a pair, read the first part alone (premise, question)")
    add("--special-tokens", action="store_true", help="draw [CLS], [SEP] and their like too")
    add("--max-length", metavar="N", type=int, help="cut sentences after N tokens (default: the model's limit)")
    add = command.add_argument_group("what to compute").add_argument
    add("--layers", default="all", help="layers, such as 0,3-5,-1 (default: all; 0 = embeddings)")
    add("--measures", metavar="NAMES", type=names, default=("rsa",), help="measures, such as rsa,cka (default: rsa)")
    add("--standardize", action="store_true", help="give every coordinate mean 0 and variance 1 first")
    add_computing(command)
    add_output(command, "scores.json, scores.csv, rsa.png and report.html")


def compared(options: argparse.Namespace) -> tuple[str | list[str], list[str]]:
    """Return the base and what is compared with it, or a list of bases of which each has its own."""
    if options.pair and options.base is None:
        return [base for base, _ in options.pair], [tuned for _, tuned in options.pair]
    if options.pair or not options.tuned:
        given = "both were given" if options.pair else "TUNED is missing"
        raise OptionError(f"{given}: give BASE TUNED or pairs of them with --pair; see `bertft score --help`")
    return options.base, options.tuned


def run(options: argparse.Namespace) -> int:
    """Score, print, and write where asked."""
    base, tuned = compared(options)
    get_ready(options.out)
    from bertft.experiments.score import score

    with progress_bar(sys.stderr) as progress:
        scores = score(
            base,
            tuned,
            [Path(file) for file in options.text],
            tokens=options.tokens,
            sentences=options.sentences,
            seed=options.seed,
            layers=options.layers,
            measures=options.measures,
            special_tokens=options.special_tokens,
            standardize=options.standardize,
            max_length=options.max_length,
            single=options.single,
            compare_bases=options.compare_bases,
            **chosen(options, COMPUTING),
            progress=progress,
        )
    from bertft.report.score import write
    from bertft.report.score.table import show

    return give_back(
        options,
        scores.rows,
        scores.run,
        lambda out: write(scores.rows, scores.run, out),
        show,
        kept="the scores, a picture and a page",
    )
