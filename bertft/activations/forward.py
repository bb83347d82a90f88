"""The hidden states of one model for one batch, read by temporary hooks or as the outputs of the model.

Layer 0 is the input of the first block (the embedding output), layer k is the input of block k, and the last layer is
the model's last hidden state, after the final norm where there is one. These are the `hidden_states` of Hugging Face.
By hooks, only the drawn rows of the wanted layers are kept, and the forward pass ends at the last wanted layer. Models
whose blocks hooks do not reach, see `bertft.activations.manner`, run whole and return all layers.

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
from bertft.checkpoints.anatomy import block_stack, n_layers
from bertft.checkpoints.files import first_line
from bertft.checkpoints.settings import setting
from bertft.errors import BertftError, CheckpointError, out_of_memory


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
    by_hooks: bool = True,
) -> Reading:
    """Run `model` on `batch`; return the drawn rows of `layers` and the full hidden states of `prefix_layers`.

    With `prefix`, the blocks below prefix.layer are skipped and block prefix.layer starts from prefix.hidden; all
    layers must then be above prefix.layer. Without `by_hooks` the model returns its hidden states itself; prefixes are
    then neither read nor used. Raises `CheckpointError` where the model cannot run, where hidden states are not (batch,
    token, dimension), and where the blocks are not run once each, in order.

    Source: Merchant et al. 2020, section 5.1.
    """
    if not by_hooks:
        states = returned_states(model, run(model, batch, output_hidden_states=True), batch)
        return Reading({layer: _drawn(states[layer], batch) for layer in layers})
    blocks = block_stack(model)
    reading = Reading()
    called: list[int] = []
    block_outputs: list[int | None] = [None]

    def keep(layer: int, hidden: Any) -> None:
        called.append(layer)
        _check_shape(model, layer, hidden, batch)
        if layer in layers:
            reading.rows[layer] = _drawn(hidden, batch)
        if layer in prefix_layers:
            reading.prefixes[layer] = Prefix(layer, hidden, block_outputs[0])

    def note_outputs(_block: nn.Module, _inputs: object, outputs: object) -> None:
        block_outputs[0] = len(outputs) if isinstance(outputs, tuple) else None

    wanted = sorted({*layers, *prefix_layers})
    last = wanted[-1]
    with ExitStack() as temporary:
        for layer in wanted:
            if layer < len(blocks):
                hook = _reader(layer, keep, is_last=layer == last)
                temporary.enter_context(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
        if prefix_layers:
            temporary.enter_context(blocks[0].register_forward_hook(note_outputs))
        if prefix is not None:
            temporary.enter_context(_resumed(blocks, prefix))
        try:
            outputs = run(model, batch)
        except _LastLayerReached:
            outputs = None
    if outputs is not None and last == len(blocks):
        keep(last, outputs[0])
    if called != wanted:
        raise CheckpointError(
            f"{shown_name(model)}: the blocks of {type(model).__name__} do not run once each, in order: layers "
            f"{_listed(wanted)} were to be read, and {_listed(called)} were; this architecture cannot be read by hooks"
        )
    return reading


def run(model: Any, batch: Batch, **more: Any) -> Any:
    """Run a model on a batch and return its outputs; `more` are further arguments of its forward pass.

    Raises `CheckpointError` for whatever the model raises, except where memory runs out.
    """
    try:
        return model(**_arguments(model, batch), **more)
    except (_LastLayerReached, BertftError):
        raise
    except Exception as error:  # models refuse inputs with many types of error
        if out_of_memory(error):
            raise
        count, length = batch.input_ids.shape
        raise CheckpointError(
            f"{shown_name(model)}: {type(model).__name__} cannot run on {count} {'texts' if count > 1 else 'text'} of "
            f"{length} tokens ({type(error).__name__}: {first_line(error)}); {_advice(model)}"
        ) from error


def _advice(model: Any) -> str:
    """Return what to try with a model that cannot run."""
    parameters = inspect.signature(model.forward).parameters
    if others := [name for name in parameters if name in ("pixel_values", "input_features", "input_values")]:
        return f"it also takes {others[0]}; use a model of text, such as the text part of this one saved alone"
    if setting(model.config, "languages") and setting(model.config, "default_language") is None:
        return "set default_language in the config.json of the model to one of its languages"
    return (
        "if this names a setting, set it in the config.json of the model; else use a model that takes texts of any "
        "length"
    )


def returned_states(model: Any, outputs: Any, batch: Batch) -> tuple[Tensor, ...]:
    """Return the hidden states that a model gives for a batch when asked to, (b, t, d) for each layer.

    Raises `CheckpointError` unless there is one for the embeddings and one for each block.
    """
    states, depth = getattr(outputs, "hidden_states", None), n_layers(model)
    if not isinstance(states, tuple | list) or len(states) != depth + 1:
        given = f"{len(states)}" if isinstance(states, tuple | list) else "none"
        raise CheckpointError(
            f"{shown_name(model)}: {type(model).__name__} has {depth} blocks and should return {depth + 1} hidden "
            f"states, but returns {given}; this architecture cannot be read"
        )
    # Some models return what a pooler computes from the last hidden state instead of it.
    last = outputs[0] if _is_by_token(outputs[0], batch) else states[-1]
    states = (*states[:-1], last)
    for layer, state in enumerate(states):
        _check_shape(model, layer, state, batch)
    return states


def shown_name(model: Any) -> str:
    """Return the folder or hub name that a model was loaded from, or else its class."""
    return getattr(model, "name_or_path", "") or type(model).__name__


def takes(model: Any, name: str) -> bool:
    """Return whether the forward pass of a model takes an argument of this name."""
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def first_argument(arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Return the hidden states among the arguments of a block; None where they have another name."""
    return arguments[0] if arguments else named.get("hidden_states")


def _reader(layer: int, keep: Callable[[int, Any], None], *, is_last: bool) -> Callable[..., None]:
    def read(_block: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        keep(layer, first_argument(arguments, named))
        if is_last:
            raise _LastLayerReached

    return read


def _drawn(hidden: Tensor, batch: Batch) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.rows)


def _is_by_token(hidden: Any, batch: Batch) -> bool:
    return isinstance(hidden, Tensor) and hidden.is_floating_point() and hidden.shape[:-1] == batch.input_ids.shape


def _check_shape(model: Any, layer: int, hidden: Any, batch: Batch) -> None:
    if not _is_by_token(hidden, batch):
        found = f"has shape {tuple(hidden.shape)}" if isinstance(hidden, Tensor) else "is no tensor"
        raise CheckpointError(
            f"{type(model).__name__}: hidden layer {layer} {found}, expected (batch, token, dimension) for "
            f"{tuple(batch.input_ids.shape)} tokens; this architecture is not supported"
        )


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


@contextmanager
def _resumed(blocks: nn.ModuleList, prefix: Prefix) -> Iterator[None]:
    """Skip the blocks below the prefix, and pass the prefix to block `prefix.layer`, within the context.

    The skipped blocks return their input. They stay in the list, because models look up masks and positions by the
    index and the attributes of a block.
    """

    def pass_over(*arguments: Any, **named: Any) -> Any:
        hidden = first_argument(arguments, named)
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


def _arguments(model: Any, batch: Batch) -> dict[str, Any]:
    """Return the inputs that this model takes; token types only for models with several of them."""
    parameters = inspect.signature(model.forward).parameters
    arguments: dict[str, Any] = {"input_ids": batch.input_ids}
    if takes(model, "attention_mask"):
        arguments["attention_mask"] = batch.attention_mask
    if "token_type_ids" in parameters and (setting(model.config, "type_vocab_size") or 0) > 1:
        arguments["token_type_ids"] = batch.token_type_ids
    if "use_cache" in parameters:
        arguments["use_cache"] = False
    return arguments
