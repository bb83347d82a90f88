"""The inputs that the drivers share: checkpoints, their baselines and corpora, and the options of how they are read."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from bertft.activations.batches import BATCH_TOKENS, Grouping
from bertft.activations.stimuli import Stimuli
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import randomised
from bertft.checkpoints.files import as_typed, has_tokenizer
from bertft.checkpoints.load import load_checkpoint
from bertft.data import Corpus, Example, corpus_from_texts, read_corpus
from bertft.errors import OptionError
from bertft.options import LEAST_TOKENS, count, integer, optional_integer, several
from bertft.progress import Feedback

Source = str | os.PathLike[str] | Checkpoint
Text = str | tuple[str, str]


@dataclass(frozen=True)
class Computation:
    """How checkpoints are loaded and run; see `bertft.score` for each option."""

    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int | None = None
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        optional_integer("batch_tokens", self.batch_tokens, least=1)

    def load(self, sources: Sequence[Source]) -> list[Checkpoint]:
        """Load checkpoints; see `loaded`."""
        return loaded(sources, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle)

    def tokens_a_batch(self, device: torch.device) -> int:
        """Return the most tokens in one batch on a device, padding included."""
        return self.batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])


@dataclass(frozen=True)
class Sampling:
    """Which tokens of a corpus are drawn; see `bertft.score` for each option. None stands for all of them."""

    tokens: int | None
    sentences: int | None
    seed: int
    special_tokens: bool
    max_length: int | None
    single: bool

    @classmethod
    def checked(cls, *, tokens: Any, sentences: Any, seed: Any, max_length: Any, **flags: bool) -> Sampling:
        """Return the options after checks; raises `OptionError` for a number out of range."""
        return cls(
            tokens=count("tokens", tokens, least=LEAST_TOKENS),
            sentences=count("sentences", sentences, least=1),
            seed=integer("seed", seed, least=0),
            max_length=optional_integer("max_length", max_length, least=1),
            **flags,
        )

    def limited(self, limit: int) -> Sampling:
        """Return the same options with texts cut at `limit` tokens at most."""
        return dataclasses.replace(self, max_length=min(self.max_length or limit, limit))

    def draw(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int,
        grouping: Grouping = Grouping.PADDED,
    ) -> Stimuli:
        """Draw from a corpus; `max_length` must be set, see `limited`."""
        assert self.max_length is not None
        return Stimuli.drawn(
            corpus,
            tokenizer,
            tokens=self.tokens,
            sentences=self.sentences,
            seed=self.seed,
            special_tokens=self.special_tokens,
            max_length=self.max_length,
            batch_tokens=batch_tokens,
            grouping=grouping,
        )


def sources_of(name: str, given: Source | Sequence[Source]) -> list[Source]:
    """Return one checkpoint, or several, as a list; raises `OptionError` for anything else."""
    return several(name, given, (str, os.PathLike, Checkpoint))


def loaded(sources: Sequence[Source], *, device: str, dtype: str, allow_pickle: bool) -> list[Checkpoint]:
    """Load checkpoints and give them distinct names; a base that several adapters share is read once.

    A folder without a tokenizer is read with that of the first checkpoint.
    """
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
                lender=found[0] if found else None,
            )
        found.append(source)
    names = distinct_names([checkpoint.name for checkpoint in found], sources)
    return [dataclasses.replace(checkpoint, name=name) for checkpoint, name in zip(found, names, strict=True)]


def notes_on(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Yield notes on checkpoints that were loaded together: whose tokenizer was lent, and which have equal content."""
    first, *others = checkpoints
    for checkpoint in others:
        folder = checkpoint.folder
        if checkpoint.tokenizer is first.tokenizer and checkpoint.base is None and folder and not has_tokenizer(folder):
            yield f"{checkpoint.name}: its folder has no tokenizer, so that of {first.name} was used"
    known: dict[str, str] = {}
    for checkpoint in checkpoints:
        same = known.setdefault(checkpoint.content_hash, checkpoint.name)
        if same != checkpoint.name and checkpoint.content_hash:
            yield f"{checkpoint.name} has the same config and weights as {same}: the files have equal content"


@dataclass(frozen=True)
class ProbedModel:
    """A checkpoint, or a randomly initialised baseline of its shape; `shape` is the name of that checkpoint."""

    checkpoint: Checkpoint
    shape: str
    is_baseline: bool

    @property
    def name(self) -> str:
        """The name in the rows."""
        return self.checkpoint.name


@dataclass
class ProbedModels:
    """Checkpoints, then `random_seeds` randomly initialised models of the shape of each, created one after another.

    A random model that equals an earlier model, because two checkpoints have the same shape, is left out, and
    `skipped` names it and the other. `hashes` has the content hash of each model so far, by name.
    """

    checkpoints: Sequence[Checkpoint]
    random_seeds: int
    hashes: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[ProbedModel]:
        for checkpoint in self.checkpoints:
            self.hashes[checkpoint.name] = checkpoint.content_hash
            yield ProbedModel(checkpoint, checkpoint.name, is_baseline=False)
        for checkpoint in self.checkpoints:
            for seed in range(self.random_seeds):
                model = randomised(checkpoint, seed)
                same = next((name for name, known in self.hashes.items() if known == model.content_hash), None)
                if same is not None:
                    self.skipped.append((model.name, same))
                    continue
                self.hashes[model.name] = model.content_hash
                yield ProbedModel(model, checkpoint.name, is_baseline=True)


@dataclass(frozen=True)
class ProbingInputs:
    """What the drivers of probes share: the models, how they are run, and where their hidden states are cached.

    `sentences` is how many training sentences are drawn; None stands for all of them.
    """

    sources: list[Source]
    computation: Computation
    random_seeds: int
    sentences: int | None
    cache: Path | None
    cache_dtype: str

    @classmethod
    def checked(
        cls,
        models: Source | Sequence[Source],
        computation: Computation,
        *,
        random_seeds: Any,
        sentences: Any,
        cache: str | os.PathLike[str] | None,
        cache_dtype: str,
    ) -> ProbingInputs:
        """Return the options after checks; raises `OptionError` if there is no model, or for a number out of range."""
        sources = sources_of("models", models)
        if not sources:
            raise OptionError("no model was given; give at least one")
        return cls(
            sources,
            computation,
            integer("random_seeds", random_seeds, least=0),
            count("sentences", sentences, least=1),
            None if cache is None else Path(cache),
            cache_dtype,
        )

    def load(self, *, with_baselines: bool = True) -> ProbedModels:
        """Load the models; the baselines are created when they are needed."""
        return ProbedModels(self.computation.load(self.sources), self.random_seeds if with_baselines else 0)

    def vector_options(self, feedback: Feedback) -> dict[str, Any]:
        """Return the keyword arguments that `word_vectors` and `subword_vectors` share."""
        return {
            "dtype": self.cache_dtype,
            "cache": self.cache,
            "batch_tokens": self.computation.batch_tokens,
            "progress": feedback.progress,
            "say": feedback.say,
        }

    def record(self, probed: ProbedModels) -> dict[str, Any]:
        """Return the options for the record of the run, with the device of the models that were loaded."""
        return {
            "random_seeds": self.random_seeds,
            "sentences": self.sentences or "all",
            "cache_dtype": self.cache_dtype,
            "dtype": self.computation.dtype,
            "device": str(probed.checkpoints[0].model.device),
        }


def distinct_names(names: Sequence[str], sources: Sequence[object]) -> list[str]:
    """Return distinct names: equal ones get the folders above them as a prefix, or else a number.

    >>> distinct_names(["best", "best", "base"], ["runs/mnli/best", "runs/squad/best", "base"])
    ['mnli/best', 'squad/best', 'base']
    """
    parents = [as_typed(source).parent.parts if isinstance(source, str | os.PathLike) else () for source in sources]
    result = list(names)
    for level in range(1, max(map(len, parents), default=0) + 1):
        for name in [name for name, times in Counter(result).items() if times > 1]:
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
    """Return the corpora that `texts` stands for, under distinct names; see `bertft.score`."""
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
