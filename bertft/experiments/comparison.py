"""Passes of base checkpoints and their tuned copies over a corpus, accumulated into moments for every layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.batches import Batch, Grouping
from bertft.activations.manner import manner_of, resumes
from bertft.activations.sampling import Draw
from bertft.activations.standardize import Standardizer
from bertft.activations.stimuli import Stimuli
from bertft.activations.stream import Chunk, LayerRows, TunedModel, stream
from bertft.checkpoints.anatomy import hidden_size, n_layers, parse_layers
from bertft.checkpoints.checkpoint import Checkpoint, length_limit, pad_id
from bertft.checkpoints.compare import shared_depth
from bertft.data import Example
from bertft.errors import ArrayError, RowError
from bertft.experiments.inputs import Computation, Sampling
from bertft.experiments.run import Clock
from bertft.measures import Measure, resolve
from bertft.similarity.pair_moments import PairMoments, sample_rows, update_together

PairStates = dict[int, PairMoments]
"""The moments of one pair of models, by layer."""


@dataclass(frozen=True)
class ScoreOptions:
    """The options of `score` after defaults and limits; `sampling.max_length` is set."""

    sampling: Sampling
    layers: tuple[int, ...]
    measures: tuple[Measure, ...]
    standardize: bool
    dtype: str
    device: str
    batch_tokens: int
    grouping: Grouping

    @classmethod
    def of(
        cls,
        checkpoints: Sequence[Checkpoint],
        sampling: Sampling,
        computation: Computation,
        *,
        layers: str | int | Iterable[int],
        measures: Iterable[str],
        standardize: bool,
    ) -> ScoreOptions:
        """Return the options for checkpoints of the same depth, device and type."""
        model = checkpoints[0].model
        return cls(
            sampling=sampling.limited(min(map(length_limit, checkpoints))),
            layers=parse_layers(layers, n_layers(model)),
            measures=resolve(measures),
            standardize=standardize,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            batch_tokens=computation.tokens_a_batch(model.device),
            grouping=max(manner_of(checkpoint).grouping for checkpoint in checkpoints),
        )

    def record(self) -> dict[str, Any]:
        """Return the options for the record of the run."""
        return {
            "tokens": self.sampling.tokens or "all",
            "sentences": self.sampling.sentences or "all",
            "seed": self.sampling.seed,
            "layers": self.layers,
            "measures": tuple(measure.name for measure in self.measures),
            "special_tokens": self.sampling.special_tokens,
            "standardize": self.standardize,
            "dtype": self.dtype,
            "device": self.device,
            "batch_tokens": self.batch_tokens,
            "max_length": self.sampling.max_length,
            "single": self.sampling.single,
        }

    @property
    def of_one_space(self) -> tuple[Measure, ...]:
        """The measures whose value for equal layers has to be computed: they describe one of the two models."""
        return tuple(measure for measure in self.measures if measure.equal_spaces is None)


@dataclass(frozen=True)
class Pair:
    """Two models to compare. Layers 0 to `shared` of the tuned model equal those of the base; -1 if none does.

    `resumes` says whether the tuned model can start after them.
    """

    base: Checkpoint
    tuned: Checkpoint
    shared: int
    resumes: bool

    @classmethod
    def of(cls, base: Checkpoint, tuned: Checkpoint) -> Pair:
        """Compare the weights of two models to find how many layers they share."""
        shared, depth = shared_depth(base.model, tuned.model), n_layers(base.model)
        if shared == depth:
            return cls(base, tuned, shared, resumes=False)
        # Where hooks do not see the blocks, nothing says which weights a layer depends on.
        if not all(manner_of(checkpoint).by_hooks for checkpoint in (base, tuned)):
            shared = -1
        return cls(base, tuned, shared, resumes=shared >= 0 and resumes(tuned, shared))

    def notes(self, layers: Sequence[int]) -> Iterator[str]:
        """Yield notes on models of different architectures, and on layers that are equal and so are not compared."""
        base, tuned = ((type(c.model).__name__, hidden_size(c.model)) for c in (self.base, self.tuned))
        if base != tuned:
            yield (
                f"{self.tuned.name} is a {tuned[0]} of width {tuned[1]} and {self.base.name} a {base[0]} of width "
                f"{base[1]}: not a fine-tuned copy"
            )
        equal = [layer for layer in layers if layer <= self.shared]
        if len(equal) == 1:
            yield (f"{self.tuned.name}: layer {equal[0]} equals that of {self.base.name} bit for bit, so it scores 1")
        elif equal:
            yield (
                f"{self.tuned.name}: layers {equal[0]} to {equal[-1]} equal those of {self.base.name} bit for bit, so "
                "they score 1"
            )

    def empty_states(self, options: ScoreOptions, draw: Draw) -> PairStates:
        """Return empty moments for every layer from which a measure is to be read."""
        needed = {layer: options.measures if layer > self.shared else options.of_one_space for layer in options.layers}
        kept = {"seed": options.sampling.seed, "reservoir": sample_rows(draw.n_tokens, draw.n_sentences)}
        return {layer: PairMoments.serving(some, **kept) for layer, some in needed.items() if some}


@dataclass(frozen=True)
class Comparison:
    """Pairs of models that are compared in one pass over the batches, in which every model runs once."""

    pairs: tuple[Pair, ...]

    @property
    def bases(self) -> dict[str, Checkpoint]:
        """The bases of the pairs, by name."""
        return {pair.base.name: pair.base for pair in self.pairs}

    def accumulate(
        self, stimuli: Stimuli, options: ScoreOptions, clock: Clock, step: Callable[[], None]
    ) -> list[PairStates]:
        """Run the models over the batches and return the moments of each pair; `step` is called after each batch.

        Raises `ArrayError` for hidden states that are not finite, and for a vector without a value under a measure.
        """
        scales: defaultdict[tuple[str, int], Standardizer] = defaultdict(Standardizer)
        if options.standardize:
            for rows, _ in self._chunks(stimuli, options, clock, step):
                with clock.phase("statistics"):
                    for name, of_model in rows.items():
                        for layer, of_layer in of_model.items():
                            scales[name, layer].update(of_layer)
        states = [pair.empty_states(options, stimuli.draw) for pair in self.pairs]
        for rows, sentences in self._chunks(stimuli, options, clock, step):
            with clock.phase("statistics"):
                for layer in options.layers:
                    vectors = {name: of_model[layer] for name, of_model in rows.items() if layer in of_model}
                    if options.standardize:
                        vectors = {name: scales[name, layer].apply(given) for name, given in vectors.items()}
                    for base in self.bases:
                        compared = [
                            (of_pair[layer], vectors.get(pair.tuned.name))
                            for pair, of_pair in zip(self.pairs, states, strict=True)
                            if pair.base.name == base and layer in of_pair
                        ]
                        if compared:
                            _add(compared, vectors[base], sentences, layer, stimuli.examples)
        return states

    def _chunks(
        self, stimuli: Stimuli, options: ScoreOptions, clock: Clock, step: Callable[[], None]
    ) -> Iterator[tuple[Mapping[str, LayerRows], NDArray[np.int64]]]:
        """Yield rows by model and layer, and the sentence of each row, after checking that all values are finite."""
        names: list[list[str]] = []
        running: list[Iterator[Chunk]] = []
        for base in self.bases.values():
            # A base that is compared with another base runs as a base only.
            own = [pair for pair in self.pairs if pair.base is base and pair.tuned.name not in self.bases]
            with_bases = any(
                base.name in (p.base.name, p.tuned.name) and p.tuned.name in self.bases for p in self.pairs
            )
            base_layers = options.layers if options.of_one_space or with_bases else ()
            names.append([base.name, *(pair.tuned.name for pair in own)])
            batches = _counted(stimuli.batches(pad_id(base), base.model.device), step)
            tuned = [
                TunedModel(pair.tuned.model, pair.shared, manner_of(pair.tuned).by_hooks, pair.resumes) for pair in own
            ]
            by_hooks = manner_of(base).by_hooks
            running.append(
                stream(base.model, tuned, options.layers, batches, base_layers=base_layers, by_hooks=by_hooks)
            )
        while True:
            with clock.phase("forward"):
                chunks = [next(chunk, None) for chunk in running]
            read = [(of_base, chunk) for of_base, chunk in zip(names, chunks, strict=True) if chunk is not None]
            if not read:
                return
            sentences = read[0][1].sentences
            rows = {
                name: of_model
                for of_base, chunk in read
                for name, of_model in zip(of_base, (chunk.base, *chunk.tuned), strict=True)
            }
            with clock.phase("statistics"):
                for name, of_model in rows.items():
                    for layer, of_layer in of_model.items():
                        _check_finite(of_layer, name, layer, sentences, stimuli.examples)
            yield rows, sentences


def _counted(batches: Iterator[Batch], step: Callable[[], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        step()  # the batch has been used when the next one is requested


def _add(
    compared: Sequence[tuple[PairMoments, Tensor | None]],
    x: Tensor,
    sentences: NDArray[np.int64],
    layer: int,
    examples: Sequence[Example],
) -> None:
    """Update the moments of all models compared with one base, whose rows are x.

    The rows of a model are None for a layer that equals the base's and was not run. The error for a row without a
    value names the layer, the model and the sentence.
    """
    ys = [x if y is None else y for _, y in compared]
    try:
        update_together([moments for moments, _ in compared], x, ys, sentences, first_row=0)
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
    # The sum of finite values is nearly always finite; only if it is not, every value is tested.
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
