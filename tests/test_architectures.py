"""The table of architectures: what it says of a sample of types is what bertft does today."""

from __future__ import annotations

import re

import pytest
import transformers
from architectures import MEANINGS, PAGE, Line, lines_of, text_types

SAMPLE = (
    *("albert", "bert", "bloom", "canine", "clip", "deberta-v2", "fnet", "funnel", "gemma3_text", "gpt_neo", "llama"),
    *("longformer", "mamba", "modernbert", "mpnet", "opt", "squeezebert", "t5", "xlm", "xlnet", "xmod"),
)
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\S+) (\| .*)$", TEXT, flags=re.MULTILINE))
VERSION = re.search(r"transformers (\S+),", TEXT)

written = pytest.mark.skipif(
    VERSION is None or VERSION[1] != transformers.__version__,
    reason="docs/architectures.md was written with another version of transformers: make architectures",
)


@written
def test_the_table_has_every_text_type_and_counts_its_verdicts() -> None:
    kinds = text_types()
    assert set(kinds) <= ROWS.keys()
    for verdict in MEANINGS:
        count = sum(row.split(" | ")[1] == verdict for kind, row in ROWS.items() if kind in kinds)
        assert f"- **{verdict}** ({count}): " in TEXT


@written
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in SAMPLE if kind in text_types()])
def test_the_table_is_what_bertft_does(kind: str) -> None:
    (line,) = lines_of([kind])
    assert isinstance(line, Line)
    assert str(line) == f"| {kind} {ROWS[kind]}"
