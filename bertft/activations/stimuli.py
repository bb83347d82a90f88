"""What the models are shown of a corpus: the drawn sentences as tokens, the drawn tokens among them, the batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertft.activations.batches import Batch, make_batch, padding_share, plan_batches
from bertft.activations.encode import TokenisedTexts, tokenise
from bertft.activations.sampling import Draw, draw_sentences, draw_tokens
from bertft.data import Corpus, Example
from bertft.errors import DataError


@dataclass(frozen=True)
class Stimuli:
    """The drawn sentences of a corpus, their tokens, the drawn tokens, and the sentences of each batch.

    `notes` says what a reader of the numbers should know: tokens that were asked for and are not there, texts cut.
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
    ) -> Stimuli:
        """Draw from a corpus, see `bertft.score`; raises `DataError` where there are too few tokens to compare."""
        chosen = draw_sentences(len(corpus.examples), sentences, seed)
        examples = tuple(corpus.examples[index] for index in chosen)
        texts = tokenise(examples, tokenizer, max_length)
        draw = draw_tokens(texts, tokens, seed, special_tokens=special_tokens)
        if draw.n_tokens < 3:
            raise DataError(
                f"{corpus.name}: {draw.n_tokens} tokens in {len(examples)} sentences; at least 3 are needed to "
                "compare pairs of tokens: give more text"
            )
        notes = []
        if tokens is not None and draw.n_tokens < tokens:
            more = "; a larger number of sentences gives more" if len(examples) < len(corpus.examples) else ""
            notes.append(
                f"{corpus.name}: {tokens} tokens were asked for, the {len(examples)} sentences have {draw.n_tokens}, "
                f"and all were used{more}"
            )
        if texts.n_truncated:
            notes.append(
                f"{corpus.name}: {texts.n_truncated} of {len(examples)} texts were longer than {max_length} tokens "
                "and were cut"
            )
        # Sentences without a drawn token are not run.
        plan = plan_batches(texts.lengths, np.unique(draw.sentences), batch_tokens)
        return cls(corpus, examples, texts, draw, plan, tuple(notes))

    @property
    def padding(self) -> float:
        """The part of the computed token places that is padding."""
        return padding_share(self.texts.lengths, self.plan)

    def batches(self, pad_id: int, device: torch.device) -> Iterator[Batch]:
        """The batches in order, each made when it is asked for."""
        for members in self.plan:
            yield make_batch(self.texts, self.draw, members, pad_id, device)
