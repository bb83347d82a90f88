"""Comparison of two checkpoints: do their tokenizers agree, and up to which layer are their hidden states the same?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from bertft.checkpoints.anatomy import FINAL_NORMS, find_stack, n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.settings import first_blocks
from bertft.errors import CheckpointError

# Config fields that do not change what a body computes in evaluation mode; any other difference counts.
_HARMLESS_FIELDS = frozenset(
    {
        *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "biaffine"),
        *("output_hidden_states", "output_attentions", "return_dict", "use_cache", "gradient_checkpointing"),
        *("initializer_range", "bos_token_id", "eos_token_id", "num_hidden_layers", "n_layer", "n_layers"),
    }
)
_HARMLESS_WORDS = ("drop", "classifier", "summary")

_SAME_VOCABULARY = (
    "compare checkpoints with the same vocabulary, or, if the tuned model was trained with the base's tokenizer, "
    "copy the base's tokenizer files into its folder"
)


def shared_depth(base: PreTrainedModel, tuned: PreTrainedModel) -> int:
    """Return the last hidden layer up to which two models have the same weights and computation; -1 for none.

    A result of 0 means that everything before the blocks is equal, and k that the first k blocks are equal too. Weights
    and buffers are compared bit for bit, and configs field by field; an unknown difference counts as one that matters.

    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=5))
    >>> shared_depth(model, model)
    3
    """
    if type(base) is not type(tuned):
        return -1
    last = min(n_layers(base), n_layers(tuned))
    if computation(base, last) != computation(tuned, last):
        return -1
    base_parts, tuned_parts = _parts(base), _parts(tuned)
    if not _equal(base_parts.before, tuned_parts.before):
        return -1
    depth = 0
    while depth < last and _equal(base_parts.block(depth), tuned_parts.block(depth)):
        depth += 1
    # The last hidden layer includes the final norm, so it is shared only where depth and final norm are equal.
    if depth == last and (n_layers(base) != n_layers(tuned) or not _equal(base_parts.after, tuned_parts.after)):
        depth -= 1
    return depth


def check_same_tokenizer(base: Checkpoint, tuned: Checkpoint, sample_texts: Iterable[str]) -> None:
    """Raise `CheckpointError` unless both tokenizers have the same vocabulary and encode the sample texts alike.

    Tokens that were added to one of the vocabularies, as `add_tokens` does, may be absent in the other. Sample texts
    in which one occurs are not compared here; see `check_added_tokens`.
    """
    _check_same_vocabulary(base, tuned)
    extra = set(added_tokens(base, tuned).values())
    for text in sample_texts:
        # Pairs have their own template, which a single text does not use.
        for texts in ((text,), (text, text)):
            encoded = [checkpoint.tokenizer(*texts, verbose=False) for checkpoint in (base, tuned)]
            if extra and any(not extra.isdisjoint(encoding["input_ids"]) for encoding in encoded):
                continue
            if encoded[0].data != encoded[1].data:
                first, second = (
                    " ".join(checkpoint.tokenizer.convert_ids_to_tokens(encoding["input_ids"]))[:80]
                    for checkpoint, encoding in zip((base, tuned), encoded, strict=True)
                )
                raise CheckpointError(
                    f"the tokenizers of {base.name} and {tuned.name} encode {text[:60]!r} differently: "
                    f"{first!r} and {second!r}; {_SAME_VOCABULARY}"
                )


def _check_same_vocabulary(base: Checkpoint, tuned: Checkpoint) -> None:
    """Raise `CheckpointError` unless the vocabularies differ at most by tokens that were added to one of them."""
    ours, theirs = base.tokenizer.get_vocab(), tuned.tokenizer.get_vocab()
    added = added_tokens(base, tuned)
    differing = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
    if unexplained := [token for token in differing if token not in added]:
        token = min(unexplained)
        raise CheckpointError(
            f"the tokenizers of {base.name} ({len(ours)} tokens) and {tuned.name} ({len(theirs)} tokens) differ: "
            f"token {token!r} is {ours.get(token, 'absent')} in one and {theirs.get(token, 'absent')} in the other; "
            f"{_SAME_VOCABULARY}"
        )


def added_tokens(base: Checkpoint, tuned: Checkpoint) -> dict[str, int]:
    """Return the tokens, with their ids, that were added to one of two vocabularies and are absent in the other.

    An added token whose id stands for another token in the other vocabulary is not among them.
    """
    found: dict[str, int] = {}
    for one, other in ((base, tuned), (tuned, base)):
        known = other.tokenizer.get_vocab()
        taken = set(known.values())
        for token, index in one.tokenizer.get_added_vocab().items():
            if token not in known and index not in taken:
                found[token] = index
    return found


def check_added_tokens(base: Checkpoint, tuned: Checkpoint, texts: Iterable[str]) -> str | None:
    """Raise `CheckpointError` where a text contains a token that only one of two checkpoints has.

    Returns a note for readers if there are such tokens and no text uses them, or else None.
    """
    extra = added_tokens(base, tuned)
    if not extra:
        return None
    names = {index: token for token, index in extra.items()}
    for text in texts:
        for checkpoint in (base, tuned):
            used = [names[index] for index in checkpoint.tokenizer(text, verbose=False)["input_ids"] if index in names]
            if used:
                other = tuned if checkpoint is base else base
                raise CheckpointError(
                    f"{checkpoint.name} has the token {used[0]!r}, which {other.name} lacks, and it occurs in "
                    f"{text[:60]!r}; give texts that contain none of the added tokens"
                )
    several = f"{len(extra)} tokens were" if len(extra) > 1 else "1 token was"
    return (
        f"{several} added to the vocabulary of {base.name} or {tuned.name} and not of the other "
        f"(such as {min(extra)!r}); the texts contain none of them"
    )


@dataclass(frozen=True)
class _Parts:
    """The tensors of a model before the blocks, in each block, and after the last block; poolers are left out."""

    before: Mapping[str, torch.Tensor]
    blocks: tuple[Mapping[str, torch.Tensor], ...]
    after: Mapping[str, torch.Tensor]

    def block(self, index: int) -> Mapping[str, torch.Tensor]:
        # A model without a stack has all its weights in `before`, so its blocks cannot differ further.
        return self.blocks[index] if self.blocks else {}


def _parts(model: PreTrainedModel) -> _Parts:
    outside = {name: tensor for name, tensor in _tensors(model).items() if not name.startswith("pooler.")}
    try:
        path, stack = find_stack(model)
    except CheckpointError:
        return _Parts(outside, (), {})
    final_norms = tuple(f"{path.rpartition('.')[0]}.{norm}.".removeprefix(".") for norm in FINAL_NORMS)
    before: dict[str, torch.Tensor] = {}
    after: dict[str, torch.Tensor] = {}
    for name, tensor in outside.items():
        if name.startswith(final_norms):
            after[name] = tensor
        elif not name.startswith(f"{path}."):
            before[name] = tensor
    return _Parts(before, tuple(_tensors(block) for block in stack), after)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(_equal_tensors(ours[name], theirs[name]) for name in ours)


def _equal_tensors(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.device == theirs.device and torch.equal(ours, theirs)


def computation(model: PreTrainedModel, blocks: int) -> dict[str, Any]:
    """Return the config fields that can change what the first `blocks` blocks of the body compute."""
    depth = n_layers(model)
    fields = {
        name: first_blocks(name, value, depth, blocks)
        for name, value in model.config.to_dict().items()
        if name not in _HARMLESS_FIELDS and not any(word in name for word in _HARMLESS_WORDS)
    }
    return {**fields, "attention": model.config._attn_implementation}
