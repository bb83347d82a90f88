"""What commands share in their options: types of values, and groups that several declare."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def add_computing(command: argparse.ArgumentParser) -> None:
    """Declare how forward passes are computed."""
    add = command.add_argument_group("how to compute").add_argument
    add("--dtype", default="float32", help="number type of the forward passes (default: float32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    add("--batch-tokens", metavar="N", type=positive, help="tokens in one forward batch, padding included")
    add("--allow-pickle", action="store_true", help="load pickled weights: only from people you trust")


def add_edge_data(command: argparse.ArgumentParser) -> None:
    """Declare which edge-probing tasks are read, and where from."""
    add = command.add_argument_group("what to read").add_argument
    add("--task", metavar="TASK", nargs="+", help="tasks (default: pos dep const ner srl coref spr rel)")
    add("--data", metavar="DIR", type=Path, help="folder that holds a folder for each task")
    add("--treebank", metavar="DIR", type=Path, help="folder of a treebank in CoNLL-U, for pos and dep")
    add("--tags", choices=("xpos", "upos"), default="xpos", help="parts of speech: xpos (default) or upos")
    add("--sentences", metavar="N", type=count, help="training sentences of each task, or `all` (default: all)")
    add("--draw-seed", metavar="N", type=int, default=0, help="seed of their draw and order (default: 0)")
    add("--cache", metavar="DIR", type=Path, help="where vectors of pieces are kept (default: ~/.cache/bertft)")


def add_task_data(command: argparse.ArgumentParser, purpose: str) -> None:
    """Declare a task, the checkpoint to begin from, and records to learn from and, for some purpose, to judge by."""
    command.add_argument("task", metavar="TASK", choices=("mnli", "squad", "dep"), help="mnli, squad or dep")
    add = command.add_argument_group("what to read").add_argument
    add("--model", required=True, help="the checkpoint to begin from")
    add("--train", metavar="FILE", required=True, help="records to learn from")
    add("--dev", metavar="FILE", required=True, help=f"records to {purpose} by")
    add("--limit", metavar="N", type=positive, help="training records, drawn (default: all)")
    add("--dev-limit", metavar="N", type=positive, help="dev records, drawn (default: all)")


def add_recipe(command: argparse.ArgumentParser) -> None:
    """Declare how a task is trained."""
    add = command.add_argument_group("how to train").add_argument
    add("--preset", default="paper", help="recipe: paper or today (default: paper)")
    add("--seeds", metavar="N", type=int, nargs="+", default=[1], help="one run each (default: 1)")
    add("--epochs", metavar="N", type=positive, help="(default: the preset's)")
    add("--learning-rate", metavar="X", type=float, help="(default: the preset's)")
    add("--batch-size", metavar="N", type=positive, help="(default: the preset's)")
    add("--max-length", metavar="N", type=positive, help="most tokens of an input (default: the preset's)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--allow-pickle", action="store_true", help="load pickled weights: only from people you trust")


RECIPE = (
    "limit",
    "dev_limit",
    "preset",
    "seeds",
    "epochs",
    "learning_rate",
    "batch_size",
    "max_length",
    "device",
    "allow_pickle",
)
"""What `add_task_data` and `add_recipe` declare and tuning takes under the same name."""

COMPUTING = ("dtype", "device", "batch_tokens", "allow_pickle")
"""What `add_computing` declares and runs take under the same name."""

EDGE_DATA = ("sentences", "draw_seed", "cache")
"""What `add_edge_data` declares of the kind."""


def chosen(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return some of the options by name, to be passed on."""
    return {name: getattr(options, name) for name in names}


def add_output(command: argparse.ArgumentParser, files: str) -> None:
    """Declare where results go; `files` names what --out writes."""
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, help=f"write {files} there")
    add("--json", action="store_true", help="print the JSON alone instead of the table")


def count(text: str) -> int | None:
    """Return a positive whole number, or None for `all`."""
    if text == "all":
        return None
    with contextlib.suppress(argparse.ArgumentTypeError):
        return positive(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number above 0 nor `all`")


def positive(text: str) -> int:
    """Return a positive whole number."""
    with contextlib.suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def ranks(text: str) -> tuple[int, ...]:
    """Return positive whole numbers separated by commas."""
    return tuple(positive(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Return names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
