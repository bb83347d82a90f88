"""The inputs that the experiments share: checkpoints and corpora, loaded and given distinct names."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import randomised
from bertft.checkpoints.load import load_checkpoint
from bertft.data import Corpus, Example, corpus_from_texts, read_corpus
from bertft.errors import OptionError
from bertft.options import several

Source = str | os.PathLike[str] | Checkpoint
Text = str | tuple[str, str]


def loaded(sources: Sequence[Source], *, device: str, dtype: str, allow_pickle: bool) -> list[Checkpoint]:
    """The checkpoints of the sources, under distinct names; a base that adapters share is read once."""
    given = [source for source in sources if isinstance(source, Checkpoint)]
    if device == "auto":
        device = str(given[0].model.device) if given else "cuda" if torch.cuda.is_available() else "cpu"
    found: list[Checkpoint] = []
    for source in sources:
        if not isinstance(source, Checkpoint):
            source = load_checkpoint(
                source if isinstance(source, str) else Path(source),
                device=device,
                dtype=dtype,
                allow_pickle=allow_pickle,
                present=[*given, *found],
            )
        found.append(source)
    names = distinct_names([checkpoint.name for checkpoint in found], sources)
    return [dataclasses.replace(checkpoint, name=name) for checkpoint, name in zip(found, names, strict=True)]


def with_random(checkpoints: Sequence[Checkpoint], random_seeds: int) -> Iterator[tuple[str, bool, Checkpoint]]:
    """The checkpoints, then their random twins: whose shape it has, whether it is a floor, and the model."""
    for checkpoint in checkpoints:
        yield checkpoint.name, False, checkpoint
    for checkpoint in checkpoints:
        for number in range(random_seeds):
            yield checkpoint.name, True, randomised(checkpoint, number)


def distinct_names(names: Sequence[str], sources: Sequence[object]) -> list[str]:
    """The names, those that are the same told apart by the folders above them, or else by a number.

    >>> distinct_names(["best", "best", "base"], ["runs/mnli/best", "runs/squad/best", "base"])
    ['mnli/best', 'squad/best', 'base']
    """
    parents = [
        Path(source).absolute().parent.parts if isinstance(source, str | os.PathLike) else () for source in sources
    ]
    result = list(names)
    for level in range(1, max(map(len, parents), default=0) + 1):
        for name in [name for name, count in Counter(result).items() if count > 1]:
            same = [index for index, other in enumerate(result) if other == name]
            if len({parents[index] for index in same}) > 1:
                for index in same:
                    if level <= len(parents[index]):
                        result[index] = f"{parents[index][-level]}/{name}"
    seen: Counter[str] = Counter()
    for index, name in enumerate(result):
        seen[name] += 1
        if seen[name] > 1:
            result[index] = f"{name} ({seen[name]})"
    return result


def corpora_of(texts: Any, *, single: bool) -> list[Corpus]:
    """The corpora meant by `texts`, under distinct names."""
    items = several("texts", texts, (str, os.PathLike, Corpus, tuple))
    if isinstance(texts, str):
        items = [Path(texts)]
    elif not items or not all(isinstance(item, os.PathLike | Corpus) for item in items):
        if items and all(isinstance(item, str) and os.path.isfile(item) for item in items):
            raise OptionError(
                f"texts lists the names of files, {items[0]!r} first; give them as pathlib.Path to have them read"
            )
        items = [corpus_from_texts(items)]
    found = [item if isinstance(item, Corpus) else read_corpus(Path(item), single=single) for item in items]
    if single:
        found = [dataclasses.replace(corpus, examples=tuple(map(_first_part, corpus.examples))) for corpus in found]
    names = distinct_names([corpus.name for corpus in found], items)
    return [dataclasses.replace(corpus, name=name) for corpus, name in zip(found, names, strict=True)]


def _first_part(example: Example) -> Example:
    return dataclasses.replace(example, pair=None)
