"""Targets of an edge-probing task as arrays: spans, their labels, and batches of both.

A *target* is one span of a sentence, or two, with a set of labels. `WordTask` holds spans of words, as the data has
them; its method `over_subwords` gives the `SubwordTask` on which probes are trained. Spans are half-open ranges. The
first subword counted is the first of the sentence that has a vector.

A batch holds only the subwords that some span covers. All others are neither gathered nor projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bertft.errors import DataError

Indices = NDArray[np.int64]


class SubwordStates(Protocol):
    """The hidden states of the subwords of sentences by layer; `bertft.activations.vectors.CachedVectors` is one."""

    @property
    def layers(self) -> Sequence[int]:
        """The layers available, the embeddings first."""

    @property
    def width(self) -> int:
        """The size of a vector."""

    @property
    def lengths(self) -> Indices:
        """The number of subwords of each sentence, 0 for one without vectors."""

    def padded(
        self, sentences: Indices, layers: Sequence[int] | None = None, *, dtype: DTypeLike = "f4"
    ) -> NDArray[Any]:
        """Return the vectors of some sentences, (layers, sentences, n, d), padded with zeros."""


class SubwordSpans(Protocol):
    """The subwords of spans of words, as `bertft.activations` knows them of the sentences it tokenised."""

    def spans(self, sentences: Indices, spans: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """Return the spans over subwords (t, 2) of spans over words (t, 2), and which of them are complete (t,)."""


_Task = TypeVar("_Task", bound="EdgeTargets")


@dataclass(frozen=True, eq=False)
class EdgeTargets:
    """T targets of a task with K labels: what `WordTask` and `SubwordTask` have in common.

    `sentence` (T,) is the index of each target's sentence. `span1` and `span2` (T, 2) are half-open ranges in it;
    `span2` is None where targets have one span. `gold` (T, K) is True for the labels of a target: one, several or none.

    Raises `DataError` for arrays of other shapes and for empty spans.
    """

    name: str
    labels: tuple[str, ...]
    sentence: Indices
    span1: Indices
    span2: Indices | None
    gold: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in ("sentence", "span1", "span2"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        object.__setattr__(self, "gold", np.asarray(self.gold, dtype=np.bool_))
        targets = len(self.sentence)
        for name, shape in (("span1", (targets, 2)), ("span2", (targets, 2)), ("gold", (targets, len(self.labels)))):
            given = getattr(self, name)
            if given is not None and given.shape != shape:
                raise DataError(
                    f"{self.name}: {name} has shape {given.shape}; expected {shape} for {targets} targets with "
                    f"{len(self.labels)} labels"
                )
        for spans in self.spans:
            if (wrong := (spans[:, 0] < 0) | (spans[:, 1] <= spans[:, 0])).any():
                target = int(np.argmax(wrong))
                raise DataError(
                    f"{self.name}: target {target} has the span {spans[target].tolist()}; expected [first, end) with "
                    "the end after the first"
                )

    def __len__(self) -> int:
        return len(self.sentence)

    @property
    def spans(self) -> tuple[Indices, ...]:
        """The spans of the targets: one array (T, 2), or two."""
        return (self.span1,) if self.span2 is None else (self.span1, self.span2)

    @property
    def sentences(self) -> Indices:
        """The sentences that have a target, in ascending order."""
        return np.unique(self.sentence)

    def at(self: _Task, sentences: Indices) -> _Task:
        """Return the targets of some sentences. The order of the targets is kept."""
        return self.chosen(np.flatnonzero(np.isin(self.sentence, sentences)))

    def chosen(self: _Task, targets: Indices) -> _Task:
        """Return the targets with these indices."""
        span2 = None if self.span2 is None else self.span2[targets]
        return replace(
            self, sentence=self.sentence[targets], span1=self.span1[targets], span2=span2, gold=self.gold[targets]
        )


@dataclass(frozen=True, eq=False)
class WordTask(EdgeTargets):
    """The targets of a task with spans over words. See `EdgeTargets` for the arrays.

    >>> task = WordTask("pos", ("NOUN", "VERB"), [0, 0], [[0, 1], [1, 3]], None, [[True, False], [False, True]])
    >>> len(task), task.sentences.tolist()
    (2, [0])
    """

    def over_subwords(self, subwords: SubwordSpans) -> SubwordTask:
        """Return the same targets with spans over subwords, ready to train.

        Targets are left out where a span is not complete: a subword of it was cut off, or it has none. The result may
        have no targets.
        """
        aligned = [subwords.spans(self.sentence, spans) for spans in self.spans]
        kept = np.flatnonzero(np.logical_and.reduce([complete for _, complete in aligned]))
        span1, *others = (spans[kept] for spans, _ in aligned)
        return SubwordTask(
            self.name, self.labels, self.sentence[kept], span1, others[0] if others else None, self.gold[kept]
        )


@dataclass(frozen=True, eq=False)
class SubwordTask(EdgeTargets):
    """The targets of a task with spans over subwords, the sentences numbered as in the hidden states that probes read.

    See `EdgeTargets` for the arrays.

    >>> task = SubwordTask("pos", ("NOUN", "VERB"), [0, 0], [[0, 1], [1, 4]], None, [[True, False], [False, True]])
    >>> task.chosen([1]).span1.tolist()
    [[1, 4]]
    """


@dataclass(frozen=True)
class SpanRows:
    """Spans over the rows of a batch, ragged: span t owns rows[offsets[t]] to rows[offsets[t + 1]]."""

    covered: Indices | None
    """The rows of the batch that some span covers; None if all are covered."""
    rows: Indices  # [m], indices into `covered`
    offsets: Indices  # [t], the start of each span in `rows`
    span: Indices  # [m], the index of the span of each row


@dataclass(frozen=True)
class EdgeBatch:
    """Targets of some sentences: the number of rows, one for each subword, and the spans over them."""

    targets: Indices  # [t], their indices in the task
    rows: int
    spans: tuple[SpanRows, ...]
    gold: NDArray[np.bool_]  # [t, K]


@dataclass(frozen=True, eq=False)
class IndexedTask:
    """A task sorted by sentence, with the subwords that its spans cover, so that batches need no search.

    Raises `DataError` for a span beyond the end of its sentence, and for a sentence without vectors.
    """

    task: SubwordTask
    lengths: Indices
    """The number of subwords of every sentence."""
    sentences: Indices = field(init=False)
    _order: Indices = field(init=False, repr=False)
    _targets: Indices = field(init=False, repr=False)  # [n + 1], the start of sentence i in `_order`
    _subwords: Indices = field(init=False, repr=False)  # the covered subwords, sentence by sentence
    _starts: Indices = field(init=False, repr=False)  # [n + 1], the start of sentence i in `_subwords`
    _spans: tuple[tuple[Indices, Indices], ...] = field(init=False, repr=False)  # first covered row in sentence, length

    def __post_init__(self) -> None:
        task, lengths = self.task, self.lengths
        self._check()
        order = np.argsort(task.sentence, kind="stable")
        sentence = task.sentence[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        covered = np.zeros(starts[-1] + 1, dtype=np.bool_)
        for spans in task.spans:
            covered[ranges(starts[sentence] + spans[order, 0], np.diff(spans[order], axis=1)[:, 0])] = True
        before = np.concatenate([[0], np.cumsum(covered)])  # covered rows before each subword of the corpus
        rows = before[starts]
        found = [
            (before[starts[sentence] + spans[order, 0]] - rows[sentence], np.diff(spans[order], axis=1)[:, 0])
            for spans in task.spans
        ]
        subwords = np.flatnonzero(covered)
        subwords -= np.repeat(starts[:-1], np.diff(rows))
        put = object.__setattr__
        put(self, "sentences", task.sentences)
        put(self, "_order", order)
        put(self, "_targets", np.searchsorted(sentence, np.arange(len(lengths) + 1)))
        put(self, "_subwords", subwords)
        put(self, "_starts", rows)
        put(self, "_spans", tuple(found))

    def _check(self) -> None:
        task, lengths = self.task, self.lengths
        if not len(task):
            raise DataError(f"{task.name}: no targets; give at least one")
        if task.sentence.min() < 0 or task.sentence.max() >= len(lengths):
            raise DataError(
                f"{task.name}: targets are of the sentences {task.sentence.min()} to {task.sentence.max()}, and the "
                f"states have {len(lengths)}; number them from 0 as the states do"
            )
        for spans in task.spans:
            ends = lengths[task.sentence]
            if (wrong := spans[:, 1] > ends).any():
                target = int(np.argmax(wrong))
                raise DataError(
                    f"{task.name}: target {target} has the span {spans[target].tolist()}, and its sentence, "
                    f"{task.sentence[target]}, has {ends[target]} subwords; leave out targets that do not fit"
                )

    def subwords(self, sentences: Indices) -> tuple[Indices, Indices]:
        """Return the covered subwords of some sentences, sentence by sentence, and their number in each."""
        counts = self._starts[sentences + 1] - self._starts[sentences]
        return self._subwords[ranges(self._starts[sentences], counts)], counts

    def batch(self, sentences: Indices) -> EdgeBatch:
        """Return the targets of some sentences over the rows that `subwords` gives for them."""
        counts = self._targets[sentences + 1] - self._targets[sentences]
        places = ranges(self._targets[sentences], counts)
        row_counts = self._starts[sentences + 1] - self._starts[sentences]
        first_row = np.repeat(np.cumsum(row_counts) - row_counts, counts)
        n = int(row_counts.sum())
        spans = []
        for first, length in self._spans:
            rows = ranges(first_row + first[places], length[places])
            own = np.zeros(n, dtype=np.bool_)
            own[rows] = True
            ends = np.cumsum(length[places])
            spans.append(
                SpanRows(
                    covered=None if own.all() else np.flatnonzero(own),
                    rows=rows if own.all() else (np.cumsum(own) - 1)[rows],
                    offsets=ends - length[places],
                    span=np.repeat(np.arange(len(places)), length[places]),
                )
            )
        targets = self._order[places]
        return EdgeBatch(targets, n, tuple(spans), self.task.gold[targets])


def ranges(starts: Indices, lengths: Indices) -> Indices:
    """Return the concatenated ranges that begin at `starts` and have these lengths.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
