"""What commands share in their options: types of values, and groups that several declare."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path


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
