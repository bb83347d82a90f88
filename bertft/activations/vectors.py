"""Vectors of all words or subwords of a corpus, at every layer asked for: computed once, then read from the cache."""

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
    """Vectors of n sentences on disk; sentence i owns rows starts[i] to starts[i + 1], none if it was dropped."""

    folder: Path
    layers: tuple[int, ...]
    starts: NDArray[np.int64]  # [n + 1]
    width: int
    dtype: np.dtype[Any]
    notes: tuple[str, ...]
    reused: bool
    """Whether the vectors were there already, and no model ran."""
    n_bytes: int
    """What the wanted layers take on disk."""

    @property
    def n_rows(self) -> int:
        """The number of vectors of a layer."""
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
        """The vectors of one layer, (rows, d), mapped from disk and read-only."""
        self._check(layer)
        mapped: np.memmap[Any, np.dtype[Any]] = np.load(self.folder / layer_file(layer), mmap_mode="r")
        return mapped

    def rows(self, sentence: int) -> slice:
        """The rows of one sentence in every layer, to index with: `vectors.layer(3)[vectors.rows(7)]`."""
        return slice(int(self.starts[sentence]), int(self.starts[sentence + 1]))

    def padded(
        self,
        sentences: Sequence[int] | NDArray[np.int64],
        layers: Iterable[int] | None = None,
        *,
        dtype: DTypeLike = "f4",
    ) -> NDArray[Any]:
        """The vectors of some sentences side by side, (layers, sentences, n, d), zeros after the end of each.

        n is the length of the longest; `layers` are all of them by default.  The rows are read, not mapped, so that
        the memory in use stays that of one batch.  Raises `OptionError` for a sentence that was dropped, and for a
        layer that is not there.
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
            # Opened for each batch: threads and forked workers share no position in the file.
            with (self.folder / layer_file(layer)).open("rb", buffering=0) as file:
                for place, start, length in zip(of_layer, starts.tolist(), lengths.tolist(), strict=True):
                    file.seek(self._header_size + start * self._row_size)
                    if file.readinto(scratch[:length].data) != length * self._row_size:
                        raise BertftError(f"{file.name}: was cut off while it was in use; run again to rebuild it")
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
                f"layer {layer} was not asked for; these are the layers {', '.join(map(str, self.layers))}"
            )


@dataclass(frozen=True, eq=False)
class CachedWords(CachedVectors):
    """One row a word."""

    counts: WordCounts


@dataclass(frozen=True, eq=False)
class CachedSubwords(CachedVectors):
    """One row a subword, without special tokens; `ranges` says which subwords a word became."""

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
    """The vectors of all words of `sentences`, given as lists of words, from the cache or else computed into it.

    layers: "all", a number, or a list such as "0,3-5,-1".  pooling: `mean` of a word's subwords, `first` or `last`.
    dtype: `float16` or `float32`, on disk.  cache: a folder, by default `default_cache()`.
    batch_tokens: the most tokens in one batch, padding included.
    progress: called as progress(done, total, what) after every batch.  say: called with lines for people: the size
        before anything is written, reuse, and damage found.

    Sentences longer than the model takes, or with a word of which the tokenizer makes nothing, are dropped and counted.

    Raises `OptionError` for an option out of range, `DataError` for sentences that are none, `CheckpointError` for a
    model that cannot be read, `ArrayError` for vectors that are not finite or too large for `dtype`, `BertftError`
    where the disk is too full or cannot be written to.

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
    """The vectors of all subwords of `sentences`, given as lists of words, from the cache or else computed into it.

    Special tokens have none. A sentence that is longer than the model takes keeps the subwords that fit; see
    `SubwordRanges.spans`.
    Options and errors are those of `word_vectors`.

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
    """What a `CachedVectors` is made of, for an entry that is there or now written."""
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
