"""The files that fuzzers change: two models, a text, a treebank and labelled pairs, all tiny."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from fuzzing import CONLLU, PAIRS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    words = ["it", "rains", "pours", "the", "sun", "shines", "."]
    for name, seed in (("base", 0), ("tuned", 1)):
        tiny.save(folder / name, tiny.bert(len(words) + 4, seed=seed), tiny.tokenizer(words))
    (folder / "text.txt").write_text("it rains .\nthe sun shines .\nit pours .\n" * 5)
    (folder / "pairs.jsonl").write_text(PAIRS)
    (folder / "bank").mkdir()
    for split in ("train", "dev", "test"):
        (folder / "bank" / f"x-ud-{split}.conllu").write_text(CONLLU.replace("3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n", ""))
    return folder
