"""What every run needs that reads checkpoints and texts: names, checked options, versions, a clock."""

from __future__ import annotations

import dataclasses
import operator
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bertft.data import Corpus, Example, corpus_from_texts, read_corpus
from bertft.errors import OptionError
from bertft.models import Checkpoint, load_checkpoint

Source = str | os.PathLike[str] | Checkpoint
Text = str | tuple[str, str]


def loaded(sources: Sequence[Source], *, device: str, dtype: str, allow_pickle: bool) -> list[Checkpoint]:
    """The checkpoints of the sources, under distinct names; a base that adapters share is read once."""
    given = [source for source in sources if isinstance(source, Checkpoint)]
    if device == "auto":
        device = str(given[0].model.device) if given else "cuda" if torch.cuda.is_available() else "cpu"
    found: list[Checkpoint] = []
    for source in sources:
        if not isinstance(source, Checkpoint):
            source = load_checkpoint(
                source if isinstance(source, str) else Path(source),
                device=device,
                dtype=dtype,
                allow_pickle=allow_pickle,
                present=[*given, *found],
            )
        found.append(source)
    names = distinct_names([checkpoint.name for checkpoint in found], sources)
    return [dataclasses.replace(checkpoint, name=name) for checkpoint, name in zip(found, names, strict=True)]


def distinct_names(names: Sequence[str], sources: Sequence[object]) -> list[str]:
    """The names, those that are the same told apart by the folders above them, or else by a number.

    >>> distinct_names(["best", "best", "base"], ["runs/mnli/best", "runs/squad/best", "base"])
    ['mnli/best', 'squad/best', 'base']
    """
    parents = [
        Path(source).absolute().parent.parts if isinstance(source, str | os.PathLike) else () for source in sources
    ]
    result = list(names)
    for level in range(1, max(map(len, parents), default=0) + 1):
        for name in [name for name, count in Counter(result).items() if count > 1]:
            same = [index for index, other in enumerate(result) if other == name]
            if len({parents[index] for index in same}) > 1:
                for index in same:
                    if level <= len(parents[index]):
                        result[index] = f"{parents[index][-level]}/{name}"
    seen: Counter[str] = Counter()
    for index, name in enumerate(result):
        seen[name] += 1
        if seen[name] > 1:
            result[index] = f"{name} ({seen[name]})"
    return result


def integer(name: str, value: Any, *, least: int, also: str = "") -> int:
    """The value, or an `OptionError` where it is no whole number that is at least `least`."""
    number = operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else None
    if number is None or number < least:
        raise OptionError(f"{name} is {value!r}; give a whole number that is at least {least}{also}")
    return number


def corpora_of(texts: Any, *, single: bool) -> list[Corpus]:
    """The corpora meant by `texts`, under distinct names."""
    items = several("texts", texts, (str, os.PathLike, Corpus, tuple))
    if isinstance(texts, str):
        items = [Path(texts)]
    elif not items or not all(isinstance(item, os.PathLike | Corpus) for item in items):
        if items and all(isinstance(item, str) and os.path.isfile(item) for item in items):
            raise OptionError(
                f"texts lists the names of files, {items[0]!r} first; give them as pathlib.Path to have them read"
            )
        items = [corpus_from_texts(items)]
    found = [item if isinstance(item, Corpus) else read_corpus(Path(item), single=single) for item in items]
    if single:
        found = [dataclasses.replace(corpus, examples=tuple(map(_first_part, corpus.examples))) for corpus in found]
    names = distinct_names([corpus.name for corpus in found], items)
    return [dataclasses.replace(corpus, name=name) for corpus, name in zip(found, names, strict=True)]


def several(name: str, given: Any, kind: Any) -> list[Any]:
    """One thing of a kind, or several, as a list; raises `OptionError` for anything else."""
    items = [given] if isinstance(given, kind) else list(given) if isinstance(given, Iterable) else None
    if items is None or not all(isinstance(item, kind) for item in items):
        raise OptionError(f"{name} is {given!r}; give one, or a list of them")
    return items


def _first_part(example: Example) -> Example:
    return dataclasses.replace(example, pair=None)


def count(name: str, value: int | str | None, *, least: int) -> int | None:
    """A whole number that is at least `least`, or None for "all"; raises `OptionError` for anything else."""
    return None if value is None or value == "all" else integer(name, value, least=least, also=", or 'all'")


def versions() -> dict[str, str]:
    """Of Python, bertft and what its numbers rest on."""
    found = {"python": platform.python_version()}
    for package in ("bertft", "torch", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            found[package] = "unknown"
    return found


class Clock:
    """Seconds spent in each phase; on a GPU a phase ends when its work is queued."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block to one phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
