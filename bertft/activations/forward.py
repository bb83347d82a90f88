"""The hidden states of one model for one batch, read by temporary hooks.

Layer 0 is the input of the first block (the embedding output), layer k is the input of block k, and the last layer is
the model's last hidden state, after the final norm where there is one. These are the `hidden_states` of Hugging Face.
Only the drawn rows of the wanted layers are kept, and the forward pass ends at the last wanted layer.

A model whose first blocks equal those of the base does not need to run them: it can start from a `Prefix`, which was
read from the base.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertft.activations.batches import Batch
from bertft.checkpoints.anatomy import block_stack
from bertft.errors import CheckpointError


class Prefix(NamedTuple):
    """The output of the blocks below `layer` for one batch: the full hidden states, (b, t, d)."""

    layer: int
    hidden: Tensor
    n_outputs: int | None  # the length of the tuple a block returns, None where it returns the bare tensor


@dataclass
class Reading:
    """What was read from one model for one batch: the drawn rows, (r, d), and the prefixes, both by layer."""

    rows: dict[int, Tensor] = field(default_factory=dict)
    prefixes: dict[int, Prefix] = field(default_factory=dict)


class _LastLayerReached(Exception):  # noqa: N818 -- a signal, not an error
    """Ends a forward pass when the remaining blocks are not needed."""


@torch.inference_mode()
def read_layers(
    model: Any,
    batch: Batch,
    layers: Collection[int],
    *,
    prefix_layers: Collection[int] = (),
    prefix: Prefix | None = None,
) -> Reading:
    """Run `model` on `batch`; return the drawn rows of `layers` and the full hidden states of `prefix_layers`.

    With `prefix`, the blocks below prefix.layer are skipped and block prefix.layer starts from prefix.hidden; all
    layers must then be above prefix.layer. Raises `CheckpointError` where hidden states are not (batch, token,
    dimension).

    Source: Merchant et al. 2020, section 5.1.
    """
    blocks = block_stack(model)
    reading = Reading()
    block_outputs: list[int | None] = [None]

    def keep(layer: int, hidden: Tensor) -> None:
        if hidden.shape[:-1] != batch.input_ids.shape:
            raise CheckpointError(
                f"{type(model).__name__}: hidden layer {layer} has shape {tuple(hidden.shape)}, expected (batch, "
                f"token, dimension) for {tuple(batch.input_ids.shape)} tokens; this architecture is not supported"
            )
        if layer in layers:
            reading.rows[layer] = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.rows)
        if layer in prefix_layers:
            reading.prefixes[layer] = Prefix(layer, hidden, block_outputs[0])

    def note_outputs(_block: nn.Module, _inputs: object, outputs: object) -> None:
        block_outputs[0] = len(outputs) if isinstance(outputs, tuple) else None

    last = max([*layers, *prefix_layers])
    with ExitStack() as temporary:
        for layer in sorted({*layers, *prefix_layers} - {len(blocks)}):
            hook = _reader(layer, keep, is_last=layer == last)
            temporary.enter_context(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
        if prefix_layers:
            temporary.enter_context(blocks[0].register_forward_hook(note_outputs))
        if prefix is not None:
            temporary.enter_context(_resumed(blocks, prefix))
        try:
            outputs = model(**_arguments(model, batch))
        except _LastLayerReached:
            return reading
    if last == len(blocks):
        keep(last, outputs[0])
    return reading


def _reader(layer: int, keep: Callable[[int, Tensor], None], *, is_last: bool) -> Callable[..., None]:
    def read(_block: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        keep(layer, _hidden_states(arguments, named))
        if is_last:
            raise _LastLayerReached

    return read


@contextmanager
def _resumed(blocks: nn.ModuleList, prefix: Prefix) -> Iterator[None]:
    """Skip the blocks below the prefix, and pass the prefix to block `prefix.layer`, within the context.

    The skipped blocks return their input. They stay in the list, because models look up masks and positions by the
    index and the attributes of a block.
    """

    def pass_over(*arguments: Any, **named: Any) -> Any:
        hidden = _hidden_states(arguments, named)
        return hidden if prefix.n_outputs is None else (hidden, *[None] * (prefix.n_outputs - 1))

    def inject(_block: nn.Module, arguments: Sequence[Any], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if arguments:
            return (prefix.hidden, *arguments[1:]), named
        return (), {**named, "hidden_states": prefix.hidden}

    passed = list(blocks)[: prefix.layer]
    own = [vars(block).get("forward") for block in passed]
    with blocks[prefix.layer].register_forward_pre_hook(inject, prepend=True, with_kwargs=True):
        try:
            for block in passed:
                block.forward = pass_over
            yield
        finally:
            for block, forward in zip(passed, own, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward


def _hidden_states(arguments: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    hidden: Tensor = arguments[0] if arguments else named["hidden_states"]
    return hidden


def _arguments(model: Any, batch: Batch) -> dict[str, Any]:
    """Return the inputs that this model takes; token types only for models with several of them."""
    parameters = inspect.signature(model.forward).parameters
    arguments: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "token_type_ids" in parameters and (getattr(model.config, "type_vocab_size", None) or 0) > 1:
        arguments["token_type_ids"] = batch.token_type_ids
    if "use_cache" in parameters:
        arguments["use_cache"] = False
    return arguments
