"""`bertft pretrain`: pre-train a BERT from scratch with several seeds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertft.commands.options import DEVICE, add_output, add_seeds, positive
from bertft.commands.output import at_work, give_back, progress_bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Pre-train a BERT from scratch on plain text, once for each seed.

    FILE has one sentence a line and a blank line between documents. The defaults are those
    of Devlin et al. 2019. The final state of each model is written to DIR/seed-N/last, and
    the one that is best on held-out text to DIR/seed-N/best. Example:

      bertft pretrain --text wiki.txt --output-dir bert --size mini --steps 20000 --seeds 1 2 3
    """
    add = command.add_argument_group("Input").add_argument
    add("--text", metavar="FILE", nargs="+", required=True, help="plain text, one sentence a line")
    add(
        "--held-out",
        metavar="SHARE",
        type=float,
        default=0.02,
        help="share of the sentences to evaluate on (default: 0.02)",
    )
    add = command.add_argument_group("Model").add_argument
    add(
        "--size",
        choices=("tiny", "mini", "small", "medium", "base"),
        default="base",
        help="tiny, mini, small, medium or base (default: base)",
    )
    add("--config", metavar="FILE", type=Path, help="a config.json of a BERT, instead of --size")
    add("--like", metavar="MODEL", help="use the config and tokenizer of a model, instead of --size")
    add("--tokenizer", metavar="MODEL", help="use the tokenizer of a model instead of learning a vocabulary")
    add(
        "--vocab-size",
        metavar="N",
        type=positive,
        default=30522,
        help="subwords of the vocabulary to learn (default: 30522)",
    )
    add("--cased", action="store_true", help="keep upper case and accents in the vocabulary")
    add = command.add_argument_group("Training").add_argument
    add_seeds(add, "model", 1)
    add("--steps", metavar="N", type=positive, help="training steps (default: 1000000)")
    add("--batch-size", metavar="N", type=positive, help="pairs of segments in a batch (default: 256)")
    add(
        "--learning-rate",
        metavar="X",
        type=float,
        help="highest learning rate, reached after 1 %% of the steps (default: 1e-4)",
    )
    add("--max-length", metavar="N", type=positive, help="most tokens of a pair (default: 128)")
    add("--duplicates", metavar="N", type=positive, help="different maskings of the text (default: 10)")
    add("--every", metavar="N", type=positive, help="evaluate and save every N steps (default: a tenth of the steps)")
    add("--device", default="auto", help=DEVICE)
    add = add_output(command, "models, pretraining.json, pretraining.csv, a figure and report.html", required=True)
    add("--resume", action="store_true", help="continue the run that DIR holds")


@at_work("pretraining.json", "pretraining.csv", "options.json")
def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
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
    from bertft.report.pretrain import show

    status = give_back(options, made, show)
    say(f"Pre-trained: {', '.join(str(folder / 'last') for folder in made.folders.values())}.")
    return status
