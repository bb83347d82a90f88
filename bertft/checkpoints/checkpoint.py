"""`Checkpoint`: a model with its tokenizer, its name and the hash of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LONGEST = 2**31 - 1  # stands for "no limit", which transformers writes as 10^30


@dataclass(frozen=True)
class Checkpoint:
    """A model body in evaluation mode with its tokenizer.

    `name` is for display: the folder's name or the hub's. `content_hash` is the sha256 over the names, sizes and bytes
    of `config.json` and the weight files, so it tells a truncated config from a whole one, and does not depend on the
    dtype or device asked for; that of an adapter covers its base too. `drawn` names the tensors that the files lack,
    which can only be the pooler's. `folder` is where the files were found, and `base` is the checkpoint that an adapter
    was merged into.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    content_hash: str
    drawn: frozenset[str] = frozenset()
    folder: Path | None = None
    base: Checkpoint | None = None


def length_limit(checkpoint: Checkpoint) -> int:
    """The most tokens the model and its tokenizer take, special ones included."""
    limit = getattr(checkpoint.model.config, "max_position_embeddings", None) or _LONGEST
    for name, module in checkpoint.model.named_modules():
        # RoBERTa and its kin count positions from the padding token's number + 1.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit -= module.padding_idx + 1
    return int(min(limit, checkpoint.tokenizer.model_max_length, _LONGEST))


def pad_id(checkpoint: Checkpoint) -> int:
    """The number that fills up shorter sentences of a batch: the model's own, the tokenizer's, or else 0."""
    found = checkpoint.model.config.pad_token_id
    return int((checkpoint.tokenizer.pad_token_id or 0) if found is None else found)
