"""`bertft ablate`: how many layers a task needs, by freezing them and by cutting them off."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import positive
from bertft.commands.output import console, progress_bar, quiet_libraries, say, written_line


def declare(command: argparse.ArgumentParser) -> None:
    """Fine-tune a checkpoint with more and more blocks frozen, or cut off, and say what that costs.

    K lists are `all`, or such as 0,3-5. Run again, the same command goes on where it was
    stopped; with other tasks in the same DIR, the pictures show all of them. Example:

      bertft ablate mnli --model bert-base-uncased --train train.jsonl --dev dev.jsonl \\
        --freeze all --truncate all --seeds 1 2 3 --out ablation
    """
    command.add_argument("task", metavar="TASK", choices=("mnli", "squad", "dep"), help="mnli, squad or dep")
    add = command.add_argument_group("what to read").add_argument
    add("--model", required=True, help="the checkpoint to begin from")
    add("--train", metavar="FILE", required=True, help="records to learn from")
    add("--dev", metavar="FILE", required=True, help="records to judge by")
    add("--limit", metavar="N", type=positive, help="training records, drawn (default: all)")
    add("--dev-limit", metavar="N", type=positive, help="dev records, drawn (default: all)")
    add = command.add_argument_group("what to sweep").add_argument
    add("--freeze", metavar="K", help="last blocks to freeze up to, 0 the first; -1, nothing, is always run")
    add("--truncate", metavar="K", help="numbers of blocks to keep; the whole model is always run")
    add("--pooler", choices=("keep", "reset"), default="keep", help="of a cut model: keep or reset (default: keep)")
    add("--seeds", metavar="N", type=int, nargs="+", default=[1], help="each k is run with each (default: 1)")
    add = command.add_argument_group("how to train").add_argument
    add("--preset", default="paper", help="recipe: paper or today (default: paper)")
    add("--epochs", metavar="N", type=positive, help="(default: the preset's)")
    add("--learning-rate", metavar="X", type=float, help="(default: the preset's)")
    add("--batch-size", metavar="N", type=positive, help="(default: the preset's)")
    add("--max-length", metavar="N", type=positive, help="most tokens of an input (default: the preset's)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--allow-pickle", action="store_true", help="load pickled weights: only from people you trust")
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="write ablation.json, .csv, pictures and models there")
    add("--keep", default="best", help="models of a finished k: all (best and last), best or none (default: best)")
    add("--json", action="store_true", help="print the JSON alone instead of the tables")


def run(options: argparse.Namespace) -> int:
    """Sweep, print, and write."""
    from bertft.report.files import require_writable

    require_writable(options.out)
    quiet_libraries()
    from bertft.ablating import ablate

    with progress_bar(sys.stderr) as progress:
        found = ablate(
            options.task,
            options.model,
            options.train,
            options.dev,
            options.out,
            freeze=options.freeze,
            truncate=options.truncate,
            pooler=options.pooler,
            seeds=options.seeds,
            keep=options.keep,
            preset=options.preset,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            max_length=options.max_length,
            limit=options.limit,
            dev_limit=options.dev_limit,
            device=options.device,
            allow_pickle=options.allow_pickle,
            progress=progress,
            say=say,
        )
    from bertft.records import json_bytes
    from bertft.report import ablations

    written = ablations.write(found.rows, found.run, options.out)
    if options.json:
        sys.stdout.buffer.write(json_bytes(found.rows, found.run))
        return 0
    ablations.show(found.rows, found.run, console(sys.stdout))
    say(written_line(written))
    return 0
