"""The class `Checkpoint`: a model with its tokenizer, its name and the hash of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertft.checkpoints.anatomy import embedding_rows
from bertft.checkpoints.settings import padding_id, position_limit

_LONGEST = 2**31 - 1  # used for "no limit", which transformers writes as 10^30


@dataclass(frozen=True)
class Checkpoint:
    """A model body in evaluation mode with its tokenizer.

    `name` is for display: the name of the folder, or the hub name. `content_hash` is the sha256 of the names, sizes and
    bytes of `config.json` and the weight files; for an adapter, also of its base. It does not depend on the dtype or
    the device. `drawn` names the tensors that the files lack and that were drawn at random, which can only be those of
    the pooler. `folder` is the folder of the files, and `base` the checkpoint that an adapter was merged into.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    content_hash: str
    drawn: frozenset[str] = frozenset()
    folder: Path | None = None
    base: Checkpoint | None = None


def length_limit(checkpoint: Checkpoint) -> int:
    """Return the largest number of tokens that model and tokenizer accept, special tokens included."""
    limit = position_limit(checkpoint.model.config) or _LONGEST
    for name, module in checkpoint.model.named_modules():
        # RoBERTa and related models number positions from the id of the padding token + 1.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit -= module.padding_idx + 1
    longest = checkpoint.tokenizer.model_max_length
    return int(min(limit, longest, _LONGEST)) if isinstance(longest, int | float) and longest >= 1 else limit


def pad_id(checkpoint: Checkpoint) -> int:
    """Return the id of the padding token: the model's own, or the tokenizer's, or 0.

    Padding is masked, so where there is no padding token, as in GPT-2, any token serves.
    """
    rows = embedding_rows(checkpoint.model)
    for found in (padding_id(checkpoint.model.config), checkpoint.tokenizer.pad_token_id):
        if isinstance(found, int) and found >= 0 and (rows is None or found < rows):
            return found
    return 0
