"""Reading of hidden states, once for all probes: windows of sentences, from which each task gathers its batches.

A window holds the vectors of some sentences, without padding, in the type they have on disk. All tasks share one order
of sentences. Each task gathers from every window the rows that its spans cover. A batch whose sentences are in several
windows is complete with the last of them, so the content of batches does not depend on the windows.

Vectors of at most `HELD_BYTES` are one window, which stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.probes.edge.model import BatchTensors
from bertft.probes.edge.targets import IndexedTask, Indices, SubwordStates

WINDOW_SUBWORDS = 8192
"""Subwords of a window. All layers of BERT base in float16 take 160 MB a window. There are two, since the next one is
read while one is in use."""

HELD_BYTES = 1 << 30
"""Hidden states of at most this size are kept in memory between epochs."""

_READ_TOGETHER = 32


@dataclass(frozen=True, eq=False)
class Window:
    """The vectors of some sentences, (layers, subwords, d).

    Those of sentence i begin at row starts[i]; starts[i] is -1 where the window does not hold the sentence.
    """

    layers: tuple[int, ...]
    vectors: Tensor
    starts: Indices

    def rows(self, layers: Sequence[int], subwords: Indices, dtype: torch.dtype) -> Tensor:
        """Return some rows of some layers, (layers, rows, d)."""
        chosen = torch.from_numpy(subwords).to(self.vectors.device)
        found = self.vectors.new_empty((len(layers), len(subwords), self.vectors.shape[2]), dtype=dtype)
        for row, layer in zip(found, layers, strict=True):
            row.copy_(self.vectors[self.layers.index(layer)].index_select(0, chosen))
        return found


class Reader:
    """Reads windows of sentences. The next window is read while one is in use."""

    def __init__(self, states: SubwordStates, device: str | torch.device = "cpu") -> None:
        self.states = states
        self.device = device
        self.lengths = np.asarray(states.lengths, dtype=np.int64)
        self.dtype: np.dtype[Any] = getattr(states, "dtype", np.dtype(np.float32))
        self._held: Window | None = None

    def windows(self, sentences: Indices, layers: Sequence[int]) -> Iterator[Window]:
        """Yield windows with some layers of the sentences, in their order."""
        held, lengths = self._held, self.lengths[sentences]
        if held is not None and set(layers) <= set(held.layers) and (held.starts[sentences] >= 0).all():
            yield held
            return
        if int(lengths.sum()) * len(layers) * self.states.width * self.dtype.itemsize <= HELD_BYTES:
            self._held = self._read(np.sort(sentences), layers)
            yield self._held
            return
        ends = np.cumsum(lengths)
        cuts = np.searchsorted(ends // WINDOW_SUBWORDS, np.arange(1, ends[-1] // WINDOW_SUBWORDS + 1))
        plan = [part for part in np.split(sentences, cuts) if len(part)]
        with ThreadPoolExecutor(max_workers=1) as reader:
            pending: list[Future[Window]] = [reader.submit(self._read, plan[0], layers)]
            for following in [*plan[1:], None]:
                window = pending.pop().result()
                if following is not None:
                    pending.append(reader.submit(self._read, following, layers))
                yield window

    def _read(self, sentences: Indices, layers: Sequence[int]) -> Window:
        lengths = self.lengths[sentences]
        ends = np.cumsum(lengths)
        starts = np.full(len(self.lengths), -1, dtype=np.int64)
        starts[sentences] = ends - lengths
        vectors: NDArray[Any] = np.empty((len(layers), int(ends[-1]), self.states.width), dtype=self.dtype)
        by_length = sentences[np.argsort(lengths, kind="stable")]  # sentences of similar length need little padding
        for first in range(0, len(by_length), _READ_TOGETHER):
            part = by_length[first : first + _READ_TOGETHER]
            padded = self.states.padded(part, layers, dtype=self.dtype)
            for place, sentence in enumerate(part.tolist()):
                n, start = int(self.lengths[sentence]), int(starts[sentence])
                vectors[:, start : start + n] = padded[:, place, :n]
        return Window(tuple(layers), torch.from_numpy(vectors).to(self.device), starts)


class Feed:
    """Gathers the batches of one task, in a given order, from windows."""

    def __init__(
        self, task: IndexedTask, layers: Sequence[int], batches: Sequence[Indices], dtype: torch.dtype
    ) -> None:
        self.task = task
        self.layers = tuple(layers)
        self.batches = batches
        self.dtype = dtype
        self.at = 0
        """The index of the next batch."""
        self._gathered = 0  # how many of its sentences have their rows in `_parts`
        self._parts: list[Tensor] = []

    def take(self, window: Window) -> Iterator[tuple[Tensor, BatchTensors]]:
        """Yield the batches that are complete with this window: rows (layers, n, d), and targets over them.

        A caller that stops early can continue by passing the same window again.
        """
        while self.at < len(self.batches):
            sentences = self.batches[self.at]
            here = window.starts[sentences[self._gathered :]] >= 0
            count = len(here) if here.all() else int(np.argmin(here))
            if count:
                part = sentences[self._gathered : self._gathered + count]
                subwords, counts = self.task.subwords(part)
                rows = subwords + np.repeat(window.starts[part], counts)
                self._parts.append(window.rows(self.layers, rows, self.dtype))
                self._gathered += count
            if self._gathered < len(sentences):
                return
            rows_of_batch = self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts, dim=1)
            self._parts, self._gathered = [], 0
            self.at += 1
            yield rows_of_batch, BatchTensors.of(self.task.batch(sentences), rows_of_batch.device, self.dtype)


def cut(sentences: Indices, size: int) -> list[Indices]:
    """Return batches of `size` sentences. The last may be smaller."""
    return [sentences[first : first + size] for first in range(0, len(sentences), size)]
