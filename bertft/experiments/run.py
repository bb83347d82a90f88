"""What every run shares: its clock, its notes and its record, and how it is resumed.

A run that can be resumed writes its options to a file before it starts. When it is resumed, its options must be those.
What differs between two runs of one command (when, where, how long) is told in `run.json`, beside the results.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bertft.errors import BertftError, OptionError
from bertft.files import write_files
from bertft.progress import Feedback
from bertft.records import plain
from bertft.untrusted import read_json

TOLD_FILE = "run.json"
"""The file that tells when, where and how a run was made, and the seconds it took."""


def same_run(path: Path, options: Mapping[str, Any], *, resume: bool) -> None:
    """Write the options of a new run to a file, or compare those of a resumed run with the ones in the file.

    Raises `OptionError` naming the first option that differs, and `BertftError` if the file cannot be written or read,
    or if it exists and `resume` is false.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     same_run(Path(folder, "options.json"), {"steps": 10}, resume=False)
    ...     same_run(Path(folder, "options.json"), {"steps": 20}, resume=True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.OptionError: ...: holds a run whose steps is 10, and now it is 20; ...
    """
    if not os.path.lexists(path):
        content = json.dumps(plain(options), ensure_ascii=False, allow_nan=False, indent=2)
        write_files(path.parent, {path.name: f"{content}\n".encode()})
        return
    if not resume:
        raise BertftError(f"{path.parent}: holds a run already; resume it, or name another folder")
    try:
        before = read_json(path)
    except (OSError, ValueError) as error:
        raise BertftError(f"{path}: cannot be read ({error}); name another folder") from None
    check_same(path.parent, before, options)


def check_same(folder: Path, before: Any, options: Mapping[str, Any]) -> None:
    """Raise `OptionError` naming the first option that differs from those, read from JSON, of the run in a folder."""
    # The options go through JSON too, so that tuples equal lists and keys are text on both sides.
    held, now = _flat(before), _flat(json.loads(json.dumps(plain(options), allow_nan=False)))
    for name in [*now, *held]:
        if held.get(name) != now.get(name):
            raise OptionError(
                f"{folder}: holds a run whose {name} is {held.get(name)!r}, and now it is {now.get(name)!r}; "
                "give the same options again, or name another folder"
            )


def _flat(options: Any, name: str = "") -> dict[str, Any]:
    """Return nested options in one dictionary, under names such as `outer.inner`."""
    if not isinstance(options, dict) or not options:
        return {name: options}
    return {
        inner: value
        for key, item in options.items()
        for inner, value in _flat(item, f"{name}.{key}" if name else str(key)).items()
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, bertft and the libraries that its numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("bertft", "torch", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            found[package] = "unknown"
    return found


class Clock:
    """Seconds spent in each phase. On a GPU a phase ends when its work is queued, not when it is done."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that a block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def timings(self) -> dict[str, float]:
        """Return the seconds of each phase so far, to the millisecond."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


@dataclass
class Run:
    """A run in progress: how it reports, the time it takes, and notes for its record."""

    feedback: Feedback = field(default_factory=Feedback)
    clock: Clock = field(default_factory=Clock)
    notes: list[str] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def record(self, options: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
        """Return the record of the run: versions, options, its own parts, notes without repetitions, date, timings."""
        return {
            "versions": versions(),
            "options": dict(options),
            **parts,
            "notes": list(dict.fromkeys(self.notes)),
            "date": self.date,
            "timings": self.clock.timings(),
        }


@dataclass(frozen=True)
class KeptResults:
    """Results of the parts of a run, each kept in a file of a folder, so that a run that was stopped can continue.

    Without a folder nothing is kept. A file that has changed since it was written, or whose results lack one of the
    keys in `required`, is ignored.
    """

    folder: Path | None
    required: Set[str]

    def get(self, key: str, what: str, compute: Callable[[], dict[str, Any]], feedback: Feedback) -> dict[str, Any]:
        """Return the kept results of a part, or compute and keep them.

        key: a hash of everything that determines the results; it names the file.  what: the part, for the user.
        Results that were just computed pass through JSON, so that they equal those that were kept.

        Raises `BertftError` if the results cannot be written.
        """
        path = None if self.folder is None else self.folder / f"{key}.json"
        if path is not None and (found := self._read(path)) is not None:
            feedback.tell(f"{what} taken from {path}; delete it to compute it again")
            return found
        results = dict(json.loads(json.dumps(compute())))
        if path is not None:
            content = json.dumps({"sha256": _checksum(results), "results": results})
            write_files(path.parent, {path.name: content.encode()})
        return results

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            found = read_json(path)
            results: dict[str, Any] = found["results"]
            unchanged = found["sha256"] == _checksum(results)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        whole = unchanged and isinstance(results, dict) and results.keys() >= self.required
        return results if whole else None


def _checksum(results: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(results).encode()).hexdigest()
