"""What the fuzzers share, and tiny files for commands. Seeds are fixed; a failure names its seed and keeps its input.

`make fuzz` runs the fuzzers for long: BERTFT_FUZZ multiplies the number of inputs, BERTFT_FUZZ_SEED chooses others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from bertft.errors import BertftError

TIMES = int(os.environ.get("BERTFT_FUZZ", "1"))
SEED = int(os.environ.get("BERTFT_FUZZ_SEED", "0"))
SECONDS = 5

CONLLU = "".join(
    f"# sent_id = {sentence}\n# text = It's rain\n1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tIt\tit\tPRON\tPRP\t_\t3\tnsubj\t_\tSpaceAfter=No\n2\t's\tbe\tAUX\tVBZ\t_\t3\tcop\t_\t_\n"
    "3\train\train\tNOUN\tNN\t_\t0\troot\t_\t_\n3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
    for sentence in range(3)
)
MNLI = f"{json.dumps(tiny.MNLI)}\n" * 3
PAIRS = "".join(f"{json.dumps({**tiny.MNLI, 'gold_label': label})}\n" for label in ("entailment", "neutral") * 2)


def make_files(folder: Path) -> Path:
    """Write what commands read, all tiny: the models base and tuned, a text, labelled pairs and a treebank."""
    words = ["it", "rains", "pours", "the", "sun", "shines", "."]
    for name, seed in (("base", 0), ("tuned", 1)):
        tiny.save(folder / name, tiny.bert(len(words) + 4, seed=seed), tiny.tokenizer(words))
    (folder / "text.txt").write_text("it rains .\nthe sun shines .\nit pours .\n" * 5)
    (folder / "pairs.jsonl").write_text(PAIRS)
    (folder / "bank").mkdir()
    for split in ("train", "dev", "test"):
        (folder / "bank" / f"x-ud-{split}.conllu").write_text(CONLLU.replace("3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n", ""))
    return folder


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the block after some seconds, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tried(capsys: pytest.CaptureFixture[str], what: str, count: int, refused: int) -> None:
    with capsys.disabled():
        print(f"\nfuzz: {what}: {count:,} inputs, {refused:,} refused in one line, none in another way", end="")


def check(error: BertftError) -> int:
    assert "\n" not in str(error).strip(), error
    assert len(str(error)) < 20_000
    return 1
