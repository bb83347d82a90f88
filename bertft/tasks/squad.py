"""Question answering on SQuAD v1.1: which span of the passage answers the question?

Two softmaxes over the positions predict the start and the end of the span, as in Devlin et al. 2019. Passages that are
too long for the model are read in overlapping windows, and the best span of all windows is chosen.
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

from bertft.activations.encode import pair_lead
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.edit import with_head
from bertft.data.squad import Question, read_questions
from bertft.errors import DataError
from bertft.tasks.task import Features, Prediction, Records, TrainingRecipe

N_BEST, ANSWER_SUBWORDS = 20, 30
"""How many starts and ends of each window are considered, and the most subwords of an answer."""

RANDOM_SPANS, RANDOM_WORDS = 20, 30
"""How many random spans the baseline draws for each question, and how many words they have at most."""

_MARKS = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

# The numbers of this task: the step between windows and the longest question, in subwords; whether a window without the
# answer is trained to predict its first position, or is dropped; and whether rows are padded to the full length, over
# which the softmaxes then run, or to the longest of a batch.
_EXTRAS: dict[str, Any] = {"stride": 128, "question_tokens": 64}

RECIPES = {
    "paper": TrainingRecipe(
        epochs=3,
        learning_rate=5e-5,
        batch_size=32,
        max_length=384,
        bias_correction=False,
        decay_from="start",
        extras={**_EXTRAS, "without_answer": "first", "padding": "max_length"},
    ),
    "today": TrainingRecipe(
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
        """Read questions; see `read_questions`."""
        found = read_questions(source)
        return Records(found.name, found.questions, found.content_hash)

    def check(self, train: Records[Question]) -> None:
        """Require at least one question; that each has an answer is checked when it is read."""
        if not train.items:
            raise DataError(f"{train.name}: there is no question; training needs some")

    def build(self, checkpoint: Checkpoint, train: Records[Question]) -> PreTrainedModel:
        """Return the encoder, without a pooler, and a linear layer for the scores of starts and ends."""
        return with_head(checkpoint, AutoModelForQuestionAnswering)

    def encode(
        self,
        records: Records[Question],
        tokenizer: PreTrainedTokenizerBase,
        recipe: TrainingRecipe,
        *,
        labels: Mapping[str, int],
        training: bool,
    ) -> Features:
        """Return one row for each window, with the `start_positions` and `end_positions` of the first answer.

        Rows to evaluate on have instead the index of their `question`, the position `first` of the first subword of the
        passage, the `offsets` of its subwords in the passage, and for each of them in `mine` whether no other window
        has more context for it.
        """
        extras = recipe.extras
        room = recipe.max_length - tokenizer.num_special_tokens_to_add(pair=True)
        texts, cut = _cut_questions(records, tokenizer, min(extras["question_tokens"], room // 2))
        rows: list[dict[str, Any]] = []
        dropped = 0
        for index, windows in _windows(records, texts, tokenizer, recipe):
            question = records.items[index]
            contexts = None if training else _most_context([window["offsets"] for window in windows])
            for number, window in enumerate(windows):
                row = {name: window[name] for name in tokenizer.model_input_names if name in window}
                if contexts is not None:
                    shared = {name: window[name] for name in ("first", "offsets")}
                    rows.append({**row, "question": index, **shared, "mine": contexts[number]})
                    continue
                answer = question.answers[0]
                span = _subwords_of(window["offsets"], answer.start, answer.start + len(answer.text))
                if span is None and extras["without_answer"] == "drop":
                    dropped += 1
                    continue
                start, end = (0, 0) if span is None else (window["first"] + subword for subword in span)
                rows.append({**row, "start_positions": start, "end_positions": end})
        notes = [f"{cut:,} of {len(texts):,} questions were cut to {extras['question_tokens']} subwords"] if cut else []
        if dropped:
            notes.append(f"{dropped:,} of {len(rows) + dropped:,} windows contain no answer and were left out")
        return Features(rows, tuple(notes))

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, recipe: TrainingRecipe
    ) -> Callable[[list[Any]], dict[str, Any]]:
        """Return a function that pads the rows of a batch as the recipe says."""
        return DataCollatorWithPadding(tokenizer, padding=recipe.extras["padding"], max_length=recipe.max_length)

    def evaluate(
        self, predictions: Sequence[Prediction], features: Features, records: Records[Question]
    ) -> dict[str, float]:
        """Return the exact match and F1 of the best span of each question, by the official rules.

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
            answer_scores(best.get(index, (0.0, ""))[1], question) for index, question in enumerate(records.items)
        ]
        exact, f1 = np.mean(scores, axis=0)
        return {"exact_match": float(exact), "f1": float(f1)}

    def baselines(self, train: Records[Question], dev: Records[Question], *, seed: int) -> dict[str, dict[str, float]]:
        """Return the mean scores of random spans of at most 30 words, all spans of a passage being equally likely."""
        rng = np.random.default_rng(seed)
        scores = [
            answer_scores(span, question) for question in dev.items for span in _random_spans(question.passage, rng)
        ]
        exact, f1 = np.mean(scores, axis=0)
        return {"random spans": {"exact_match": float(exact), "f1": float(f1)}}


TASK = Squad()


def best_span(starts: NDArray[Any], ends: NDArray[Any], row: Mapping[str, Any]) -> tuple[float, int, int] | None:
    """Return the score of the best span of a window, and its first and last subword; None if there is no span.

    starts, ends: the scores of all positions, (positions,). The `N_BEST` highest of each are considered. A start must
    be one of the subwords in `mine`, and a span has at most `ANSWER_SUBWORDS` subwords.

    >>> row = {"input_ids": range(6), "first": 2, "offsets": [(0, 2), (3, 5), (6, 8)], "mine": [True, True, True]}
    >>> best_span(np.array([9.0, 0, 1, 3, 0, 0]), np.array([9.0, 0, 5, 1, 2, 0]), row)
    (6.0, 0, 0)

    Source: Devlin et al. 2019, `run_squad.py`; unlike there, padding is not considered.
    """
    positions = len(row["input_ids"])
    first, mine = row["first"], np.asarray(row["mine"])

    def best_subwords(scores: NDArray[Any]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.argsort(-scores[:positions], kind="stable")[:N_BEST] - first
        return found[(found >= 0) & (found < len(mine))]

    begin, end = best_subwords(starts), best_subwords(ends)
    begin = begin[mine[begin]]
    lengths = end[None, :] - begin[:, None] + 1
    sums = starts[first + begin].astype(float)[:, None] + ends[first + end].astype(float)[None, :]
    sums = np.where((lengths >= 1) & (lengths <= ANSWER_SUBWORDS), sums, -np.inf)
    if not sums.size or sums.max() == -np.inf:
        return None
    i, j = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[i, j]), int(begin[i]), int(end[j])


def normalised(text: str) -> str:
    """Normalise a text as the official script does: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalised("The  U.S. Army's")
    'us armys'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def answer_scores(predicted: str, question: Question) -> tuple[float, float]:
    """Return the exact match and F1 of an answer, each the maximum over the gold answers."""
    ours = normalised(predicted)
    theirs = {normalised(answer.text) for answer in question.answers}
    return float(ours in theirs), max(_f1(ours.split(), gold.split()) for gold in theirs)


def _f1(ours: list[str], theirs: list[str]) -> float:
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _cut_questions(
    records: Records[Question], tokenizer: PreTrainedTokenizerBase, longest: int
) -> tuple[list[tuple[str, int]], int]:
    """Cut questions to at most `longest` subwords; return each with its number of subwords, and how many were cut."""
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
    records: Records[Question],
    texts: Sequence[tuple[str, int]],
    tokenizer: PreTrainedTokenizerBase,
    recipe: TrainingRecipe,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the windows of each question: the inputs of the model, and `first` and `offsets` as in `encode`."""
    room = recipe.max_length - tokenizer.num_special_tokens_to_add(pair=True)
    # Windows begin `stride` subwords apart. The tokenizer takes their overlap, which depends on the question.
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, (_, length) in enumerate(texts):
        by_length[length].append(index)
    found: dict[int, list[dict[str, Any]]] = {index: [] for index in range(len(texts))}
    lead = pair_lead(tokenizer)
    for length, indices in by_length.items():
        encoded = tokenizer(
            [texts[index][0] for index in indices],
            [lead + records.items[index].passage for index in indices],
            truncation="only_second",
            max_length=recipe.max_length,
            stride=max(0, room - length - recipe.extras["stride"]),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        for number, sample in enumerate(encoded["overflow_to_sample_mapping"]):
            inside = [position for position, part in enumerate(encoded.sequence_ids(number)) if part == 1]
            window = {name: encoded[name][number] for name in encoded if name in tokenizer.model_input_names}
            window["first"] = inside[0] if inside else 0
            offsets = [encoded["offset_mapping"][number][position] for position in inside]
            window["offsets"] = [(max(0, first - len(lead)), max(0, end - len(lead))) for first, end in offsets]
            found[indices[sample]].append(window)
    yield from found.items()


def _subwords_of(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Return the first and last subword of characters `start` to `end` of the passage, or None if some are missing."""
    if not offsets or offsets[0][0] > start or offsets[-1][1] < end:
        return None
    first = next(index for index, (_, stop) in enumerate(offsets) if stop > start)
    last = next(index for index in reversed(range(len(offsets))) if offsets[index][0] < end)
    return (first, last) if first <= last else None


def _most_context(windows: Sequence[Sequence[tuple[int, int]]]) -> list[list[bool]]:
    """Return for each subword of each window, given by offsets, whether this window has the most context for it.

    The context is the smaller of the numbers of subwords before and after. Ties are broken in favour of the longer
    window, then of the earlier one.

    Source: Devlin et al. 2019, `run_squad.py`.
    """
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for number, offsets in enumerate(windows):
        for index, subword in enumerate(offsets):
            context = min(index, len(offsets) - 1 - index) + 0.01 * len(offsets)
            if context > best.get(subword, (-1.0, -1))[0]:
                best[subword] = context, number
    return [[best[subword][1] == number for subword in offsets] for number, offsets in enumerate(windows)]


def _random_spans(passage: str, rng: np.random.Generator) -> Iterator[str]:
    words = passage.split()
    ends = np.minimum(RANDOM_WORDS, len(words) - np.arange(len(words)))  # the number of spans that begin at each word
    last = np.cumsum(ends)
    for number in rng.integers(last[-1], size=RANDOM_SPANS):
        start = int(np.searchsorted(last, number, side="right"))
        yield " ".join(words[start : start + 1 + int(last[start] - 1 - number)])
