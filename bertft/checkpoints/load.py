"""Loading of checkpoints: the body of a model with its tokenizer, from a folder, a hub name or an adapter.

Checkpoints that would silently give wrong numbers are refused before any computation: weights that are missing and
would be drawn at random, a tokenizer that transformers would make up, and untrusted code or pickles. The files are
checked by `bertft.checkpoints.files` before transformers reads them, so that messages name the file.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from bertft.arrays import ALIGNMENT
from bertft.checkpoints.adapters import Adapter, find_adapter, merged
from bertft.checkpoints.anatomy import embedding_rows
from bertft.checkpoints.bounds import check_sizes
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.files import (
    as_typed,
    check_tokenizer_files,
    checked_config,
    checked_weights,
    encoder_class,
    encoder_decoder,
    first_line,
    has_tokenizer,
    hash_files,
    names_tokenizer_without_files,
    resolved,
)
from bertft.checkpoints.settings import text_settings
from bertft.checkpoints.tensor_files import readers_in
from bertft.checkpoints.tensor_names import bare, path_of_body
from bertft.errors import CheckpointError, OptionError
from bertft.options import DTYPES, device_name, one_of

_SAMPLE = "a word"
"""A text that every tokenizer of bytes or characters knows."""


def load_checkpoint(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    allow_pickle: bool = False,
    present: Iterable[Checkpoint] = (),
    lender: Checkpoint | None = None,
) -> Checkpoint:
    """Load the body of a model from a local folder or hub name, in evaluation mode, without task head and gradients.

    An adapter, as `peft` saves it, is merged into a copy of the base that its config names; the copy takes only the
    memory of the adapted weights in addition to the base. Its tokenizer is that of the adapter, or else that of the
    base. A base that is already in `present`, with the same folder or the same content, is not loaded again.

    A folder of weights alone, as `model.save_pretrained` writes it, is read with the tokenizer of `lender`, such as the
    checkpoint that it was fine-tuned from. It must be a model of the same type with at least as many embeddings.

    Weights are read from safetensors. With `allow_pickle`, `pytorch_model.bin` is read where there are none, with
    torch's weights-only unpickler. Raises `CheckpointError` where the folder or name is not a usable model, and
    `OptionError` for an unknown dtype or an unavailable device.

    >>> load_checkpoint("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.CheckpointError: no/such/folder: no such folder; ...
    """
    torch_dtype = getattr(torch, one_of("dtype", dtype, DTYPES))
    torch_device = present_device(device)
    folder = resolved(source, allow_pickle=allow_pickle)
    name = display_name(source)
    if (adapter := find_adapter(folder, allow_pickle=allow_pickle)) is not None:
        fitting = [found for found in present if (found.model.device, found.model.dtype) == (torch_device, torch_dtype)]
        base = _base_of(adapter, fitting, device=device, dtype=dtype, allow_pickle=allow_pickle)
        tokenizer = _load_tokenizer(folder) if has_tokenizer(folder) else base.tokenizer
        model = merged(adapter, base.model)
        _check_embedding_covers(folder, model, tokenizer)
        ours, theirs = model.get_parameter, base.model.get_parameter
        still_drawn = frozenset(key for key in base.drawn if torch.equal(ours(key), theirs(key)))
        content_hash = adapter.content_hash(base.content_hash)
        return Checkpoint(name, model, tokenizer, content_hash, still_drawn, folder.resolve(), base)
    config = checked_config(folder)
    weights = checked_weights(folder, allow_pickle=allow_pickle)
    with quiet_transformers():
        check_sizes(folder, config, weights)
    if lender is None or has_tokenizer(folder):
        check_tokenizer_files(folder)
        tokenizer = _load_tokenizer(folder)
    else:
        tokenizer = _lent_tokenizer(folder, config, lender)
    model, drawn = _load_body(folder, config, torch_dtype, weights)
    if lender is not None and tokenizer is lender.tokenizer:
        _check_as_many_embeddings(folder, model, lender)
    _check_embedding_covers(folder, model, tokenizer)
    # The cache of keys and values is used only for generation, and would keep every layer of every batch in memory.
    for settings in (model.config, text_settings(model.config)):
        settings.use_cache = False
    model.train(False).requires_grad_(False).to(torch_device)
    _align(model)
    return Checkpoint(name, model, tokenizer, _content_hash(folder, weights), drawn, folder.resolve())


def _lent_tokenizer(folder: Path, config: Mapping[str, Any], lender: Checkpoint) -> PreTrainedTokenizerBase:
    ours, theirs = config.get("model_type"), lender.model.config.model_type
    if ours != theirs:
        raise CheckpointError(
            f"{folder}: no tokenizer, and that of {lender.name} does not fit: one is a model of type {ours}, the other "
            f"of type {theirs}; save its own tokenizer to the folder with tokenizer.save_pretrained"
        )
    return lender.tokenizer


def _check_as_many_embeddings(folder: Path, model: PreTrainedModel, lender: Checkpoint) -> None:
    ours, theirs = embedding_rows(model), embedding_rows(lender.model)
    if ours is not None and theirs is not None and ours < theirs:
        raise CheckpointError(
            f"{folder}: no tokenizer, and that of {lender.name} does not fit: the model has {ours} embeddings, "
            f"{lender.name} has {theirs}; save its own tokenizer to the folder with tokenizer.save_pretrained"
        )


def _check_embedding_covers(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = embedding_rows(model)
    token, index = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if rows is not None and index >= rows:
        raise CheckpointError(
            f"{folder}: the tokenizer gives {token!r} the id {index}, but the model has {rows} embeddings; "
            "the tokenizer belongs to another model, or the embeddings were not resized"
        )


def display_name(source: str | Path) -> str:
    """Return a hub name, or the name of a folder as it was typed; `runs/mnli/seed-1/best` is `mnli/seed-1`."""
    if not Path(source).expanduser().is_dir():
        return str(source)
    folder = as_typed(source)
    if folder.name in ("best", "last") and folder.parent.name.startswith("seed-"):
        return "/".join(folder.parts[-3:-1]) + ("/last" if folder.name == "last" else "")
    return folder.name or str(folder)


def _base_of(
    adapter: Adapter, present: Iterable[Checkpoint], *, device: str, dtype: str, allow_pickle: bool
) -> Checkpoint:
    """Return the base of an adapter: one of the checkpoints present if it is the same, or else load it."""
    try:
        folder = resolved(adapter.base, allow_pickle=allow_pickle)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter.folder}: the base of this adapter was not found ({error}); "
            "set base_model_name_or_path in its adapter_config.json to the folder of the base"
        ) from None
    if find_adapter(folder, allow_pickle=allow_pickle) is not None:
        raise CheckpointError(
            f"{adapter.folder}: its base {adapter.base} is an adapter too; merge that adapter into its own base "
            "(merge_and_unload), save the full model, and set base_model_name_or_path to it"
        )
    known = [*present, *(found.base for found in present if found.base is not None)]
    for found in known:
        if found.folder == folder.resolve():
            return found
    if known:
        content_hash = _content_hash(folder, checked_weights(folder, allow_pickle=allow_pickle))
        for found in known:
            if found.content_hash == content_hash:
                return found
    return load_checkpoint(adapter.base, device=device, dtype=dtype, allow_pickle=allow_pickle)


def _content_hash(folder: Path, weights: list[Path]) -> str:
    return hash_files([folder / "config.json", *weights])


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers and tokenizers raise many types of error for unreadable files
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be loaded ({first_line(error)}); "
            "save it again with tokenizer.save_pretrained"
        ) from error
    if names_tokenizer_without_files(folder):
        known = set(tokenizer(_SAMPLE, add_special_tokens=False, verbose=False)["input_ids"])
        if not known - {tokenizer.unk_token_id}:
            raise CheckpointError(
                f"{folder}: to its {type(tokenizer).__name__}, which has no vocabulary file, every character of "
                f"{_SAMPLE!r} is unknown; save the tokenizer of the model with tokenizer.save_pretrained"
            )
    return tokenizer


def _load_body(
    folder: Path, config: Mapping[str, Any], dtype: torch.dtype, weights: Sequence[Path]
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Return the body, and the names of the pooler's tensors that the weights lack."""
    loader: Any = encoder_class(config) or AutoModel
    safetensors = weights[0].suffix == ".safetensors"
    options = {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        # A missing pooler is drawn at random and not used, but this must not advance the caller's generator.
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model, report = loader.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safetensors,
                weights_only=True,
                **options,  # other shapes are refused below, with the names of the tensors
            )
            names, missing = report["unexpected_keys"], _missing(report)
            if missing and (path := path_of_body(names, missing)) is not None:
                tensors = {bare(name).removeprefix(path): read() for name, read in readers_in(weights).items()}
                model, report = type(model).from_pretrained(None, config=model.config, state_dict=tensors, **options)
    except Exception as error:  # many types again; the cause stays attached
        # For a pickle that it refuses, torch's own message advises loading it with its code.
        reason = first_line(error) if safetensors else "the pickle contains more than tensors, or is damaged"
        raise CheckpointError(
            f"{folder}: transformers {transformers_version} cannot load this {config.get('model_type', 'model')}: "
            f"{reason}"
        ) from (error if safetensors else None)
    assert isinstance(model, PreTrainedModel)
    if loader is AutoModel and _is_encoder_decoder(model):
        raise CheckpointError(encoder_decoder(folder, config))
    drawn = frozenset(key for key in report["missing_keys"] if "pooler" in key.split("."))
    if missing := _missing(report):
        raise CheckpointError(
            f"{folder}: the weights lack {len(missing)} tensors of {type(model).__name__} (such as {missing[0]}); they "
            "would be drawn at random; the config and the weights belong to different models, or the file is incomplete"
        )
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{folder}: {name} has shape {list(found)} in the weights, but {list(wanted)} by the config; "
            "they belong to different models: save the model again with save_pretrained"
        )
    return model, drawn


def _is_encoder_decoder(model: PreTrainedModel) -> bool:
    if model.config.is_encoder_decoder:
        return True
    # The config of a decoder that was saved alone says no, though its type has two stacks of blocks.
    try:
        return bool(type(model.config)().is_encoder_decoder)
    except Exception:  # a config without default values
        return False


def _missing(report: Mapping[str, Any]) -> list[str]:
    """Return the tensors that the weights lack, but for the pooler's."""
    return sorted(name for name in report["missing_keys"] if "pooler" not in name.split("."))


def _align(model: PreTrainedModel) -> None:
    """Copy weights in a memory-mapped file to memory of torch's own, which begins at a multiple of 64 bytes.

    The position of a tensor in a file depends on the length of the names before it, and libraries choose their code by
    the addresses of the operands. Without a copy, the same weights from two files would give hidden states that differ
    in their last bits.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and loading reports of transformers, then restore its settings."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def present_device(name: str) -> torch.device:
    """Return the device of this name, where `auto` is a GPU if there is one; raise `OptionError` if unavailable."""
    if device_name(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {name!r} is not available ({first_line(error)}); try 'cpu'") from None
