"""The output of commands: progress bars and lines on stderr, tables or JSON on stdout."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bertft.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console


def quiet_libraries() -> None:
    """Silence the progress bars, advice and warnings of other libraries, unless the user has set their variables."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def progress_bar(stream: TextIO) -> Iterator[Progress | None]:
    """Yield a function that draws progress on a terminal, or None if the stream is not a terminal."""
    if not stream.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stream), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(done: int, total: int, what: str) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield advance


def console(stream: TextIO) -> Console:
    """Return a rich console for a stream, as wide as the terminal, or 80 characters in a pipe."""
    from rich.console import Console

    class PipedConsole(Console):
        """A console that lets `main` handle a broken pipe, for which rich itself would exit."""

        def on_broken_pipe(self) -> None:
            raise

    return PipedConsole(file=stream, highlight=False)


def get_ready(out: Path | None) -> None:
    """Raise `BertftError` if the output directory cannot be written, and silence other libraries."""
    from bertft.files import require_writable

    if out is not None:
        require_writable(out)
    quiet_libraries()


def give_back(
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
    run: dict[str, Any],
    write: Callable[[Path], list[Path]],
    show: Callable[[list[dict[str, Any]], dict[str, Any], Console], None],
    *,
    kept: str = "the numbers and the figures",
) -> int:
    """Write the results to the output directory, print them as tables or JSON, and return the exit status.

    `kept` names, in the message for a run without --out, what --out would write.
    """
    from bertft.records import json_bytes

    written = write(options.out) if options.out is not None else []
    if options.json:
        sys.stdout.buffer.write(json_bytes(rows, run))
        return 0
    show(rows, run, console(sys.stdout))
    say(written_line(written) if written else f"Nothing was written; --out DIR writes {kept}.")
    return 0


def say(message: str) -> None:
    """Print a line for the user on stderr; stdout is for results only."""
    print(message, file=sys.stderr)


def written_line(paths: Sequence[Path]) -> str:
    """Return a line that names the files written."""
    return f"Wrote {', '.join(path.name for path in paths)} to {paths[0].parent}."
