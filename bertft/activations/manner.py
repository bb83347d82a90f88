"""How the hidden states of a model can be read: asked of the model itself, once, on a few short texts.

Most transformers run their blocks once each, in order, on (batch, token, dimension), and mask padding exactly. Some
share one block, cut sequences into windows, or call a block in a way that hooks do not see; some mix padding, or the
other texts of a batch, into the hidden states. No config says so, and new architectures come with every version of
transformers.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertft.activations.batches import Batch, Grouping
from bertft.activations.forward import first_argument, read_layers, returned_states, run, takes
from bertft.checkpoints.anatomy import block_stack, embedding_rows, n_layers
from bertft.checkpoints.checkpoint import Checkpoint, length_limit, pad_id
from bertft.checkpoints.settings import special_ids
from bertft.errors import CheckpointError

_LENGTH = 11
"""Tokens of the longest text. The number is prime, so that no window of a model divides it."""


class Manner(NamedTuple):
    """How a model is read.

    by_hooks: hooks on its blocks see all hidden layers; otherwise the model returns them itself, which is slower.
    grouping: which texts may share a batch.
    """

    by_hooks: bool = True
    grouping: Grouping = Grouping.PADDED

    def notes(self, name: str) -> Iterable[str]:
        """Yield notes on the model `name` for readers of its numbers."""
        if self.grouping is Grouping.ONE_LENGTH:
            yield f"{name}: its hidden states depend on padding, so only texts of one length are read together"
        elif self.grouping is Grouping.ALONE:
            yield f"{name}: its hidden states depend on the other texts of a batch, so each text is read alone"


_KNOWN: WeakKeyDictionary[PreTrainedModel, tuple[tuple[object, ...], Manner]] = WeakKeyDictionary()


def manner_of(checkpoint: Checkpoint) -> Manner:
    """Return how a model is to be read; the first call for a model runs it on a few short texts.

    The model is not changed, and torch's generators are not advanced. Raises `CheckpointError` for a model that cannot
    run on text alone, whose hidden states cannot be read layer by layer, or differ from run to run.
    """
    model = checkpoint.model
    setup = model.dtype, model.device, getattr(model.config, "_attn_implementation", None)
    known = _KNOWN.get(model)
    if known is None or known[0] != setup:
        known = _KNOWN[model] = setup, _Trial(checkpoint).manner()
    return known[1]


def resumes(checkpoint: Checkpoint, layer: int) -> bool:
    """Return whether the blocks from `layer` on compute the same when those below are skipped.

    In T5, for example, the first block also computes what all blocks add to their attention.
    """
    trial = _Trial(checkpoint)
    layers = range(layer + 1, n_layers(checkpoint.model) + 1)
    try:
        with trial.generators():
            whole = read_layers(trial.model, trial.padded, layers, prefix_layers=[layer])
            rest = read_layers(trial.model, trial.padded, layers, prefix=whole.prefixes[layer])
    except CheckpointError:
        return False
    return all(_equal(whole.rows[one], rest.rows[one]) for one in layers)


class _Trial:
    """A copy of a model that shares its tensors, and short texts to run it on."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        given = checkpoint.model
        self.name = checkpoint.name
        self.depth = n_layers(given)
        # Models may change when they run: they install hooks, or replace their attention for short texts.
        tensors = {id(tensor): tensor for tensor in itertools.chain(given.parameters(), given.buffers())}
        self.model = copy.deepcopy(given, tensors).train(False)
        # Those who watch a model with hooks of their own are not told of this run.
        for module in self.model.modules():
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
        self._pad_id = pad_id(checkpoint)
        longest = max(1, min(_LENGTH, length_limit(checkpoint)))
        shortest = max(1, longest // 2)
        tokens = _tokens(checkpoint, longest + 2 * shortest)
        self.long, self.short = tokens[:longest], tokens[longest : longest + shortest]
        self.other = tokens[longest + shortest :]
        self.padded = self.batch(self.long, self.short)

    def batch(self, *texts: Sequence[int]) -> Batch:
        """Return texts as a batch whose drawn tokens are all tokens, padding excluded."""
        longest = max(map(len, texts))
        ids = np.full((len(texts), longest), self._pad_id)
        mask = np.zeros((len(texts), longest), dtype=np.int64)
        for number, text in enumerate(texts):
            ids[number, : len(text)], mask[number, : len(text)] = text, 1
        device = self.model.device
        found = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
        rows = np.flatnonzero(mask)
        return Batch(*found, torch.zeros_like(found[0]), torch.from_numpy(rows).to(device), rows // longest)

    def generators(self) -> Any:
        """Return a context at whose end torch's generators are as they were at its beginning."""
        return torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else [])

    def manner(self) -> Manner:
        """Run the model and return how it is to be read."""
        with self.generators():
            by_hooks, layers = self._layers()
            of_short = torch.from_numpy(self.padded.sentences == 1)
            padded = [rows[of_short.to(rows.device)] for rows in layers]
            return Manner(by_hooks, self._grouping(padded, by_hooks=by_hooks))

    @torch.inference_mode()
    def _layers(self) -> tuple[bool, list[Tensor]]:
        """Return whether hooks see the hidden layers, and the layers of the padded batch, (tokens, d) each."""
        model, batch = self.model, self.padded
        seen: list[tuple[int, Any]] = []
        with ExitStack() as temporary:
            try:
                blocks: nn.ModuleList | tuple[()] = block_stack(model)
                why = ""
            except CheckpointError as error:
                blocks, why = (), str(error)
            for number, block in enumerate(blocks):
                hook = _noting(number, seen)
                temporary.enter_context(block.register_forward_pre_hook(hook, with_kwargs=True))
            more = {"output_hidden_states": True} if takes(model, "output_hidden_states") else {}
            outputs = run(model, batch, **more)
        hooked = None
        shape = batch.input_ids.shape
        if blocks:
            states = [*(hidden for _, hidden in seen), outputs[0]]
            fitting = all(isinstance(state, Tensor) and state.shape[:-1] == shape for state in states)
            if [number for number, _ in seen] == list(range(self.depth)) and fitting:
                hooked = states
            else:
                why = f"its {self.depth} blocks do not run once each, in order, on (batch, token, dimension)"
        try:
            returned = returned_states(model, outputs, batch)
        except CheckpointError as error:
            if hooked is None:
                raise CheckpointError(
                    f"{self.name}: {type(model).__name__} cannot be read layer by layer: {why}, and "
                    f"{str(error).partition(': ')[2]}; use a model of another architecture"
                ) from error
            returned = None
        by_hooks = hooked is not None and (
            returned is None or all(_equal(*pair) for pair in zip(hooked, returned, strict=True))
        )
        chosen = hooked if by_hooks else returned
        assert chosen is not None
        return by_hooks, [state.reshape(-1, state.shape[-1])[batch.rows] for state in chosen]

    def _grouping(self, padded: Sequence[Tensor], *, by_hooks: bool) -> Grouping:
        """Return which texts may share a batch; `padded` are the layers of the short text beside a longer one."""
        alone = self._first(self.batch(self.short), by_hooks=by_hooks)
        if not all(bool(torch.isfinite(rows).all()) for rows in alone) or _close(alone, padded):
            return Grouping.PADDED
        if not _close(alone, self._first(self.batch(self.short), by_hooks=by_hooks)):
            raise CheckpointError(
                f"{self.name}: two runs of {type(self.model).__name__} on the same text give different hidden states; "
                "set the seed that its config.json offers (such as hash_seed), or use a model of another architecture"
            )
        pair = self._first(self.batch(self.short, self.other), by_hooks=by_hooks)
        return Grouping.ONE_LENGTH if _close(alone, pair) else Grouping.ALONE

    def _first(self, batch: Batch, *, by_hooks: bool) -> list[Tensor]:
        """Return all layers of the first text of a batch, (tokens, d) each."""
        rows = read_layers(self.model, batch, range(self.depth + 1), by_hooks=by_hooks).rows
        return [rows[layer][: len(self.short)] for layer in range(self.depth + 1)]


def _noting(number: int, seen: list[tuple[int, Any]]) -> Any:
    def note(_block: nn.Module, arguments: Sequence[Any], named: dict[str, Any]) -> None:
        hidden = first_argument(arguments, named)
        # A copy, because a block may write to its input.
        seen.append((number, hidden.clone() if isinstance(hidden, Tensor) else hidden))

    return note


def _tokens(checkpoint: Checkpoint, count: int) -> list[int]:
    """Return ids of tokens from the whole vocabulary, without those that have a role."""
    rows = embedding_rows(checkpoint.model) or len(checkpoint.tokenizer)
    roles = {*special_ids(checkpoint.model.config), *checkpoint.tokenizer.all_special_ids}
    spread = dict.fromkeys(number * rows // (4 * count) for number in range(4 * count))
    words = [token for token in spread if token not in roles] or [0]
    step = max(1, len(words) // count)
    return list(itertools.islice(itertools.cycle(words[::step]), count))


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Return whether the rows of all layers are equal up to rounding."""
    for one, other in zip(ours, theirs, strict=True):
        tolerance = torch.finfo(one.dtype).eps ** 0.5
        one, other = one.double(), other.double()
        if not bool(((one - other).norm(dim=-1) <= tolerance * one.norm(dim=-1)).all()):
            return False
    return True


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors are equal, bit for bit."""
    same = ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return same and torch.allclose(ours, theirs, rtol=0, atol=0, equal_nan=True)
