"""The examples that BERT is pre-trained on: pairs of text segments that may follow one another, with masks.

A corpus is an array of token ids with the positions at which sentences and documents begin. A segment is a slice of it,
so an example takes five numbers, whatever its length. Pairs are packed as in the published code of Devlin et al.:

- A chunk of whole sentences is filled up to the greatest length, or, for one pair in ten, to a random lower length.
- It is split at a random sentence into A and B. For half of the pairs, B is replaced by a segment of another document,
  and the sentences of B begin the next chunk. For a chunk of one sentence, B always comes from elsewhere.
- A pair that is too long loses tokens of its longer segment, at random from the front or the back.

In each pair 15 % of the tokens, at least one, are to be predicted: 80 % of these are masked, 10 % are replaced by a
random token and 10 % are kept.

There are three differences. Random tokens are never special tokens. In a corpus of a single document, a false B is a
distant segment of it. The published code writes its examples to disk; here each example depends only on the seed and
its index, so that a resumed run sees the same masks as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bertft.errors import DataError, OptionError

SHORT = 0.1
"""The share of pairs that are filled to a random length instead of the greatest."""
MASKED, AS_MASK, AS_RANDOM = 0.15, 0.8, 0.1
"""The share of tokens to predict, and of these the shares that are masked and that are replaced by a random token."""
FAR = 100
"""In a corpus of one document, a false B begins at least so many sentences away, or a quarter of all if less."""
FEWEST_SENTENCES = 8
SPECIAL_TOKENS = 3
IGNORED = -100
"""The label of a token that is not to be predicted, as torch defines it."""
_BATCH = 1000  # sentences tokenised at a time


@dataclass(frozen=True)
class Tokens:
    """A tokenised corpus: token ids (T,), the starts of its S sentences (S + 1,) and of its D documents (D + 1,).

    `sentences[i]:sentences[i + 1]` are the tokens of sentence i, `documents[d]:documents[d + 1]` the sentences of
    document d.
    """

    numbers: NDArray[np.int32]
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]


def tokenise(documents: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Tokenise documents, given as lists of sentences, without special tokens; sentences with no token are dropped."""
    ids: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    counts: list[int] = []
    for document in documents:
        before = len(lengths)
        for first in range(0, len(document), _BATCH):
            batch = list(document[first : first + _BATCH])
            encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
            kept = [numbers for numbers in encoded["input_ids"] if numbers]
            ids += [np.array(numbers, dtype=np.int32) for numbers in kept]
            lengths += map(len, kept)
        counts.append(len(lengths) - before)
    return Tokens(
        np.concatenate([np.zeros(0, np.int32), *ids]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([[0], np.cumsum([count for count in counts if count])]).astype(np.int64),
    )


def pack(tokens: Tokens, max_length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw pairs in one pass over a corpus: start and end of A, start and end of B, and 1 if B is false, (n, 5).

    A pair has at most `max_length` tokens, with the three special ones. Raises `OptionError` for a length that leaves
    no room for two more, and `DataError` for a corpus that is too short for a false B.

    Source: Devlin et al. 2019, section 3.1 and appendix A.2; `create_pretraining_data.py` of their release.
    """
    room = max_length - SPECIAL_TOKENS
    if room < 2:
        raise OptionError(f"max_length is {max_length}; a pair needs at least {SPECIAL_TOKENS + 2} tokens")
    begins, documents = tokens.sentences, tokens.documents
    if len(documents) <= 2 and len(begins) - 1 < FEWEST_SENTENCES:
        raise DataError(
            f"a corpus of one document of {len(begins) - 1} sentences; give at least {FEWEST_SENTENCES} sentences, "
            "or several documents separated by blank lines"
        )
    pairs = []
    for document in range(len(documents) - 1):
        current, last = int(documents[document]), int(documents[document + 1])
        while current < last:
            target = int(rng.integers(2, room, endpoint=True)) if rng.random() < SHORT else room
            end = _filled(begins, current, target, last)
            cut = current + int(rng.integers(1, max(2, end - current)))
            false = end - current == 1 or rng.random() < 0.5
            if false:
                first, stop = _elsewhere(tokens, document, current, rng)
                wanted = target - int(begins[cut] - begins[current])
                second = first, _filled(begins, first, wanted, stop)
            else:
                second = cut, end
            pairs.append((*_cut_to(room, begins[[current, cut, *second]], rng), false))
            current = cut if false else end
    return np.array(pairs, dtype=np.int64).reshape(-1, 5)


def _filled(begins: NDArray[np.int64], first: int, target: int, last: int) -> int:
    """Return the end, at most `last`, of the shortest run of sentences from `first` that has `target` tokens."""
    return min(last, max(first + 1, int(np.searchsorted(begins, begins[first] + target))))


def _elsewhere(tokens: Tokens, document: int, current: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return a random sentence of another document, or far from `current`, and where the text after it ends."""
    documents = tokens.documents
    if len(documents) > 2:
        other = int(rng.integers(len(documents) - 2))
        other += other >= document
        return int(rng.integers(documents[other], documents[other + 1])), int(documents[other + 1])
    sentences = len(tokens.sentences) - 1
    away = min(FAR, sentences // 4)
    before, after = max(0, current - away), max(0, sentences - current - away)
    drawn = int(rng.integers(before + after))
    return (drawn, current) if drawn < before else (drawn - before + current + away, sentences)


def _cut_to(room: int, ends: NDArray[np.int64], rng: np.random.Generator) -> tuple[int, ...]:
    """Return start and end of A and of B; the longer is cut, at random from the front or the back, until both fit."""
    long = int(ends[1] - ends[0]), int(ends[3] - ends[2])
    # Cutting one token after another from the longer segment leaves two halves, or the shorter one in full.
    kept = (
        min(long[0], max(room - room // 2, room - long[1])),
        min(long[1], max(room // 2, room - long[0])),
    )
    found: list[int] = []
    for side in (0, 1):
        begin = int(ends[2 * side]) + int(rng.binomial(long[side] - kept[side], 0.5))
        found += [begin, begin + kept[side]]
    return tuple(found)


class SentencePairs(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Examples for `BertForPreTraining`: `passes` packings of a corpus, one after another, with masks.

    Item i has `input_ids`, `token_type_ids`, `labels` (-100 for tokens that are not to be predicted) and
    `next_sentence_label` (0 if B follows A, 1 if it is false). It depends only on the seed and i.
    """

    def __init__(
        self, tokens: Tokens, tokenizer: PreTrainedTokenizerBase, max_length: int, *, passes: int, seed: int
    ) -> None:
        self.tokens, self.seed = tokens, seed
        self.pairs = np.concatenate(
            [pack(tokens, max_length, np.random.default_rng([seed, number])) for number in range(passes)]
        )
        self.cls, self.sep, self.mask = (
            number(tokenizer, name) for name in ("cls_token_id", "sep_token_id", "mask_token_id")
        )
        special = set(tokenizer.all_special_ids)
        self.ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - special))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        a, a_end, b, b_end, false = self.pairs[index].tolist()
        numbers = self.tokens.numbers
        first, second = numbers[a:a_end], numbers[b:b_end]
        ids = np.concatenate([[self.cls], first, [self.sep], second, [self.sep]]).astype(np.int64)
        positions = np.delete(np.arange(1, len(ids) - 1), len(first))
        # The third number separates these draws from those of the packing.
        rng = np.random.default_rng([self.seed, index, 1])
        chosen = rng.choice(positions, max(1, round(MASKED * len(ids))), replace=False)
        labels = np.full(len(ids), IGNORED)
        labels[chosen] = ids[chosen]
        fate = rng.random(len(chosen))
        ids[chosen[fate < AS_MASK]] = self.mask
        random = chosen[(fate >= AS_MASK) & (fate < AS_MASK + AS_RANDOM)]
        ids[random] = rng.choice(self.ordinary, len(random))
        return {
            "input_ids": ids.tolist(),
            "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
            "labels": labels.tolist(),
            "next_sentence_label": [false],
        }


def number(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Return the id of a special token; raises `OptionError` for a tokenizer without it."""
    found = getattr(tokenizer, name)
    if found is None:
        raise OptionError(
            f"the tokenizer has no {name.removesuffix('_id')}; pre-training needs a BERT tokenizer, with [CLS], [SEP], "
            "[MASK] and [PAD]"
        )
    return int(found)


@dataclass(frozen=True)
class Collate:
    """Pads the examples of a batch to the longest. The Trainer saves its `tokenizer` with the weights."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, examples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        fill = {"input_ids": number(self.tokenizer, "pad_token_id"), "token_type_ids": 0, "labels": IGNORED}
        batch: dict[str, Any] = {
            name: torch.tensor([[*example[name], *[value] * (longest - len(example[name]))] for example in examples])
            for name, value in fill.items()
        }
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        batch["next_sentence_label"] = torch.tensor([example["next_sentence_label"] for example in examples])
        return batch
