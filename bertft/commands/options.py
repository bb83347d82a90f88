"""Groups of options that several commands declare, and the types of their values."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bertft.errors import OptionError
from bertft.options import DTYPES, FORMATS, one_of

ALIASES = frozenset({"--out", "--model", "--floor"})
"""Names of options of earlier versions, accepted until 0.2 and left out of the help."""

PRESETS = ("paper", "today")
"""Recipes that every trained thing has: as in the paper, and as one would do it today."""

PICKLE = "also load pickled weights; do this only if you trust their author"
"""The help of --allow-pickle."""

DEVICE = "auto, cpu, cuda, cuda:1, … (default: auto, a GPU where there is one)"
"""The help of --device."""

RANDOM_SEEDS = "baselines: randomly initialised models for each model (default: %(default)s)"
"""The help of --random-seeds."""


def add_computing(command: argparse.ArgumentParser) -> None:
    """Declare the options of forward passes."""
    add = command.add_argument_group("Computation").add_argument
    add(
        "--dtype",
        metavar="TYPE",
        choices=DTYPES,
        default="float32",
        help=f"type of the weights and activations: {', '.join(DTYPES)} (default: float32)",
    )
    add("--device", default="auto", help=DEVICE)
    add(
        "--batch-tokens",
        metavar="N",
        type=positive,
        help="most tokens in a batch, padding included (default: by device)",
    )
    add("--allow-pickle", action="store_true", help=PICKLE)


def add_edge_data(command: argparse.ArgumentParser) -> None:
    """Declare which edge-probing tasks are read, and from where."""
    add = command.add_argument_group("Input").add_argument
    add("--task", metavar="TASK", nargs="+", help="tasks (default: pos dep const ner srl coref spr rel)")
    add("--data", metavar="DIR", type=Path, help="folder with one folder for each task")
    add("--treebank", metavar="DIR", type=Path, help="treebank in CoNLL-U, for pos and dep")
    add("--tags", choices=("xpos", "upos"), default="xpos", help="part-of-speech tags: xpos or upos (default: xpos)")
    add("--sentences", metavar="N", type=count, help="training sentences of each task, or `all` (default: all)")
    add("--draw-seed", metavar="N", type=int, default=0, help="seed of their draw and order (default: 0)")
    add("--cache", metavar="DIR", type=Path, help="where hidden states are cached (default: your cache directory)")


def add_task_data(command: argparse.ArgumentParser, purpose: str) -> None:
    """Declare a task, the checkpoint to fine-tune, and the data; `purpose` is what the dev set is for."""
    command.add_argument("task", metavar="TASK", choices=("mnli", "squad", "dep"), help="mnli, squad or dep")
    command.add_argument("model", metavar="MODEL", nargs="?", help="the checkpoint to fine-tune")
    command.add_argument("--model", dest="model_option", help=argparse.SUPPRESS)
    add = command.add_argument_group("Input").add_argument
    add("--train", metavar="FILE", required=True, help="training set")
    add("--dev", metavar="FILE", required=True, help=f"development set, {purpose}")
    add("--limit", metavar="N", type=positive, help="draw at most N training records (default: all)")
    add("--dev-limit", metavar="N", type=positive, help="draw at most N development records (default: all)")


def model_of(options: argparse.Namespace) -> str:
    """Return the checkpoint to fine-tune, which earlier versions took from --model."""
    if (options.model is None) == (options.model_option is None):
        given = "MODEL is missing" if options.model is None else "MODEL was given twice"
        raise OptionError(f"{given}: write `bertft {options.command} {options.task} MODEL --train FILE --dev FILE`")
    return str(options.model_option if options.model is None else options.model)


def compared(options: argparse.Namespace) -> tuple[str | list[str], list[str]]:
    """Return one base and the tuned checkpoints, or a list of bases and the tuned checkpoint of each."""
    if options.pair and options.base is None:
        return [base for base, _ in options.pair], [tuned for _, tuned in options.pair]
    if options.pair or not options.tuned:
        given = "both were given" if options.pair else "TUNED is missing"
        raise OptionError(f"{given}: give BASE TUNED or pairs of them with --pair; see `bertft score --help`")
    return options.base, options.tuned


def add_recipe(command: argparse.ArgumentParser) -> None:
    """Declare the options of training on a task."""
    add = command.add_argument_group("Training").add_argument
    add("--preset", choices=PRESETS, default="paper", help="recipe: paper or today (default: paper)")
    add_seeds(add, "model", 1)
    add("--epochs", metavar="N", type=positive, help="number of epochs (default: that of the preset)")
    add("--learning-rate", metavar="X", type=float, help="highest learning rate (default: that of the preset)")
    add("--batch-size", metavar="N", type=positive, help="examples in a batch (default: that of the preset)")
    add("--max-length", metavar="N", type=positive, help="most tokens of an input (default: that of the preset)")
    add("--device", default="auto", help=DEVICE)
    add("--allow-pickle", action="store_true", help=PICKLE)


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
"""The options of `add_task_data` and `add_recipe` that are keyword arguments of `tune` and `ablate`."""

COMPUTING = ("dtype", "device", "batch_tokens", "allow_pickle")
"""The options of `add_computing`, which are keyword arguments of the drivers."""


def edge_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Read the tasks of `add_edge_data`; return them and all that the drivers of edge-probing tasks share."""
    from bertft.experiments.edge_tasks import TASKS, read_tasks

    return {
        "corpora": read_tasks(options.task or TASKS, options.data, options.treebank, tags=options.tags),
        "results": None if options.out is None else options.out / "results",
        **chosen(options, ("sentences", "draw_seed", "cache", *COMPUTING)),
    }


def chosen(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the named options, to pass on as keyword arguments."""
    return {name: getattr(options, name) for name in names}


def add_seeds(add: Callable[..., Any], trained: str, default: int) -> None:
    """Declare --seeds for a command that trains one `trained` with each seed."""
    text = f"seeds; a {trained} is trained with each (default: {default})"
    add("--seeds", metavar="N", type=int, nargs="+", default=[default], help=text)


def add_output(
    command: argparse.ArgumentParser, files: str, *, required: bool = False, overwrite: bool = False
) -> Callable[..., Any]:
    """Declare the options of the output and return what adds more of them; `files` names what is written.

    overwrite: declare --overwrite, without which results that are there are kept. It is for commands that compute all
        of their results anew; others resume.
    """
    add = command.add_argument_group("Output").add_argument
    add_output_dir(add, f"write {files} to DIR", required=required)
    add(
        "--format",
        dest="formats",
        metavar="NAMES",
        type=formats,
        default=FORMATS[:1],
        help=f"formats of the figures, of {', '.join(FORMATS)} (default: png)",
    )
    add("--json", action="store_true", help="print JSON instead of tables")
    if overwrite:
        add("--overwrite", action="store_true", help="replace the results that DIR holds")
    return add


def add_output_dir(add: Callable[..., Any], text: str, **more: Any) -> None:
    """Declare --output-dir."""
    add("-o", "--output-dir", "--out", dest="out", metavar="DIR", type=Path, help=text, **more)


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


def formats(text: str) -> tuple[str, ...]:
    """Return formats of figures separated by commas."""
    try:
        return tuple(dict.fromkeys(one_of("format", name, FORMATS) for name in names(text))) or FORMATS[:1]
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def names(text: str) -> tuple[str, ...]:
    """Return names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
