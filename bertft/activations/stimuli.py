"""The input of the models from a corpus: the drawn sentences as tokens, the drawn tokens, and the batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertft.activations.batches import Batch, Grouping, make_batch, padding_share, plan_batches
from bertft.activations.encode import TokenisedTexts, tokenise
from bertft.activations.sampling import Draw, draw_sentences, draw_tokens
from bertft.data import Corpus, Example
from bertft.errors import DataError


@dataclass(frozen=True)
class Stimuli:
    """The drawn sentences of a corpus, their tokens, the drawn tokens, and the sentences of each batch.

    `notes` holds what a reader of the numbers should know: fewer tokens than requested, truncated texts, and tokens
    that the tokenizer does not know.
    """

    corpus: Corpus
    examples: tuple[Example, ...]
    texts: TokenisedTexts
    draw: Draw
    plan: list[NDArray[np.int64]]
    notes: tuple[str, ...]

    @classmethod
    def drawn(
        cls,
        corpus: Corpus,
        tokenizer: Any,
        *,
        tokens: int | None,
        sentences: int | None,
        seed: int,
        special_tokens: bool,
        max_length: int,
        batch_tokens: int,
        grouping: Grouping = Grouping.PADDED,
    ) -> Stimuli:
        """Sample from a corpus, as `bertft.score` does; raise `DataError` where there are too few tokens to compare."""
        chosen = draw_sentences(len(corpus.examples), sentences, seed)
        examples = tuple(corpus.examples[index] for index in chosen)
        texts = tokenise(examples, tokenizer, max_length)
        draw = draw_tokens(texts, tokens, seed, special_tokens=special_tokens)
        if draw.n_tokens < 3:
            raise DataError(
                f"{corpus.name}: {draw.n_tokens} tokens in {len(examples)} sentences; at least 3 are needed to "
                "compare pairs of tokens; give more text"
            )
        notes = []
        if tokens is not None and draw.n_tokens < tokens:
            more = "; use more sentences to get more" if len(examples) < len(corpus.examples) else ""
            notes.append(
                f"{corpus.name}: {tokens} tokens were requested, but the {len(examples)} sentences have only "
                f"{draw.n_tokens}; all were used{more}"
            )
        if texts.n_truncated:
            notes.append(
                f"{corpus.name}: {texts.n_truncated} of {len(examples)} texts were longer than {max_length} tokens "
                "and were cut"
            )
        unknown = int(np.count_nonzero(texts.ids[draw.positions] == getattr(tokenizer, "unk_token_id", None)))
        if unknown:
            share = f"all {draw.n_tokens}" if unknown == draw.n_tokens else f"{unknown} of {draw.n_tokens}"
            notes.append(f"{corpus.name}: {share} tokens are unknown to the tokenizer")
        # Sentences without a drawn token are not run.
        plan = plan_batches(texts.lengths, np.unique(draw.sentences), batch_tokens, grouping)
        return cls(corpus, examples, texts, draw, plan, tuple(notes))

    @property
    def padding(self) -> float:
        """The share of padding in all batches, 0 to 1."""
        return padding_share(self.texts.lengths, self.plan)

    def batches(self, pad_id: int, device: torch.device) -> Iterator[Batch]:
        """Yield the batches in order; each is built when it is needed."""
        for members in self.plan:
            yield make_batch(self.texts, self.draw, members, pad_id, device)
