"""One pass of a base checkpoint and its tuned copies over a corpus, accumulated into moments for every layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.batches import Batch
from bertft.activations.standardize import Standardizer
from bertft.activations.stimuli import Stimuli
from bertft.activations.stream import Chunk, TunedModel, stream
from bertft.checkpoints.anatomy import hidden_size
from bertft.checkpoints.checkpoint import Checkpoint, pad_id
from bertft.checkpoints.compare import shared_depth
from bertft.data import Example
from bertft.errors import ArrayError, RowError
from bertft.experiments.run import Clock
from bertft.measures import Measure
from bertft.progress import Progress
from bertft.similarity.pair_moments import PairMoments, update_together


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
        compared = [TunedModel(other.model, shared) for other, shared in zip(models.tuned, models.shared, strict=True)]
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
                states, ys = [], []
                for held, scales, layer_rows in zip(moments, tuned_scales, chunk.tuned, strict=True):
                    if layer in held:
                        y = layer_rows.get(layer)
                        if y is None:  # the base's own layer
                            y = x
                        elif options.standardize:
                            y = scales[layer].apply(y)
                        states.append(held[layer])
                        ys.append(y)
                _add(states, x, ys, chunk.sentences, layer, stimuli.examples)
    return moments


def _add(
    states: Sequence[PairMoments],
    x: Tensor,
    ys: Sequence[Tensor],
    sentences: NDArray[np.int64],
    layer: int,
    examples: Sequence[Example],
) -> None:
    """Update the moments of each tuned model; a row without a value is named by layer, model and sentence."""
    try:
        update_together(states, x, ys, sentences, first_row=0)
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
