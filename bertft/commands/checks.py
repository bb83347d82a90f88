"""Checks of a command's options that need no heavy library, so that a mistake is told before any is imported.

The functions that check are those that the drivers call again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bertft.commands.options import compared, model_of
from bertft.errors import DataError
from bertft.location import local_folder
from bertft.options import device_name, layer_ranges


def check(options: argparse.Namespace) -> None:
    """Check the options that a command has: checkpoints, data, layers, measures and device.

    Raises the error that the driver would raise, or `DataError` for a folder of data that is none.
    """
    given = vars(options)
    if "pair" in given:
        compared(options)
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
