"""The command line, `bertft COMMAND`: parses the arguments and runs a command of `bertft.commands`.

Every error is reported as one line on stderr and an exit status: 2 for an error that the user can correct, 130 for an
interruption, 143 for a termination (SIGTERM), 1 for any other. Set the variable BERTFT_DEBUG=1 to see the traceback
instead.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import itertools
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from bertft import __version__, errors
from bertft.commands import COMMANDS, GROUPS
from bertft.commands.options import ALIASES
from bertft.commands.output import discard_stdout, printing
from bertft.errors import BertftError, OptionError, out_of_memory
from bertft.options import suggestion
from bertft.untrusted import shown


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that leaves out names of options that are only accepted, such as those of earlier versions."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown_action = copy.copy(action)
        shown_action.option_strings = [name for name in action.option_strings if name not in ALIASES]
        return super()._format_action_invocation(shown_action)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `OptionError` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, and name the command that prints the help."""
        if message.endswith("expected one argument"):
            message += " (write --option=-1 if the value begins with a minus)"
        raise OptionError(f"{message}; see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown option first: it is often a typing error of one that is then said to be missing."""
        given = () if self._subparsers is not None else itertools.takewhile(lambda word: word != "--", args or ())
        for name in (word.partition("=")[0] for word in given):
            known = self._option_string_actions
            if re.match(r"--?[A-Za-z]", name) and name not in known and not self._get_option_tuples(name):
                self.error(f"unknown option {name}{suggestion(name, known.keys() - ALIASES)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            named = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
            what = "command" if isinstance(action, argparse._SubParsersAction) else named
            close = suggestion(value, known)
            raise argparse.ArgumentError(None, f"unknown {what} {value!r}{close}; choose one of {', '.join(known)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse itself says nothing where the help cannot be written.
        with printing() as stdout:
            stdout.write(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    debug = os.environ.get("BERTFT_DEBUG", "") not in ("", "0")
    try:
        with warnings.catch_warnings(), terminated_like_interrupted():
            show_own_warnings()
            keep_descriptors()
            typed = sys.argv[1:] if arguments is None else list(arguments)
            options = parser().parse_args(typed)
            options.typed = typed
            status: int = options.run(options)
            if sys.stdout is not None:
                with printing():
                    pass
            return status
    except BrokenPipeError:  # the reader of a pipe has ended (`| head`)
        discard_stdout()
        return 141
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            raise
        message, status = explanation(error)
        tell(f"bertft: {one_line(message)}")
        return status


def keep_descriptors() -> None:
    """Open the null device in place of standard streams that are closed; a file opened later would be taken for one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


def tell(line: str) -> None:
    """Print a line on stderr, where there is one that can be written to."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


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
    """Return a message without line breaks, and with control characters as escapes."""
    return shown(" ".join(message.split()))


def show_own_warnings() -> None:
    """Show each warning of bertft once, as one line on stderr, and no warning of other packages."""
    known = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = f"bertft: warning: {one_line(str(message))}"
        if line not in known:
            known.add(line)
            tell(line)

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
            formatter_class=Help,
        )
        declare(command)
        command.set_defaults(run=run, command=name)
    return top


if __name__ == "__main__":
    sys.exit(main())
