"""Checks of a command's options that need no heavy library, so that a mistake is told before any is imported.

The functions that check are those that the drivers call again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertft.commands.options import compared, model_of
from bertft.errors import DataError
from bertft.location import local_folder
from bertft.options import (
    LEAST_TOKENS,
    check_bases,
    check_changes,
    check_sweep,
    count,
    device_name,
    integer,
    integers,
    layer_ranges,
    rate,
    share,
)


def check(options: argparse.Namespace) -> None:
    """Check the options that a command has: numbers, checkpoints, data, layers, measures and device.

    Raises the error that the driver would raise, or `DataError` for a folder of data that is none.
    """
    given = vars(options)
    _check_numbers(given)
    if "pair" in given:
        base, _ = compared(options)
        check_bases(base, compare=options.compare_bases)
    if "model_option" in given:
        model_of(options)
    for source in _checkpoints(options):
        local_folder(source)
    if given.get("layers") is not None:
        layer_ranges(options.layers)
    if given.get("device") is not None:
        device_name(options.device)
    if given.get("measures") is not None:
        from bertft.measures import resolve

        resolve(options.measures)
    _check_data(options)


def _check_numbers(given: Mapping[str, Any]) -> None:
    for name in ("seed", "draw_seed", "random_seeds"):
        if given.get(name) is not None:
            integer(name, given[name], least=0)
    if "seeds" in given:
        integers("seed", given["seeds"], least=0)
    if "tokens" in given:
        count("tokens", given["tokens"], least=LEAST_TOKENS)
    if given.get("learning_rate") is not None:
        rate(given["learning_rate"])
    if isinstance(given.get("held_out"), float):
        share("held_out", given["held_out"])
    if "lora" in given:
        check_changes(truncate=given["truncate"], lora=given["lora"])
    if "keep" in given:
        check_sweep(freeze=given["freeze"], truncate=given["truncate"])


def _checkpoints(options: argparse.Namespace) -> list[str]:
    given = vars(options)
    single = [given.get(name) for name in ("base", "model", "model_option", "like", "tokenizer")]
    several = [
        *given.get("tuned", ()),
        *given.get("models", ()),
        *(one for pair in given.get("pair") or () for one in pair),
    ]
    return [source for source in (*single, *several) if source is not None]


def _check_data(options: argparse.Namespace) -> None:
    from bertft.data.hub import is_file
    from bertft.data.text_file import check_exists, local_path
    from bertft.data.treebank import check_treebank

    given = vars(options)
    for file in (*given.get("text", ()), given.get("config")):
        if file is not None:
            check_exists(file)
    for source in (given.get("train"), given.get("dev")):
        if source is not None and is_file(source):
            check_exists(source)
    if given.get("treebank") is not None:
        check_treebank(options.treebank)
    if isinstance(given.get("data"), Path) and not local_path(options.data).is_dir():
        raise DataError(f"{options.data}: no such folder; give the folder above those of the tasks")
