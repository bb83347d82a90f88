"""The output of commands: progress bars and lines on stderr, tables or JSON on stdout."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bertft.commands.checks import check
from bertft.errors import BertftError
from bertft.progress import Progress
from bertft.untrusted import reason, shown

if TYPE_CHECKING:
    from rich.console import Console

    from bertft.experiments.results import Results

Run = Callable[[argparse.Namespace], int]


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
def progress_bar(stream: TextIO | None) -> Iterator[Progress | None]:
    """Yield a function that draws progress on a terminal, and elsewhere writes a line every ten seconds.

    Yields None where there is no stream.
    """
    if stream is None or not stream.isatty():
        yield None if stream is None else progress_lines(stream)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stream), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(done: int, total: int, what: str) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(shown(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield advance


def progress_lines(stream: TextIO, seconds: float = 10, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Return a function that writes a line of progress to a stream, at most one every so many seconds."""
    last = clock()

    def advance(done: int, total: int, what: str) -> None:
        nonlocal last
        if (now := clock()) - last >= seconds:
            last = now
            with contextlib.suppress(OSError):  # nobody may read any longer; the work goes on
                print(f"bertft: {shown(what)}: {done:,} of {total:,}", file=stream, flush=True)

    return advance


def console(stream: TextIO) -> Console:
    """Return a rich console for a stream, as wide as the terminal, or 80 characters in a pipe.

    It reads no markup in texts.
    """
    from rich.console import Console

    class PipedConsole(Console):
        """A console that lets `main` handle a broken pipe, for which rich itself would exit."""

        def on_broken_pipe(self) -> None:
            raise

    return PipedConsole(file=stream, highlight=False, markup=False, emoji=False)


def at_work(*names: str, lock: bool = True) -> Callable[[Run], Run]:
    """Return a decorator for the function that runs a command: it checks the options and holds the output directory.

    While the command runs, another one that wants to write there is refused at once. Other libraries are silenced.

    names: of the files that the command cannot do without; none of them may be the name of a folder there.
    lock: whether to hold the directory. Without it, the command holds what it needs itself.
    """

    def decorator(run: Run) -> Run:
        @functools.wraps(run)
        def ready(options: argparse.Namespace) -> int:
            quiet_libraries()
            check(options)
            if options.out is None:
                if sys.stdout is None:
                    raise BertftError(
                        "stdout is closed, so the results would be lost; name a folder for them (--output-dir DIR)"
                    )
                return run(options)
            from bertft.files import folder_lock, holds_results, require_writable

            require_writable(options.out, names)
            with folder_lock(options.out) if lock else contextlib.nullcontext():
                if vars(options).get("overwrite") is False and holds_results(options.out, names[0]):
                    raise BertftError(
                        f"{options.out}: holds results already ({names[0]}); replace them with --overwrite, or name "
                        "another directory"
                    )
                return run(options)

        return ready

    return decorator


def give_back(
    options: argparse.Namespace,
    found: Results,
    show: Callable[[list[dict[str, Any]], dict[str, Any], Console], None],
    *,
    kept: str = "the numbers and the figures",
) -> int:
    """Write the numbers to the output directory, print them as tables or JSON, draw, and return the exit status.

    Numbers that cannot be written are printed all the same before the error is raised, and those that cannot be printed
    are written all the same. A picture or page that fails is left out with a warning.

    `kept` names, in the message for a run without --output-dir, what it would write.
    """
    from bertft.files import write_drawings, write_numbers

    written: list[Path] = []
    results = found.files(options.formats, told(options)) if options.out is not None else None
    try:
        if results is not None:
            written += write_numbers(options.out, results)
    except BertftError:
        print_results(options, found, show)
        raise
    try:
        print_results(options, found, show, kept=written_line(written) if written else "")
    finally:
        if results is not None:
            written += write_drawings(options.out, results)
    if not options.json:
        say(written_line(written) if written else f"Nothing was written; --output-dir DIR writes {kept}.")
    return 0


def told(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `run.json` tells of a command: the line as typed, where, and the paths of the files in it."""
    words = options.typed
    directory = None
    with contextlib.suppress(OSError):  # it may have been removed meanwhile
        directory = os.getcwd()
    known = [word for word in words if word and os.path.lexists(word) and (directory or os.path.isabs(word))]
    return {
        "command": shlex.join(["bertft", *words]),
        "directory": directory,
        "paths": {word: os.path.abspath(word) for word in known},
        "host": platform.node(),
    }


def print_results(
    options: argparse.Namespace,
    found: Results,
    show: Callable[[list[dict[str, Any]], dict[str, Any], Console], None],
    *,
    kept: str = "",
) -> None:
    """Print results on stdout, as tables or JSON; see `printing` for `kept`."""
    with printing(kept) as stdout:
        if options.json:
            from bertft.records import json_bytes

            stdout.buffer.write(json_bytes(found.rows, found.run))
        else:
            show(found.rows, found.run, console(stdout))


@contextlib.contextmanager
def printing(kept: str = "") -> Iterator[Any]:
    """Yield stdout; raise `BertftError`, which names stdout and ends with `kept`, where it cannot be written to.

    Characters that the encoding of stdout lacks are written as escapes. A reader that has ended (`| head`) raises
    `BrokenPipeError`, as elsewhere.
    """
    try:
        if sys.stdout is None:  # closed before Python began
            raise OSError(9, "it is closed")
        with contextlib.ExitStack() as restored:
            if isinstance(sys.stdout, io.TextIOWrapper):
                restored.callback(sys.stdout.reconfigure, errors=sys.stdout.errors)
                sys.stdout.reconfigure(errors="backslashreplace")
            yield sys.stdout
            sys.stdout.flush()
    except (BertftError, BrokenPipeError):
        raise
    except OSError as error:
        discard_stdout()
        advice = kept or "free space, or name a folder for the results (--output-dir DIR)"
        raise BertftError(f"stdout: cannot write to it: {reason(error)}; {advice}") from error


def discard_stdout() -> None:
    """Let nothing more reach stdout, so that Python does not fail again when it flushes and closes it."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(message: str) -> None:
    """Print a line for the user on stderr, where there is one; stdout is for results only."""
    if sys.stderr is not None:
        print(shown(message), file=sys.stderr)


def written_line(paths: Sequence[Path]) -> str:
    """Return a line that names the files written."""
    return f"Wrote {', '.join(path.name for path in paths)} to {paths[0].parent}."
