"""The commands, one module each: `declare` says what options it has, `run` runs it and returns the exit status.

`COMMANDS` lists them; those of two words stand under their first. Nothing heavy is imported before a command runs, so
that help and mistakes in the arguments answer at once. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from bertft.commands import (
    ablate,
    data_edge,
    demo,
    pretrain,
    probe_edge,
    probe_mdl,
    probe_structural,
    score,
    tune,
)

__all__ = ["COMMANDS", "GROUPS", "Command"]


class Command(NamedTuple):
    """A command: its line in the help, what declares its options, what runs it."""

    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "score": Command("score fine-tuned checkpoints against their base", score.declare, score.run),
    "tune": Command("fine-tune a checkpoint: MNLI, SQuAD or dependency parsing", tune.declare, tune.run),
    "ablate": Command("what freezing or cutting off layers costs a task", ablate.declare, ablate.run),
    "pretrain": Command("pre-train a BERT from scratch, several seeds of it", pretrain.declare, pretrain.run),
    "probe structural": Command(
        "syntax trees: distance and depth probes on every layer", probe_structural.declare, probe_structural.run
    ),
    "probe edge": Command(
        "eight tasks on spans: edge probes, beside their baselines", probe_edge.declare, probe_edge.run
    ),
    "probe mdl": Command("description length: in how few bits a probe tells labels", probe_mdl.declare, probe_mdl.run),
    "data edge": Command("edge-probing records from a treebank", data_edge.declare, data_edge.run),
    "demo": Command("see it work on a small real model, in under three minutes", demo.declare, demo.run),
}

GROUPS = {
    "probe": "ask what of a sentence's annotation can be read off its vectors",
    "data": "make the records that other commands read",
}
"""First words of commands of two."""
