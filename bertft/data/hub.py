"""Rows of a data set on the hub, or of a local folder of data files, read with the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bertft.data.text_file import local_path
from bertft.errors import DataError

_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?:(?P<split>[\w.-]+(\[[\d:%]*\])?)")


@dataclass(frozen=True)
class HubRows:
    """The rows of one split, with class labels as names; an unknown class is "-", as in MNLI."""

    name: str
    rows: Sequence[dict[str, Any]]
    content_hash: str


def is_file(source: str) -> bool:
    """Return whether a source is a local file, or a wrong path to one, rather than a source for `read_hub`."""
    path = local_path(source)
    return path.is_file() or not (path.is_dir() or _folder_and_split(source) or _NAME.fullmatch(source))


def read_hub(source: str) -> HubRows:
    """Return the rows of `NAME:SPLIT` or `NAME:CONFIG:SPLIT`; NAME is a data set on the hub or a local folder.

    Raises `DataError` where the library is missing, and where there is no such data set or split.

    >>> read_hub("nyu-mll/multi_nli:validation_matched")  # doctest: +SKIP
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f'{source}: needs the library datasets; pip install "bertft[tune]", or give a local file'
        ) from error
    if local := _folder_and_split(source):
        name, config, split = local[0], None, local[1]
    elif match := _NAME.fullmatch(source):
        name, config, split = match["name"], match["config"], match["split"]
    else:
        raise DataError(f"{source}: a folder; add the split to read, for example {source}:train")
    try:
        found = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many types of error; the first line is informative
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source}: datasets cannot load it ({reason}); give NAME:SPLIT or a local file") from None
    classes = {name: feature for name, feature in found.features.items() if isinstance(feature, datasets.ClassLabel)}
    rows = [
        {**row, **{name: feature.int2str(row[name]) if row[name] >= 0 else "-" for name, feature in classes.items()}}
        for row in found
    ]
    return HubRows(source, rows, found._fingerprint)


def _folder_and_split(source: str) -> tuple[str, str] | None:
    """Return the two parts of FOLDER:SPLIT, or None where there is no such folder."""
    folder, _, split = source.rpartition(":")
    return (str(local_path(folder)), split) if folder and local_path(folder).is_dir() else None
