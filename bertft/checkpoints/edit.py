"""Models derived from a checkpoint: with a task head, with frozen or removed blocks, or with random weights."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from bertft.checkpoints.anatomy import FINAL_NORMS, block_stack, find_body, find_stack, n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.compare import computation
from bertft.checkpoints.files import first_line
from bertft.checkpoints.load import quiet_transformers
from bertft.checkpoints.settings import block_count, cuts, text_settings
from bertft.errors import CheckpointError, OptionError

POOLERS = ("keep", "reset")
"""What `truncate` can do with the pooler."""


def randomised(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Return a randomly initialised model of the same config, as before pre-training, with the same tokenizer.

    It serves as a baseline for probes, which then depend only on the words and their order. The state of torch's own
    generators does not change. `content_hash` is the sha256 of the config and the drawn weights. Raises `OptionError`
    for a negative seed.

    Source: Chrupała and Alishahi 2019.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise OptionError(f"seed is {seed!r}; give a whole number that is at least 0")
    given = checkpoint.model
    # Weights are drawn on the CPU in float32, so a seed gives the same weights on every device and in every dtype. On
    # another kind of processor the last bits differ: torch computes logarithms and cosines by its vector instructions.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), quiet_transformers():
        torch.default_generator.manual_seed(seed)
        model = type(given)(copy.deepcopy(given.config))
    digest = hashlib.sha256(json.dumps(computation(model, n_layers(model)), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().data)
    model.train(False).requires_grad_(False).to(device=given.device, dtype=given.dtype)
    return Checkpoint(f"{checkpoint.name}-random-{seed}", model, checkpoint.tokenizer, digest.hexdigest())


def with_head(checkpoint: Checkpoint, head: Any, **settings: Any) -> PreTrainedModel:
    """Return a new trainable model: the checkpoint's body with a head drawn from torch's global generator.

    head: an auto class such as `AutoModelForSequenceClassification`.  settings: fields of the config, such as
    `id2label`.  A pooler that the checkpoint's files lack is drawn as well. The checkpoint is not changed. Raises
    `CheckpointError` where transformers has no such head for this body.

    >>> from transformers import AutoModelForQuestionAnswering
    >>> with_head(load_checkpoint("bert-base-cased"), AutoModelForQuestionAnswering)  # doctest: +SKIP
    """
    given = checkpoint.model
    config = copy.deepcopy(given.config)
    for name, value in settings.items():
        setattr(config, name, value)
    try:
        with torch.device("cpu"), quiet_transformers():
            model = head.from_config(config, dtype=given.dtype)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint.name}: {head.__name__} has no head for a {config.model_type} ({first_line(error)}); "
            "use an encoder of another architecture"
        ) from error
    body = find_body(model)
    if type(body) is not type(given):
        raise CheckpointError(
            f"{checkpoint.name}: {type(model).__name__} is built on a {type(body).__name__}, but the checkpoint is a "
            f"{type(given).__name__}; use an encoder of another architecture"
        )
    weights = {name: tensor for name, tensor in given.state_dict().items() if name not in checkpoint.drawn}
    # Some heads are built without a pooler.
    body.load_state_dict({name: weights[name] for name in weights.keys() & body.state_dict().keys()}, strict=False)
    model.name_or_path = given.name_or_path
    assert isinstance(model, PreTrainedModel)
    model.to(given.device)  # type: ignore[arg-type]
    return model


def freeze(model: PreTrainedModel, last: int) -> None:
    """Freeze the embeddings and blocks 0 to `last` for training: no gradients and no dropout.

    `last` = -1 freezes nothing. The task head, the pooler and the final norm remain trainable. Frozen modules switch to
    evaluation mode whenever they run, because trainers put the whole model into training mode at every step. Raises
    `OptionError` for a block that the model does not have, and `CheckpointError` where `block_stack` finds no blocks.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=5))
    >>> freeze(model, 1)
    >>> [block.attention.self.query.weight.requires_grad for block in model.encoder.layer]
    [False, False, True]

    Source: Merchant et al. 2020, section 5.2.
    """
    if last == -1:
        return
    body = find_body(model)
    path, blocks = find_stack(body)
    if not 0 <= last < len(blocks):
        raise OptionError(
            f"cannot freeze up to block {last}: this model has blocks 0 to {len(blocks) - 1}; "
            "give one of these, or -1 to freeze nothing"
        )
    for module in [*_before_blocks(body, path), *blocks[: last + 1]]:
        # On a module, only the method requires_grad_ has an effect; it sets the attribute of each parameter.
        module.requires_grad_(False)
        module.register_forward_pre_hook(_evaluate)


def truncate(model: PreTrainedModel, blocks: int, *, pooler: str = "keep") -> None:
    """Remove all but the first `blocks` blocks of the model, and adapt its config, so that it can be saved and loaded.

    The pooler was trained on the last block and now reads another block: `keep` leaves its weights, `reset` draws them
    again from torch's global generator. Raises `OptionError` where the model has fewer blocks or no pooler to reset,
    and `CheckpointError` where `block_stack` finds no blocks, or where no config describes what remains; the model
    is then as it was.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=5))
    >>> truncate(model, 2)
    >>> len(model.encoder.layer), model.config.num_hidden_layers
    (2, 2)

    Source: Merchant et al. 2020, section 5.2.
    """
    body = find_body(model)
    stack = block_stack(body)
    depth = len(stack)
    if not 1 <= blocks <= depth:
        raise OptionError(f"cannot keep {blocks} blocks: this model has {depth}; give a number from 1 to {depth}")
    if pooler not in POOLERS:
        raise OptionError(f"unknown pooler option {pooler!r}; choose one of {', '.join(POOLERS)}")
    old = getattr(body, "pooler", None)
    config = _config_of_first_blocks(body, blocks)
    if pooler == "reset":
        if old is None:
            raise OptionError(f"{type(model).__name__} has no pooler to reset; use keep")
        with torch.device("cpu"):
            new = type(old)(body.config)
        new.apply(body._init_weights)
        body.pooler = new.to(device=body.device, dtype=body.dtype)
    del stack[blocks:]
    # A model with a head and its body usually share one config object, but need not.
    texts = [text_settings(module.config) for module in model.modules() if isinstance(module, PreTrainedModel)]
    for text in {id(text): text for text in texts}.values():
        if block_count(text) == depth:
            for name, value in config.items():
                setattr(text, name, copy.deepcopy(value))


def _config_of_first_blocks(body: PreTrainedModel, blocks: int) -> dict[str, Any]:
    """Return the settings with which the config of a model describes its first `blocks` blocks.

    They are tried: the config is written and read as a file would be, and a model built from it must have the tensors
    that remain. Raises `CheckpointError` where no settings pass.
    """
    path, _ = find_stack(body)
    wanted = {
        name: shape
        for name, shape in _shapes(body).items()
        if not name.startswith(f"{path}.") or int(name.removeprefix(f"{path}.").partition(".")[0]) < blocks
    }
    why = ""
    for settings in cuts(text_settings(body.config), blocks):
        config = copy.deepcopy(body.config)
        try:
            for name, value in settings.items():
                setattr(text_settings(config), name, value)
            config = type(config).from_dict(json.loads(config.to_json_string()))
            with torch.device("meta"), torch.random.fork_rng(devices=[]), quiet_transformers():
                found = _shapes(type(body)(config))
        except Exception as error:  # each config has checks of its own
            why = why or f"{type(error).__name__}: {first_line(error)}"
            continue
        if found == wanted:
            return settings
        why = why or "a model built from it has other tensors"
    raise CheckpointError(
        f"{type(body).__name__}: its config cannot be made to describe {blocks} blocks ({why}); nothing was changed; "
        "use a model of another architecture, or train it whole"
    )


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that is saved, without those of poolers, which heads may leave out."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("pooler.")}


def _before_blocks(body: PreTrainedModel, path: str) -> Iterator[torch.nn.Module]:
    """Yield the modules that act before the first block: the siblings of the modules on the path to the blocks."""
    module: torch.nn.Module = body
    for step in path.split("."):
        for name, child in module.named_children():
            if name not in {step, "pooler", *FINAL_NORMS}:
                yield child
        module = module.get_submodule(step)


def _evaluate(module: torch.nn.Module, _inputs: object) -> None:
    module.train(False)
