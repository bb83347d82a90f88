"""The command line, `bertft COMMAND`: parses the arguments and runs a command of `bertft.commands`.

Every error is reported as one line on stderr and an exit status: 2 for an error that the user can correct, 130 for an
interruption, 143 for a termination (SIGTERM), 1 for any other. Set the variable BERTFT_DEBUG=1 to see the traceback
instead.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from bertft import __version__, errors
from bertft.commands import COMMANDS, GROUPS
from bertft.errors import BertftError, OptionError, out_of_memory


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `OptionError` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, and name the command that prints the help."""
        if message.endswith("expected one argument"):
            message += " (write --option=-1 if the value begins with a minus)"
        raise OptionError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    debug = os.environ.get("BERTFT_DEBUG", "") not in ("", "0")
    try:
        with warnings.catch_warnings(), terminated_like_interrupted():
            show_own_warnings()
            options = parser().parse_args(arguments)
            status: int = options.run(options)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # The reader of a pipe has ended (`| head`). Python must not fail again when it flushes and closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            raise
        message, status = explanation(error)
        print(f"bertft: {one_line(message)}", file=sys.stderr)
        return status


class Terminated(KeyboardInterrupt):
    """The process was asked to end; like an interruption, it ends after temporary files have been removed."""


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, unless the process ignores it or handles it in another way."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # only the main thread may handle signals
        return

    def raise_terminated(*_: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def explanation(error: BaseException) -> tuple[str, int]:
    """Return the message and the exit status for an error."""
    if isinstance(error, BertftError):
        return str(error), 2
    if isinstance(error, Terminated):
        return "terminated", 143
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if out_of_memory(error):
        return "out of memory; try a smaller --batch-tokens or --max-length", 1
    return f"unexpected {type(error).__name__}: {error} (BERTFT_DEBUG=1 shows where)", 1


def one_line(message: str) -> str:
    """Return a message without line breaks."""
    return " ".join(message.split())


def show_own_warnings() -> None:
    """Show each warning of bertft once, as one line on stderr, and no warning of other packages."""
    shown = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = f"bertft: warning: {one_line(str(message))}"
        if line not in shown:
            shown.add(line)
            print(line, file=sys.stderr)

    warnings.showwarning = show
    warnings.simplefilter("ignore")
    for category in vars(errors).values():
        if isinstance(category, type) and issubclass(category, Warning):
            warnings.simplefilter("always", category)


def parser() -> Parser:
    """Return the parser for all commands."""
    top = Parser(
        prog="bertft",
        description="Measure what fine-tuning does to the representations of a model, layer by layer.",
        epilog="Start with `bertft demo`. `bertft COMMAND --help` explains a command.",
    )
    top.add_argument("--version", action="version", version=f"bertft {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    groups = {}
    for name, (summary, declare, run) in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group and group not in groups:
            above = commands.add_parser(group, help=GROUPS[group], description=f"{GROUPS[group].capitalize()}.")
            groups[group] = above.add_subparsers(metavar="COMMAND", required=True)
        command = groups.get(group, commands).add_parser(
            last,
            help=summary,
            description=inspect.cleandoc(declare.__doc__ or ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        declare(command)
        command.set_defaults(run=run)
    return top


if __name__ == "__main__":
    sys.exit(main())
