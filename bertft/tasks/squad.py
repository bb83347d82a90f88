"""Question answering on SQuAD v1.1: which span of the passage answers the question?

Two softmaxes over the positions, one for the start of the span and one for its end, as Devlin et al. 2019 have it.
Passages too long for the model are read in windows that overlap, and the spans of all windows compete.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import with_head
from bertft.data.squad import Question, read_questions
from bertft.errors import DataError
from bertft.tasks.task import Features, Prediction, Recipe, Records

N_BEST, ANSWER_PIECES = 20, 30
"""How many starts and ends of a window compete, and how long an answer may be."""

RANDOM_SPANS, RANDOM_WORDS = 20, 30
"""How many random spans a question has in the baseline, and how many words they have at most."""

_MARKS = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

# What this task alone knows: the step between windows and the longest question, in pieces; what a window without the
# answer is taught, its first position or nothing; whether rows are padded to the full length, over all of which the
# softmaxes then run, or to the longest of a batch.
_EXTRAS: dict[str, Any] = {"stride": 128, "question_tokens": 64}

RECIPES = {
    "paper": Recipe(
        epochs=3,
        learning_rate=5e-5,
        batch_size=32,
        max_length=384,
        bias_correction=False,
        decay_from="start",
        extras={**_EXTRAS, "without_answer": "first", "padding": "max_length"},
    ),
    "today": Recipe(
        epochs=2,
        learning_rate=3e-5,
        batch_size=16,
        max_length=384,
        extras={**_EXTRAS, "without_answer": "drop", "padding": "longest"},
    ),
}


class Squad:
    """The task `squad`."""

    name = "squad"
    metric = "f1"
    recipes = RECIPES

    def read(self, source: str) -> Records[Question]:
        """See `read_questions`."""
        found = read_questions(source)
        return Records(found.name, found.questions, found.content_hash)

    def check(self, train: Records[Question]) -> None:
        """At least one question; that each has its answer is checked when it is read."""
        if not train.items:
            raise DataError(f"{train.name}: there is no question; training needs some")

    def build(self, checkpoint: Checkpoint, train: Records[Question]) -> PreTrainedModel:
        """The body, without a pooler, and one linear map to the scores of starts and ends."""
        return with_head(checkpoint, AutoModelForQuestionAnswering)

    def encode(
        self,
        records: Records[Question],
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """One row a window, with `start_positions` and `end_positions` of the first answer for training.

        Rows to predict have instead the number of their `question`, the position `first` of their first piece of the
        passage, the `offsets` of those pieces in it, and which of them this window sees in most context, `mine`.
        """
        extras = recipe.extras
        room = recipe.max_length - tokenizer.num_special_tokens_to_add(pair=True)
        texts, cut = _cut_questions(records, tokenizer, min(extras["question_tokens"], room // 2))
        rows: list[dict[str, Any]] = []
        dropped = 0
        for place, windows in _windows(records, texts, tokenizer, recipe):
            question = records.items[place]
            contexts = None if training else _most_context([window["offsets"] for window in windows])
            for number, window in enumerate(windows):
                row = {name: window[name] for name in tokenizer.model_input_names if name in window}
                if contexts is not None:
                    shared = {name: window[name] for name in ("first", "offsets")}
                    rows.append({**row, "question": place, **shared, "mine": contexts[number]})
                    continue
                answer = question.answers[0]
                span = _pieces_of(window["offsets"], answer.start, answer.start + len(answer.text))
                if span is None and extras["without_answer"] == "drop":
                    dropped += 1
                    continue
                start, end = (0, 0) if span is None else (window["first"] + piece for piece in span)
                rows.append({**row, "start_positions": start, "end_positions": end})
        notes = [f"{cut:,} of {len(texts):,} questions were cut to {extras['question_tokens']} pieces"] if cut else []
        if dropped:
            notes.append(f"{dropped:,} of {len(rows) + dropped:,} windows hold no answer and were left out")
        return Features(rows, tuple(notes))

    def collator(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Callable[[list[Any]], dict[str, Any]]:
        """Pads as the recipe says."""
        return DataCollatorWithPadding(tokenizer, padding=recipe.extras["padding"], max_length=recipe.max_length)

    def evaluate(
        self, predictions: Sequence[Prediction], features: Features, records: Records[Question]
    ) -> dict[str, float]:
        """Exact match and F1 of the best span of each question, by the official rules.

        Source: Rajpurkar et al. 2016, `evaluate-v1.1.py`.
        """
        best: dict[int, tuple[float, str]] = {}
        for row, (starts, ends, *_) in zip(features.rows, predictions, strict=True):
            found = best_span(starts, ends, row)
            if found is not None and found[0] > best.get(row["question"], (-math.inf, ""))[0]:
                score, first, last = found
                (begin, _), (_, end) = row["offsets"][first], row["offsets"][last]
                best[row["question"]] = score, records.items[row["question"]].passage[begin:end]
        scores = [
            answer_scores(best.get(place, (0.0, ""))[1], question) for place, question in enumerate(records.items)
        ]
        exact, f1 = np.mean(scores, axis=0)
        return {"exact_match": float(exact), "f1": float(f1)}

    def baselines(self, train: Records[Question], dev: Records[Question], *, seed: int) -> dict[str, dict[str, float]]:
        """What a span of the passage, any of at most 30 words drawn with equal odds, scores on average."""
        rng = np.random.default_rng(seed)
        scores = [
            answer_scores(span, question) for question in dev.items for span in _random_spans(question.passage, rng)
        ]
        exact, f1 = np.mean(scores, axis=0)
        return {"random spans": {"exact_match": float(exact), "f1": float(f1)}}


TASK = Squad()


def best_span(starts: NDArray[Any], ends: NDArray[Any], row: Mapping[str, Any]) -> tuple[float, int, int] | None:
    """The sum of scores, the first and the last piece of the passage of a window's best span; None without one.

    The `N_BEST` starts and ends of the whole window compete, (positions,) each; a start must be seen in most context
    in this window, and a span has at most `ANSWER_PIECES` pieces.

    >>> row = {"input_ids": range(6), "first": 2, "offsets": [(0, 2), (3, 5), (6, 8)], "mine": [True, True, True]}
    >>> best_span(np.array([9.0, 0, 1, 3, 0, 0]), np.array([9.0, 0, 5, 1, 2, 0]), row)
    (6.0, 0, 0)

    Source: Devlin et al. 2019, `run_squad.py`; padding does not compete here.
    """
    positions = len(row["input_ids"])
    first, mine = row["first"], np.asarray(row["mine"])

    def best_pieces(scores: NDArray[Any]) -> NDArray[np.int64]:
        pieces: NDArray[np.int64] = np.argsort(-scores[:positions], kind="stable")[:N_BEST] - first
        return pieces[(pieces >= 0) & (pieces < len(mine))]

    begin, end = best_pieces(starts), best_pieces(ends)
    begin = begin[mine[begin]]
    lengths = end[None, :] - begin[:, None] + 1
    sums = starts[first + begin].astype(float)[:, None] + ends[first + end].astype(float)[None, :]
    sums = np.where((lengths >= 1) & (lengths <= ANSWER_PIECES), sums, -np.inf)
    if not sums.size or sums.max() == -np.inf:
        return None
    i, j = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[i, j]), int(begin[i]), int(end[j])


def normalised(text: str) -> str:
    """A text as the official score compares it: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalised("The  U.S. Army's")
    'us armys'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def answer_scores(predicted: str, question: Question) -> tuple[float, float]:
    """Exact match and F1 of an answer, each the best over what people answered."""
    ours = normalised(predicted)
    theirs = {normalised(answer.text) for answer in question.answers}
    return float(ours in theirs), max(_f1(ours.split(), gold.split()) for gold in theirs)


def _f1(ours: list[str], theirs: list[str]) -> float:
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _cut_questions(
    records: Records[Question], tokenizer: PreTrainedTokenizerBase, longest: int
) -> tuple[list[tuple[str, int]], int]:
    """The questions cut to so many pieces, each with its number of pieces, and how many were cut."""
    found = tokenizer(
        [question.question for question in records.items],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    texts = []
    cut = 0
    for question, offsets in zip(records.items, found["offset_mapping"], strict=True):
        if len(offsets) > longest:
            cut += 1
            texts.append((question.question[: offsets[longest - 1][1]], longest))
        else:
            texts.append((question.question, len(offsets)))
    return texts, cut


def _windows(
    records: Records[Question], texts: Sequence[tuple[str, int]], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The windows of each question in order: what the model reads, `first` and `offsets` of the passage's pieces."""
    room = recipe.max_length - tokenizer.num_special_tokens_to_add(pair=True)
    # Windows begin `stride` pieces apart, which the tokenizer takes as so many in common, other for each length.
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, (_, pieces) in enumerate(texts):
        by_length[pieces].append(place)
    found: dict[int, list[dict[str, Any]]] = {place: [] for place in range(len(texts))}
    for pieces, places in by_length.items():
        encoded = tokenizer(
            [texts[place][0] for place in places],
            [records.items[place].passage for place in places],
            truncation="only_second",
            max_length=recipe.max_length,
            stride=max(0, room - pieces - recipe.extras["stride"]),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        for number, sample in enumerate(encoded["overflow_to_sample_mapping"]):
            inside = [place for place, part in enumerate(encoded.sequence_ids(number)) if part == 1]
            window = {name: encoded[name][number] for name in encoded if name in tokenizer.model_input_names}
            window["first"] = inside[0] if inside else 0
            window["offsets"] = [encoded["offset_mapping"][number][place] for place in inside]
            found[places[sample]].append(window)
    yield from found.items()


def _pieces_of(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """The first and last piece that characters `start` to `end` of the passage touch; None if not all are there."""
    if not offsets or offsets[0][0] > start or offsets[-1][1] < end:
        return None
    first = next(place for place, (_, stop) in enumerate(offsets) if stop > start)
    last = next(place for place in reversed(range(len(offsets))) if offsets[place][0] < end)
    return (first, last) if first <= last else None


def _most_context(windows: Sequence[Sequence[tuple[int, int]]]) -> list[list[bool]]:
    """Of each window's pieces, given by offsets, whether this window has most on both sides of it, the first of equals.

    Context is the smaller of the pieces before and after, and a hundredth of the window's length settles ties.

    Source: Devlin et al. 2019, `run_squad.py`.
    """
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for number, offsets in enumerate(windows):
        for place, piece in enumerate(offsets):
            context = min(place, len(offsets) - 1 - place) + 0.01 * len(offsets)
            if context > best.get(piece, (-1.0, -1))[0]:
                best[piece] = context, number
    return [[best[piece][1] == number for piece in offsets] for number, offsets in enumerate(windows)]


def _random_spans(passage: str, rng: np.random.Generator) -> Iterator[str]:
    words = passage.split()
    ends = np.minimum(RANDOM_WORDS, len(words) - np.arange(len(words)))  # spans that begin at each word
    last = np.cumsum(ends)
    for number in rng.integers(last[-1], size=RANDOM_SPANS):
        start = int(np.searchsorted(last, number, side="right"))
        yield " ".join(words[start : start + 1 + int(last[start] - 1 - number)])
