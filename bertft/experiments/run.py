"""What every run needs that reads checkpoints and texts and writes numbers: names, checked options, versions, a clock.

A run that can be taken up again also writes its options down before it begins, and is held to them when it is.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bertft.errors import BertftError, OptionError
from bertft.files import write_files
from bertft.records import plain


def same_run(path: Path, options: Mapping[str, Any], *, resume: bool) -> None:
    """Write the options of a run that begins to a file, or hold those of one that is taken up to what stands there.

    Raises `OptionError` naming the first option that differs, and `BertftError` where the file cannot be written or
    read, or stands there and `resume` is not asked for.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     same_run(Path(folder, "run.json"), {"steps": 10}, resume=False)
    ...     same_run(Path(folder, "run.json"), {"steps": 20}, resume=True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.OptionError: ...: holds a run whose steps is 10, and now it is 20; ...
    """
    if not path.exists():
        content = json.dumps(plain(options), ensure_ascii=False, allow_nan=False, indent=2)
        write_files(path.parent, {path.name: f"{content}\n".encode()})
        return
    if not resume:
        raise BertftError(f"{path.parent}: holds a run already; resume it, or name another folder")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BertftError(f"{path}: cannot be read ({error}); name another folder") from error
    check_same(path.parent, before, options)


def check_same(folder: Path, before: Any, options: Mapping[str, Any]) -> None:
    """Hold options to those, read from JSON, of the run that the folder holds; an `OptionError` names what differs."""
    # Written and read once, so that both sides went through JSON.
    held, now = _flat(before), _flat(json.loads(json.dumps(plain(options), allow_nan=False)))
    for name in [*now, *held]:
        if held.get(name) != now.get(name):
            raise OptionError(
                f"{folder}: holds a run whose {name} is {held.get(name)!r}, and now it is {now.get(name)!r}; "
                "give the same options again, or name another folder"
            )


def _flat(options: Any, name: str = "") -> dict[str, Any]:
    """The options within options under their own names, nested ones as `outer.inner`."""
    if not isinstance(options, dict) or not options:
        return {name: options}
    return {
        inner: value
        for key, item in options.items()
        for inner, value in _flat(item, f"{name}.{key}" if name else str(key)).items()
    }


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

    def timings(self) -> dict[str, float]:
        """The seconds so far, to the millisecond, as a run records them."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


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
