"""What every run needs that reads checkpoints and writes numbers: names, checked options, versions, a clock."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bertft.errors import BertftError, OptionError
from bertft.models import Checkpoint, load_checkpoint, randomised

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]
Source = str | os.PathLike[str] | Checkpoint


def loaded(sources: Sequence[Source], *, device: str, dtype: str, allow_pickle: bool) -> list[Checkpoint]:
    """The checkpoints of the sources, under distinct names."""
    if device == "auto":
        given = [source.model.device for source in sources if isinstance(source, Checkpoint)]
        device = str(given[0]) if given else "cuda" if torch.cuda.is_available() else "cpu"
    found = [
        source
        if isinstance(source, Checkpoint)
        else load_checkpoint(
            source if isinstance(source, str) else Path(source), device=device, dtype=dtype, allow_pickle=allow_pickle
        )
        for source in sources
    ]
    names = distinct_names([checkpoint.name for checkpoint in found], sources)
    return [dataclasses.replace(checkpoint, name=name) for checkpoint, name in zip(found, names, strict=True)]


def with_random(checkpoints: Sequence[Checkpoint], random_seeds: int) -> Iterator[tuple[str, bool, Checkpoint]]:
    """The checkpoints, then their random twins: whose shape it has, whether it is a floor, and the model."""
    for checkpoint in checkpoints:
        yield checkpoint.name, False, checkpoint
    for checkpoint in checkpoints:
        for number in range(random_seeds):
            yield checkpoint.name, True, randomised(checkpoint, number)


def named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Progress of one thing."""
    return None if progress is None else lambda done, total: progress(done, total, what)


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


@dataclass(frozen=True)
class KeptResults:
    """Results kept in a folder, a file for each part of a run, so that a run that was stopped goes on there."""

    folder: Path
    wanted: Set[str]
    """What a result must hold to be one."""

    def path(self, key: str) -> Path:
        """The file of a part; its key is a hash of all that decides it."""
        return self.folder / f"{key}.json"

    def find(self, key: str) -> dict[str, Any] | None:
        """What was kept, None where there is nothing that can be read."""
        try:
            found = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.keys() >= self.wanted else None

    def keep(self, key: str, results: dict[str, Any]) -> None:
        """Write results, whole or not at all; raises `BertftError` where that cannot be."""
        temporary = self.path(f".{key}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(results), encoding="utf-8")
            temporary.replace(self.path(key))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise BertftError(f"{self.folder}: cannot write there: {error.strerror or error}") from error
