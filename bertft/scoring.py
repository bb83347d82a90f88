"""How far fine-tuning moved each layer: base and tuned checkpoints, texts and measures in; rows of numbers out.

The tokens are drawn once and every model reads the same batches.  The hidden states go into one accumulator for each
tuned model and layer, from which all measures are read at the end, so memory does not grow with the number of tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.batches import BATCH_TOKENS, Batch
from bertft.activations.standardize import Standardizer
from bertft.activations.stimuli import Stimuli
from bertft.activations.stream import Chunk, Tuned, stream
from bertft.data import Corpus, Example
from bertft.errors import ArrayError, CheckpointError, OptionError, RowError
from bertft.measures import MEASURES, Measure, evaluate, resolve
from bertft.models import (
    Checkpoint,
    check_same_tokenizer,
    hidden_size,
    length_limit,
    n_layers,
    pad_id,
    parse_layers,
    shared_depth,
)
from bertft.pair_moments import PairMoments
from bertft.records import Row, Scores
from bertft.runs import Clock, Source, Text, corpora_of, count, integer, loaded, several, versions

Progress = Callable[[int, int, str], None]

_TOKENIZER_SAMPLE = 100  # texts of each corpus that the tokenizers must encode alike


def score(
    base: Source | Sequence[Source],
    tuned: Source | Sequence[Source],
    texts: str | os.PathLike[str] | Corpus | Sequence[os.PathLike[str] | Corpus] | Sequence[Text],
    *,
    tokens: int | str | None = 5000,
    sentences: int | str | None = 1000,
    seed: int = 0,
    layers: str | int | Iterable[int] = "all",
    measures: str | Sequence[str] = ("rsa",),
    special_tokens: bool = False,
    standardize: bool = False,
    dtype: str = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    max_length: int | None = None,
    single: bool = False,
    allow_pickle: bool = False,
    floor: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Compare the hidden states of each tuned checkpoint with the base's, layer by layer, on the same drawn tokens.

    base, tuned: folders of models or of adapters, hub names, or loaded `Checkpoint`s. One base is compared with each
        of the tuned; a list of bases, which may differ in the seed of their pre-training, is paired with the tuned one
        by one, and further rows give the mean over the pairs and their standard deviation (`spread`, `n_pairs`).
    floor: compare the bases of such a list with one another too: what pre-training anew changes by itself.
    texts: a file, several files (as `Path`s), a list of strings or (text, pair) tuples, or a `Corpus`; `single` reads
        the first text of each pair alone.
    tokens, sentences: of each corpus so many sentences are drawn, then so many of their tokens ("all" or None: every
        one); special tokens such as [CLS] take part only with `special_tokens`.
    layers: "all", a number, several, or a text such as "0,3-5,-1"; 0 is the embedding output.
    standardize: turn every dimension of every layer into z-scores over the drawn tokens, from exact means and standard
        deviations, which takes a first run of the models over the same batches.
    batch_tokens: the most tokens in one batch, padding included.  max_length: where texts are cut, at most the models'
        own limit.  dtype, device: of the models; `Checkpoint`s stay as they are.
    progress: called as progress(done, total, what) after every batch.

    Layers whose weights, and those of all layers below, equal the base's bit for bit are run once and score exactly 1.

    Raises `CheckpointError` for models that cannot be loaded or compared, `DataError` for texts that cannot be read,
    `OptionError` for an option out of range, `ArrayError` for hidden states that are not finite.

    >>> scores = score("bert-base-uncased", "runs/mnli", "wiki.txt")  # doctest: +SKIP
    >>> scores.to_frame().pivot(index="layer", columns="tuned", values="value")  # doctest: +SKIP

    Source: Merchant et al. 2020, sections 5.1 and 6; for `standardize`, Timkey and van Schijndel 2021.
    """
    clock = Clock()
    wanted = resolve((measures,) if isinstance(measures, str) else tuple(measures))
    tokens, sentences = count("tokens", tokens, least=3), count("sentences", sentences, least=1)
    seed = integer("seed", seed, least=0)
    batch_tokens = None if batch_tokens is None else integer("batch_tokens", batch_tokens, least=1)
    max_length = None if max_length is None else integer("max_length", max_length, least=1)
    sources, groups = _paired(base, tuned, floor=floor)
    pairs = [pair for group in groups.values() for pair in group]

    with clock.phase("read"):
        corpora = corpora_of(texts, single=single)
    with clock.phase("load"):
        checkpoints = loaded(sources, device=device, dtype=dtype, allow_pickle=allow_pickle)
        _check_comparable(checkpoints, corpora)
        comparisons = [
            _Models.compared(checkpoints[one], [checkpoints[other] for first, other in pairs if first == one])
            for one in dict.fromkeys(one for one, _ in pairs)
        ]
    first = checkpoints[0]
    options = _Options(
        tokens=tokens,
        sentences=sentences,
        seed=seed,
        layers=parse_layers(layers, n_layers(first.model)),
        measures=tuple(measure.name for measure in wanted),
        special_tokens=special_tokens,
        standardize=standardize,
        dtype=str(first.model.dtype).removeprefix("torch."),
        device=str(first.model.device),
        batch_tokens=batch_tokens or BATCH_TOKENS.get(first.model.device.type, BATCH_TOKENS["cpu"]),
        max_length=min(max_length or length_limit(first), *map(length_limit, checkpoints)),
        single=single,
    )

    rows: list[dict[str, Any]] = []
    notes = [note for models in comparisons for note in models.notes(options.layers)]
    padding = {}
    for corpus in corpora:
        with clock.phase("tokenise"):
            stimuli = Stimuli.drawn(
                corpus,
                first.tokenizer,
                tokens=options.tokens,
                sentences=options.sentences,
                seed=options.seed,
                special_tokens=options.special_tokens,
                max_length=options.max_length,
                batch_tokens=options.batch_tokens,
            )
        notes += stimuli.notes
        padding[corpus.name] = stimuli.padding
        found = []
        for number, models in enumerate(comparisons):
            part = number, len(comparisons)
            moments = _accumulate(stimuli, models, options, wanted, clock, progress, part)
            with clock.phase("measures"):
                found += _rows(stimuli, models, options, moments)
        if any(math.isnan(row["stderr"]) and not math.isnan(row["value"]) for row in found):
            notes.append(
                f"{corpus.name}: no standard errors, as its tokens are of too few sentences to show their spread"
            )
        for what, group in groups.items():
            names = [(checkpoints[one].name, checkpoints[other].name) for one, other in group]
            own = [[row for row in found if (row["base"], row["tuned"]) == pair] for pair in names]
            rows += itertools.chain.from_iterable(own)
            if what and len(group) > 1:
                bases = {one for one, _ in groups["pairs"]}
                rows += _averaged(own, what, first.name if len(bases) == 1 else f"{len(bases)} bases")
    run = {
        "versions": versions(),
        "seed": seed,
        "options": dataclasses.asdict(options) | {"tokens": tokens or "all", "sentences": sentences or "all"},
        "checkpoints": {checkpoint.name: checkpoint.content_hash for checkpoint in checkpoints},
        "corpora": {corpus.name: corpus.content_hash for corpus in corpora},
        "padding": padding,
        "notes": notes,
        "timings": clock.timings(),
    }
    return Scores(rows, run)


@dataclass(frozen=True)
class _Options:
    """The options of a run after defaults and limits, as recorded."""

    tokens: int | None
    sentences: int | None
    seed: int
    layers: tuple[int, ...]
    measures: tuple[str, ...]
    special_tokens: bool
    standardize: bool
    dtype: str
    device: str
    batch_tokens: int
    max_length: int
    single: bool


@dataclass(frozen=True)
class _Models:
    """A base and the models compared with it; layers 0 to shared[i] of tuned[i] equal the base's."""

    base: Checkpoint
    tuned: tuple[Checkpoint, ...]
    shared: tuple[int, ...]

    @classmethod
    def compared(cls, base: Checkpoint, tuned: Iterable[Checkpoint]) -> _Models:
        """The models, with how far each of the tuned equals the base."""
        tuned = tuple(tuned)
        return cls(base, tuned, tuple(shared_depth(base.model, other.model) for other in tuned))

    @property
    def all(self) -> tuple[Checkpoint, ...]:
        return (self.base, *self.tuned)

    def notes(self, layers: Sequence[int]) -> list[str]:
        """Which of the layers are equal, and so were not compared."""
        notes = []
        for checkpoint, shared in zip(self.tuned, self.shared, strict=True):
            ours, theirs = ((type(c.model).__name__, hidden_size(c.model)) for c in (self.base, checkpoint))
            if ours != theirs:
                notes.append(
                    f"{checkpoint.name} is a {theirs[0]} {theirs[1]} wide and {self.base.name} a {ours[0]} {ours[1]} "
                    "wide: not a fine-tuned copy"
                )
            if equal := [layer for layer in layers if layer <= shared]:
                if len(equal) == 1:
                    which = f"layer {equal[0]} equals that of {self.base.name} bit for bit, so it scores"
                else:
                    which = (
                        f"layers {equal[0]} to {equal[-1]} equal those of {self.base.name} bit for bit, so they score"
                    )
                notes.append(f"{checkpoint.name}: {which} 1")
        return notes


def _paired(
    base: Source | Sequence[Source], tuned: Source | Sequence[Source], *, floor: bool
) -> tuple[list[Source], dict[str, list[tuple[int, int]]]]:
    """All that is to be loaded, and the pairs of (base, tuned) among them, by what they are averaged as ("": not)."""
    kind = (str, os.PathLike, Checkpoint)
    bases, others = several("base", base, kind), several("tuned", tuned, kind)
    if not others:
        raise OptionError("no tuned checkpoint was given; give at least one to compare with the base")
    if isinstance(base, kind):
        if floor:
            raise OptionError("one base has no floor; give a list of bases to compare with one another")
        return [base, *others], {"": [(0, index) for index in range(1, len(others) + 1)]}
    if len(bases) != len(others):
        raise OptionError(
            f"{len(bases)} bases and {len(others)} tuned checkpoints were given; a list of bases is paired with the "
            "tuned one by one, so give as many (a base that is not in a list is compared with all of them)"
        )
    # A base that stands in several pairs is loaded, and run, once.
    keys = [id(source) if isinstance(source, Checkpoint) else os.fspath(source) for source in bases]
    distinct = dict(zip(keys, bases, strict=True))
    places = [list(distinct).index(key) for key in keys]
    groups = {"pairs": [(place, len(distinct) + index) for index, place in enumerate(places)]}
    if floor:
        if len(distinct) < 2:
            raise OptionError("all pairs have the same base; a floor takes two bases to compare with one another")
        groups["pairs of bases"] = list(itertools.combinations(range(len(distinct)), 2))
    return [*distinct.values(), *others], groups


def _averaged(pairs: Sequence[Sequence[Row]], what: str, bases: str) -> list[Row]:
    """Rows of the mean over pairs, given the rows of each, with the standard deviation; undefined where one is."""
    rows = []
    for same in zip(*pairs, strict=True):
        values = np.array([row["value"] for row in same])
        rows.append(
            {
                **same[0],
                "base": bases,
                "tuned": f"mean of {len(pairs)} {what}",
                "value": float(values.mean()),
                "stderr": math.nan,
                "spread": float(values.std(ddof=1)),
                "n_pairs": len(pairs),
            }
        )
    return rows


def _check_comparable(checkpoints: Sequence[Checkpoint], corpora: Iterable[Corpus]) -> None:
    """Raise `CheckpointError` for models that cannot be compared layer by layer on the same tokens."""
    base, *others = checkpoints
    sample = [example.text for corpus in corpora for example in corpus.examples[:_TOKENIZER_SAMPLE]]
    for checkpoint in checkpoints:
        if checkpoint.model.training:
            raise CheckpointError(
                f"{checkpoint.name}: the model is in training mode, so dropout would change its hidden states at "
                "random; call model.eval() first"
            )
    for other in others:
        if n_layers(other.model) != n_layers(base.model):
            raise CheckpointError(
                f"{base.name} has {n_layers(base.model)} blocks and {other.name} has {n_layers(other.model)}; "
                "layers are compared one by one, so give models of the same depth"
            )
        for what in ("device", "dtype"):
            ours, theirs = getattr(base.model, what), getattr(other.model, what)
            if ours != theirs:
                raise CheckpointError(
                    f"{base.name} has the {what} {ours} and {other.name} has {theirs}; load both with the same {what}"
                )
        check_same_tokenizer(base, other, sample)


def _accumulate(
    stimuli: Stimuli,
    models: _Models,
    options: _Options,
    measures: Sequence[Measure],
    clock: Clock,
    progress: Progress | None,
    part: tuple[int, int],
) -> list[dict[int, PairMoments]]:
    """Run the models and return, for each tuned one, the moments of every layer from which a measure is to be read.

    `part` is which comparison this is, and of how many, for the progress to be told.
    """
    of_one_space = [measure for measure in measures if measure.equal_spaces is None]
    moments: list[dict[int, PairMoments]] = []
    for shared in models.shared:
        needed = {layer: measures if layer > shared else of_one_space for layer in options.layers}
        moments.append({layer: PairMoments.serving(some, seed=options.seed) for layer, some in needed.items() if some})
    steps = (2 if options.standardize else 1) * len(stimuli.plan)
    done = part[0] * steps

    def chunks() -> Iterator[Chunk]:
        """One run over all batches, timed, with progress told and every value checked."""
        compared = [Tuned(other.model, shared) for other, shared in zip(models.tuned, models.shared, strict=True)]
        batches = told(stimuli.batches(pad_id(models.base), models.base.model.device))
        base_layers = options.layers if of_one_space else ()
        running = stream(models.base.model, compared, options.layers, batches, base_layers=base_layers)
        while True:
            with clock.phase("forward"):
                chunk = next(running, None)
            if chunk is None:
                return
            with clock.phase("statistics"):
                for checkpoint, layer_rows in zip(models.all, (chunk.base, *chunk.tuned), strict=True):
                    for layer, rows in layer_rows.items():
                        _check_finite(rows, checkpoint.name, layer, chunk.sentences, stimuli.examples)
            yield chunk

    def told(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal done
        for batch in batches:
            yield batch
            done += 1  # the batch has been used when the next one is asked for
            if progress is not None:
                progress(done, part[1] * steps, stimuli.corpus.name)

    base_scale: defaultdict[int, Standardizer] = defaultdict(Standardizer)
    tuned_scales: list[defaultdict[int, Standardizer]] = [defaultdict(Standardizer) for _ in models.tuned]
    if options.standardize:
        for chunk in chunks():
            with clock.phase("statistics"):
                for scales, layer_rows in zip((base_scale, *tuned_scales), (chunk.base, *chunk.tuned), strict=True):
                    for layer, rows in layer_rows.items():
                        scales[layer].update(rows)
    for chunk in chunks():
        with clock.phase("statistics"):
            for layer in chunk.base:
                x = base_scale[layer].apply(chunk.base[layer]) if options.standardize else chunk.base[layer]
                for states, scales, layer_rows in zip(moments, tuned_scales, chunk.tuned, strict=True):
                    if layer in states:
                        y = layer_rows.get(layer)
                        if y is None:  # the base's own layer
                            y = x
                        elif options.standardize:
                            y = scales[layer].apply(y)
                        _add(states[layer], x, y, chunk.sentences, layer, stimuli.examples)
    return moments


def _add(
    moments: PairMoments, x: Tensor, y: Tensor, sentences: NDArray[np.int64], layer: int, examples: Sequence[Example]
) -> None:
    """Update the moments; a row without a value is named by layer, model and sentence."""
    try:
        moments.update(x, y, sentences, first_row=0)
    except RowError as error:
        example = examples[sentences[error.row]]
        side = "the base" if error.side == "x" else "the tuned model"
        raise ArrayError(
            f"hidden layer {layer} of {side} at {example.where} ({example.text[:40]!r}): the vector {error.why}"
        ) from error


def _check_finite(
    rows: Tensor, model: str, layer: int, sentences: NDArray[np.int64], examples: Sequence[Example]
) -> None:
    """Raise `ArrayError` naming the first sentence with a value that is not finite."""
    # One sum tells almost always; only a sum that is not finite is worth a look at every value.
    if math.isfinite(rows.sum(dtype=torch.promote_types(rows.dtype, torch.float32)).item()):
        return
    bad = (~torch.isfinite(rows).all(dim=1)).nonzero()
    if len(bad):
        example = examples[sentences[int(bad[0])]]
        wider = " or compute in float32" if rows.dtype in (torch.float16, torch.bfloat16) else ""
        raise ArrayError(
            f"{model}: hidden layer {layer} has values that are not finite at {example.where} ({example.text[:40]!r}); "
            f"check the checkpoint's weights{wider}"
        )


def _rows(
    stimuli: Stimuli, models: _Models, options: _Options, moments: Sequence[dict[int, PairMoments]]
) -> list[dict[str, Any]]:
    """The rows of one corpus, by tuned model, layer and measure."""
    rows = []
    for other, shared, states in zip(models.tuned, models.shared, moments, strict=True):
        for layer in options.layers:
            for measure in options.measures:
                equal = MEASURES[measure].equal_spaces
                if layer <= shared and equal is not None:
                    value, stderr = equal, 0.0
                else:
                    value, stderr = evaluate(measure, states[layer])
                rows.append(
                    {
                        "base": models.base.name,
                        "tuned": other.name,
                        "corpus": stimuli.corpus.name,
                        "layer": layer,
                        "measure": measure,
                        "value": value,
                        "stderr": stderr,
                        "n_tokens": stimuli.draw.n_tokens,
                        "n_sentences": stimuli.draw.n_sentences,
                    }
                )
    return rows
