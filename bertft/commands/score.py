"""`bertft score`: compare fine-tuned checkpoints with their base, layer by layer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import COMPUTING, add_computing, add_output, chosen, compared, count, names
from bertft.commands.output import at_work, give_back, progress_bar


def declare(command: argparse.ArgumentParser) -> None:
    """Compare the hidden states of fine-tuned checkpoints with those of their base, layer by layer.

    BASE and TUNED are local folders or hub names. FILE is plain text with one sentence a
    line, CoNLL-U, MNLI JSON lines or SQuAD JSON. Example:

      bertft score bert-base-uncased runs/mnli --text wiki.txt --output-dir scores

    Give several bases, such as seeds of one pre-training, as pairs. The mean over the
    pairs is then reported with its standard deviation:

      bertft score --pair base-1 mnli-1 --pair base-2 mnli-2 --text wiki.txt
    """
    command.add_argument("base", metavar="BASE", nargs="?", help="the checkpoint before fine-tuning")
    command.add_argument("tuned", metavar="TUNED", nargs="*", help="one or more fine-tuned checkpoints")
    command.add_argument(
        "--pair",
        metavar=("BASE", "TUNED"),
        nargs=2,
        action="append",
        help="a base and its tuned checkpoint; repeat for more",
    )
    command.add_argument("--compare-bases", action="store_true", help="also compare the bases with one another")
    command.add_argument("--floor", dest="compare_bases", action="store_true", help=argparse.SUPPRESS)
    add = command.add_argument_group("Input").add_argument
    add("--text", metavar="FILE", nargs="+", required=True, help="text to read; each file is scored separately")
    add("--tokens", metavar="N", type=count, default=5000, help="tokens to draw, or `all` (default: 5000)")
    add(
        "--sentences",
        metavar="N",
        type=count,
        default=1000,
        help="sentences to draw them from, or `all` (default: 1000)",
    )
    add("--seed", type=int, default=0, help="seed of both draws (default: 0)")
    add("--single", action="store_true", help="read only the first text of a pair (premise, question)")
    add("--special-tokens", action="store_true", help="also draw special tokens such as [CLS] and [SEP]")
    add("--max-length", metavar="N", type=int, help="cut texts after N tokens (default: the limit of the model)")
    add = command.add_argument_group("Analysis").add_argument
    add("--layers", default="all", help="layers, such as 0,3-5,-1; 0 is the embeddings (default: all)")
    add("--measures", metavar="NAMES", type=names, default=("rsa",), help="measures, such as rsa,cka (default: rsa)")
    add("--standardize", action="store_true", help="first scale every dimension to mean 0 and variance 1")
    add_computing(command)
    add_output(command, "scores.json, scores.csv, rsa.png and report.html", overwrite=True)


@at_work("scores.json", "scores.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    base, tuned = compared(options)
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
    from bertft.report.score.table import show

    return give_back(options, scores, show, kept="the scores, a figure and a report")
