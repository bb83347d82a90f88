"""`bertft data edge`: convert a treebank to edge-probing records."""

from __future__ import annotations

import argparse
from pathlib import Path

from bertft.commands.options import add_output_dir
from bertft.commands.output import say, written_line


def declare(command: argparse.ArgumentParser) -> None:
    """Write the parts of speech or dependencies of a treebank as edge-probing records.

    Each task gets a folder with train.jsonl, dev.jsonl and test.jsonl, as `bertft probe
    edge` reads them. Example:

      bertft data edge --task pos dep --treebank UD_English-EWT --output-dir edge
    """
    add = command.add_argument
    add("--task", metavar="TASK", nargs="+", choices=("pos", "dep"), required=True, help="pos, dep, or both")
    add("--treebank", metavar="DIR", required=True, type=Path, help="folder with a treebank in CoNLL-U")
    add_output_dir(add, "write DIR/TASK/train.jsonl and so on", required=True)
    add("--tags", choices=("xpos", "upos"), default="xpos", help="part-of-speech tags to use (default: xpos)")
    add(
        "--as-released",
        action="store_true",
        help="omit what the converter of Tenney et al. omits: sentences with empty nodes, the last of each file",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from bertft.data.edge import edge_bytes
    from bertft.data.treebank import read_treebank
    from bertft.data.treebank_edges import edge_corpus
    from bertft.files import require_writable, write_files

    require_writable(options.out)
    bank = read_treebank(options.treebank)
    corpora = [
        edge_corpus(bank, task, tags=options.tags, as_released=options.as_released)
        for task in dict.fromkeys(options.task)
    ]
    for corpus in corpora:
        files = {f"{split}.jsonl": edge_bytes(records) for split, records in corpus.splits.items()}
        written = write_files(options.out / corpus.name, files)
        records = [record for of_split in corpus.splits.values() for record in of_split]
        targets = sum(len(record.targets) for record in records)
        say(f"{corpus.name}: {len(records):,} sentences, {targets:,} targets. {written_line(written)}")
    return 0
