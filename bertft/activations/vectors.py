"""Vectors of all words or subwords of a corpus at the wanted layers, computed once and then read from the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bertft.activations.cache import DTYPES, Entry, cache_root, layer_file, npy_header
from bertft.activations.subwords import SubwordCounts, SubwordRanges, tokenise_subwords
from bertft.activations.words import WordCounts, check_pooling, tokenise_words
from bertft.checkpoints.anatomy import n_layers, parse_layers
from bertft.checkpoints.checkpoint import Checkpoint, length_limit
from bertft.errors import BertftError, DataError, OptionError
from bertft.progress import Progress, Say


@dataclass(frozen=True, eq=False)
class CachedVectors:
    """Vectors of n sentences on disk; sentence i owns rows starts[i] to starts[i + 1], none where it was dropped."""

    folder: Path
    layers: tuple[int, ...]
    starts: NDArray[np.int64]  # [n + 1]
    width: int
    dtype: np.dtype[Any]
    notes: tuple[str, ...]
    reused: bool
    """Whether the vectors were in the cache, so that no model ran."""
    n_bytes: int
    """The size of the wanted layers on disk, in bytes."""

    @property
    def n_rows(self) -> int:
        """The number of vectors in each layer."""
        return int(self.starts[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of rows of each sentence, 0 where it was dropped."""
        return np.diff(self.starts)

    @property
    def kept(self) -> NDArray[np.int64]:
        """The sentences that have vectors."""
        return np.flatnonzero(self.lengths)

    def layer(self, layer: int) -> np.memmap[Any, np.dtype[Any]]:
        """Return the vectors of one layer, (rows, d), memory-mapped and read-only."""
        self._check(layer)
        mapped: np.memmap[Any, np.dtype[Any]] = np.load(self.folder / layer_file(layer), mmap_mode="r")
        return mapped

    def rows(self, sentence: int) -> slice:
        """Return the slice of the rows of one sentence, as in `vectors.layer(3)[vectors.rows(7)]`."""
        return slice(int(self.starts[sentence]), int(self.starts[sentence + 1]))

    def padded(
        self,
        sentences: Sequence[int] | NDArray[np.int64],
        layers: Iterable[int] | None = None,
        *,
        dtype: DTypeLike = "f4",
    ) -> NDArray[Any]:
        """Return the vectors of some sentences, (layers, sentences, n, d), padded with zeros.

        n is the length of the longest sentence; `layers` defaults to all layers. The rows are read, not mapped, so only
        the memory of one batch is in use. Raises `OptionError` for a sentence that was dropped, and for a layer that
        was not requested.
        """
        chosen = self.layers if layers is None else tuple(layers)
        for layer in chosen:
            self._check(layer)
        lengths = self.lengths[np.asarray(sentences, dtype=np.int64)]
        if not lengths.all():
            dropped = int(np.asarray(sentences)[lengths == 0][0])
            raise OptionError(f"sentence {dropped} was dropped and has no vectors; take sentences from `kept`")
        longest = int(lengths.max(initial=0))
        result = np.zeros((len(chosen), len(lengths), longest, self.width), dtype=dtype)
        scratch = np.empty((longest, self.width), dtype=self.dtype)
        starts = self.starts[np.asarray(sentences, dtype=np.int64)]
        for of_layer, layer in zip(result, chosen, strict=True):
            # Opened for each batch, so that threads and forked workers do not share a file position.
            with (self.folder / layer_file(layer)).open("rb", buffering=0) as file:
                for place, start, length in zip(of_layer, starts.tolist(), lengths.tolist(), strict=True):
                    file.seek(self._header_size + start * self._row_size)
                    if file.readinto(scratch[:length].data) != length * self._row_size:
                        raise BertftError(f"{file.name}: was truncated while in use; run again to rebuild it")
                    place[:length] = scratch[:length]
        return result

    @cached_property
    def _header_size(self) -> int:
        return len(npy_header(self.n_rows, self.width, self.dtype))

    @property
    def _row_size(self) -> int:
        return self.width * self.dtype.itemsize

    def _check(self, layer: int) -> None:
        if layer not in self.layers:
            raise OptionError(
                f"layer {layer} was not requested; the vectors have the layers {', '.join(map(str, self.layers))}"
            )


@dataclass(frozen=True, eq=False)
class CachedWords(CachedVectors):
    """Cached vectors with one row for each word."""

    counts: WordCounts


@dataclass(frozen=True, eq=False)
class CachedSubwords(CachedVectors):
    """Cached vectors with one row for each subword, without special tokens; `ranges` gives the subwords of a word."""

    ranges: SubwordRanges
    counts: SubwordCounts


def word_vectors(
    checkpoint: Checkpoint,
    sentences: Sequence[Sequence[str]],
    *,
    layers: str | int | Iterable[int] = "all",
    pooling: str = "mean",
    dtype: str = "float16",
    cache: str | Path | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> CachedWords:
    """Return the vectors of all words of `sentences`, from the cache or else computed and stored there.

    sentences: one list of words for each sentence.  layers: "all", a number, or a list such as "0,3-5,-1".
    pooling: `mean` of the subwords of a word, `first` or `last`.  dtype: `float16` or `float32`, on disk.
    cache: a directory, by default `default_cache()`.  batch_tokens: the most tokens in one batch, padding included.
    progress: called as progress(done, total, what) after every batch.  say: called with lines for the user: the size
        before anything is written, reuse, waiting for another run, and damage.

    Sentences that are longer than the model takes, or have a word without subwords, are dropped and counted.

    Raises `OptionError` for an option out of range, `DataError` for malformed sentences, `CheckpointError` for a model
    that cannot be read, `ArrayError` for vectors that are not finite or too large for `dtype`, and `BertftError` where
    the cache has too little space or cannot be written.

    >>> vectors = word_vectors(checkpoint, [["It", "rains", "."]])  # doctest: +SKIP
    >>> vectors.layer(3)[vectors.rows(0)].shape  # doctest: +SKIP
    (3, 384)

    Source: for the mean over subwords, Hewitt and Manning 2019.
    """
    check_pooling(pooling)
    max_length = length_limit(checkpoint)
    words = tokenise_words(sentences, checkpoint.tokenizer, max_length)
    notes = words.counts.notes(max_length)
    draw = words.draw(pooling)
    entry = Entry(
        root=cache_root(cache),
        checkpoint=checkpoint,
        texts=words.texts,
        draw=draw,
        starts=words.starts,
        kinds=(words.word_of_token,),
        means=words.subwords if pooling == "mean" else None,
        layers=parse_layers(layers, n_layers(checkpoint.model)),
        pooling=pooling,
        dtype=dtype,
        unit="word",
    )
    return CachedWords(**_found(entry, notes, batch_tokens, progress, say), counts=words.counts)


def subword_vectors(
    checkpoint: Checkpoint,
    sentences: Sequence[Sequence[str]],
    *,
    layers: str | int | Iterable[int] = "all",
    dtype: str = "float16",
    cache: str | Path | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> CachedSubwords:
    """Return the vectors of all subwords of `sentences`, from the cache or else computed and stored there.

    Special tokens have no vectors. A sentence that is longer than the model takes keeps the subwords that fit; see
    `SubwordRanges.spans`. Options and errors are those of `word_vectors`.

    >>> vectors = subword_vectors(checkpoint, [["It", "snowballs", "."]])  # doctest: +SKIP
    >>> vectors.ranges.spans(np.array([0]), np.array([[1, 2]]))  # doctest: +SKIP
    (array([[1, 3]]), array([ True]))
    """
    max_length = length_limit(checkpoint)
    subwords = tokenise_subwords(sentences, checkpoint.tokenizer, max_length)
    entry = Entry(
        root=cache_root(cache),
        checkpoint=checkpoint,
        texts=subwords.texts,
        draw=subwords.draw(),
        starts=subwords.starts,
        kinds=(),
        means=None,
        layers=parse_layers(layers, n_layers(checkpoint.model)),
        pooling="subwords",
        dtype=dtype,
        unit="subword",
    )
    notes = subwords.counts.notes(max_length)
    found = _found(entry, notes, batch_tokens, progress, say)
    return CachedSubwords(**found, ranges=subwords.ranges, counts=subwords.counts)


def _found(
    entry: Entry,
    notes: tuple[str, ...],
    batch_tokens: int | None,
    progress: Progress | None,
    say: Say | None,
) -> dict[str, Any]:
    """Return the fields of a `CachedVectors` for an entry, which is computed where it is not in the cache."""
    if entry.dtype not in DTYPES:
        raise OptionError(f"unknown dtype {entry.dtype!r} for vectors on disk; choose one of {', '.join(DTYPES)}")
    if batch_tokens is not None and batch_tokens < 1:
        raise OptionError(f"batch_tokens is {batch_tokens}; give a whole number that is at least 1")
    if not entry.n_rows:
        raise DataError(f"all {len(entry.starts) - 1} sentences were dropped: " + "; ".join(notes))
    folder, reused = entry.obtain(batch_tokens, progress, say or (lambda _line: None))
    return {
        "folder": folder,
        "layers": entry.layers,
        "starts": entry.starts,
        "width": entry.width,
        "dtype": np.dtype(entry.dtype),
        "notes": notes,
        "reused": reused,
        "n_bytes": entry.n_bytes,
    }
