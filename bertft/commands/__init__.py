"""The commands, one module each: `declare` says what options it has, `run` runs it and returns the exit status.

`COMMANDS` lists them; those of two words stand under their first. Nothing heavy is imported before a command runs, so
that help and mistakes in the arguments answer at once. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from bertft.commands import demo, probe_structural, score, tune

__all__ = ["COMMANDS", "GROUPS", "Command"]


class Command(NamedTuple):
    """A command: its line in the help, what declares its options, what runs it."""

    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "score": Command("score fine-tuned checkpoints against their base", score.declare, score.run),
    "tune": Command("fine-tune a checkpoint: MNLI, SQuAD or dependency parsing", tune.declare, tune.run),
    "probe structural": Command(
        "syntax trees: distance and depth probes on every layer", probe_structural.declare, probe_structural.run
    ),
    "demo": Command("see it work on a small real model, in under three minutes", demo.declare, demo.run),
}

GROUPS = {"probe": "ask what of a sentence's annotation can be read off its vectors"}
"""First words of commands of two."""
