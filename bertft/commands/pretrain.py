"""`bertft pretrain`: BERT from scratch, several seeds of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import positive
from bertft.commands.output import get_ready, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Pre-train a BERT from scratch on a plain text, once for each seed.

    FILE has one sentence a line and a blank line between documents. The numbers left out
    are those of Devlin et al. 2019. Each model is written to DIR/seed-N/last, and its best
    state on held-out text to DIR/seed-N/best. Example:

      bertft pretrain --text wiki.txt --out bert --size mini --steps 20000 --seeds 1 2 3
    """
    add = command.add_argument_group("what to read").add_argument
    add("--text", metavar="FILE", nargs="+", required=True, help="plain text, one sentence a line")
    add("--held-out", metavar="SHARE", type=float, default=0.02, help="share of sentences to judge by (default: 0.02)")
    add = command.add_argument_group("what to train").add_argument
    add("--size", default="base", help="tiny, mini, small, medium or base (default: base)")
    add("--config", metavar="FILE", type=Path, help="a config.json of a BERT, instead of --size")
    add("--like", metavar="MODEL", help="take shape and tokenizer of a model, not its weights, instead of --size")
    add("--tokenizer", metavar="MODEL", help="take the tokenizer of a model instead of learning a vocabulary")
    add("--vocab-size", metavar="N", type=positive, default=30522, help="pieces to learn (default: 30522)")
    add("--cased", action="store_true", help="learn a vocabulary that keeps upper case and accents")
    add = command.add_argument_group("how to train").add_argument
    add("--seeds", metavar="N", type=int, nargs="+", default=[1], help="one model each (default: 1)")
    add("--steps", metavar="N", type=positive, help="updates of the weights (default: 1000000)")
    add("--batch-size", metavar="N", type=positive, help="pairs of segments in each (default: 256)")
    add("--learning-rate", metavar="X", type=float, help="highest, after 1 %% of the steps (default: 1e-4)")
    add("--max-length", metavar="N", type=positive, help="tokens of a pair (default: 128)")
    add("--duplicates", metavar="N", type=positive, help="times the text is masked anew (default: 10)")
    add("--every", metavar="N", type=positive, help="judge and save after so many steps (default: 10 times)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    add("--resume", action="store_true", help="go on with what DIR holds")
    add = command.add_argument_group("what to give back").add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="folder of the models and of the record")
    add("--json", action="store_true", help="print the JSON alone instead of the table")


def run(options: argparse.Namespace) -> int:
    """Pre-train, print, and write."""
    get_ready(options.out)
    from bertft.experiments.pretrain import pretrain

    with progress_bar(sys.stderr) as progress:
        made = pretrain(
            options.text,
            options.out,
            size=options.size,
            config=options.config,
            like=options.like,
            tokenizer=options.tokenizer,
            vocab_size=options.vocab_size,
            cased=options.cased,
            seeds=options.seeds,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            max_length=options.max_length,
            duplicates=options.duplicates,
            held_out=options.held_out,
            every=options.every,
            resume=options.resume,
            device=options.device,
            progress=progress,
            say=say,
        )
    from bertft.report import pretrain as report

    status = give_back(options, made.rows, made.run, lambda out: report.write(made.rows, made.run, out), report.show)
    say(f"Pre-trained: {', '.join(str(folder / 'last') for folder in made.folders.values())}.")
    return status
