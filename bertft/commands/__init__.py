"""The commands, one module each: `declare` adds its options to a parser, `run` runs it and returns the exit status.

`COMMANDS` lists them; commands of two words are grouped under the first. Nothing heavy is imported before a command
runs, so that help and errors in the arguments appear at once. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from bertft.commands import (
    ablate,
    data_edge,
    demo,
    diff,
    edge,
    mdl,
    pretrain,
    score,
    structural,
    tune,
)

__all__ = ["COMMANDS", "GROUPS", "Command"]


class Command(NamedTuple):
    """A command: its line in the help, the function that declares its options, and the function that runs it."""

    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "score": Command("compare fine-tuned checkpoints with their base, layer by layer", score.declare, score.run),
    "diff": Command("compare the weights of checkpoints, without running them", diff.declare, diff.run),
    "tune": Command("fine-tune a checkpoint on MNLI, SQuAD or dependency parsing", tune.declare, tune.run),
    "ablate": Command("fine-tune with layers frozen or removed", ablate.declare, ablate.run),
    "pretrain": Command("pre-train a BERT from scratch with several seeds", pretrain.declare, pretrain.run),
    "probe structural": Command("probe every layer for syntax trees", structural.declare, structural.run),
    "probe edge": Command("probe for the labels of spans: eight tasks", edge.declare, edge.run),
    "probe mdl": Command("measure the description length of labels", mdl.declare, mdl.run),
    "data edge": Command("convert a treebank to edge-probing records", data_edge.declare, data_edge.run),
    "demo": Command("run the whole analysis on a small real model, in under three minutes", demo.declare, demo.run),
}

GROUPS = {
    "probe": "probe frozen checkpoints for linguistic annotation",
    "data": "prepare data for other commands",
}
"""The first words of commands of two words, with their lines in the help."""
