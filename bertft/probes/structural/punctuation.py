"""The words that an evaluation leaves out: punctuation, by the tags of one of two conventions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bertft.errors import DataError, OptionError

PUNCTUATION = {
    "paper": frozenset(["''", ",", ".", ":", "``", "-LRB-", "-RRB-"]),
    "today": frozenset(["PUNCT"]),
}
"""paper: the seven tags (XPOS) that Hewitt and Manning leave out. They do not include HYPH and NFP, the tags of hyphens
and of superfluous punctuation in English treebanks. today: the universal tag (UPOS)."""


def keep_masks(tags: Sequence[Sequence[str]], preset: str = "paper", width: int | None = None) -> NDArray[np.bool_]:
    """Return which words of each sentence are not punctuation, (batch, width), False after the end of a sentence.

    tags: a sequence of tags for each sentence, XPOS of the Penn Treebank for the preset "paper", UPOS for "today".
    width: by default the length of the longest sentence.

    Raises `OptionError` for an unknown preset and `DataError` for a sentence longer than the width.

    >>> keep_masks([["PRP", "VBZ", "."], ["UH", "NFP"]])
    array([[ True,  True, False],
           [ True,  True, False]])

    Source: Hewitt and Manning 2019, whose code lists the tags.
    """
    punctuation = PUNCTUATION[check_preset(preset)]
    longest = max(map(len, tags), default=0)
    width = longest if width is None else width
    masks = np.zeros((len(tags), width), dtype=np.bool_)
    for sentence, row in enumerate(tags):
        if len(row) > width:
            raise DataError(
                f"sentence {sentence} has {len(row)} tags and the width is {width}; widen it to {longest} or more"
            )
        masks[sentence, : len(row)] = [tag not in punctuation for tag in row]
    return masks


def check_preset(preset: str) -> str:
    """Return the preset. Raises `OptionError`, with the known presets, if there is none of this name."""
    if preset not in PUNCTUATION:
        raise OptionError(f"unknown preset {preset!r}; expected one of {', '.join(PUNCTUATION)}")
    return preset
