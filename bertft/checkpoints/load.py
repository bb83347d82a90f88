"""Checkpoints: loading the body of one, making it ready to train, and asking how far two of them are the same model.

Everything that could give wrong numbers in silence is refused here, before a forward pass is paid for: weights that
are missing and would be drawn at random, a tokenizer that transformers would invent, code or pickles that a stranger
wrote. Files are checked by `bertft.checkpoints.files` first and read by transformers second, so that the message names
the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from bertft.checkpoints.adapters import Adapter, find_adapter, merged
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.files import (
    check_tokenizer_files,
    checked_config,
    checked_weights,
    first_line,
    has_tokenizer,
    hash_files,
    resolved,
)
from bertft.errors import CheckpointError, OptionError

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def load_checkpoint(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    allow_pickle: bool = False,
    present: Iterable[Checkpoint] = (),
) -> Checkpoint:
    """Load the body of a local folder or hub name: no task head, no gradients, evaluation mode.

    An adapter, as `peft` saves it, is merged into a copy of the base that its config names, which takes the memory of
    the adapted weights beside that of the base; its tokenizer is the adapter's own or else the base's. A base that is
    among the checkpoints `present`, by its folder or by its content, is not read again.

    Weights are read from safetensors; `allow_pickle` admits `pytorch_model.bin` where there are none, read with
    torch's weights-only unpickler. Raises `CheckpointError` for a folder or name that holds no usable model, and
    `OptionError` for an unknown dtype or an absent device.

    >>> load_checkpoint("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.CheckpointError: no/such/folder: no such folder; ...
    """
    torch_dtype = _known_dtype(dtype)
    torch_device = present_device(device)
    folder = resolved(source, allow_pickle=allow_pickle)
    name = _display_name(folder.resolve()) if Path(source).expanduser().is_dir() else str(source)
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
    check_tokenizer_files(folder)
    tokenizer = _load_tokenizer(folder)
    model, drawn = _load_body(folder, config, torch_dtype, safetensors=weights[0].suffix == ".safetensors")
    _check_embedding_covers(folder, model, tokenizer)
    # A cache of keys and values serves generation alone, and would hold every layer of every batch in memory.
    model.config.use_cache = False
    model.train(False).requires_grad_(False).to(torch_device)
    return Checkpoint(name, model, tokenizer, _content_hash(folder, weights), drawn, folder.resolve())


def _check_embedding_covers(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    rows = embedding.num_embeddings
    token, index = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if index >= rows:
        raise CheckpointError(
            f"{folder}: the tokenizer gives {token!r} number {index}, but the model embeds {rows} tokens; "
            "the tokenizer belongs to another model, or the embeddings were not resized"
        )


def _display_name(folder: Path) -> str:
    """The folder's name; of `runs/mnli/seed-1/best`, as tuning writes it, what tells it from others: mnli/seed-1."""
    if folder.name in ("best", "last") and folder.parent.name.startswith("seed-"):
        return "/".join(folder.parts[-3:-1]) + ("/last" if folder.name == "last" else "")
    return folder.name


def _base_of(
    adapter: Adapter, present: Iterable[Checkpoint], *, device: str, dtype: str, allow_pickle: bool
) -> Checkpoint:
    """The base that an adapter names, one of those present where it is the same."""
    try:
        folder = resolved(adapter.base, allow_pickle=allow_pickle)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter.folder}: the base of this adapter was not found ({error}); "
            "set base_model_name_or_path in its adapter_config.json to where the base lies"
        ) from error
    if find_adapter(folder, allow_pickle=allow_pickle) is not None:
        raise CheckpointError(
            f"{adapter.folder}: its base {adapter.base} is an adapter too; merge that one into its own base "
            "(merge_and_unload), save the whole model, and name it as base_model_name_or_path"
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
    except Exception as error:  # transformers and tokenizers raise a zoo of types for files they cannot read
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be loaded ({first_line(error)}); "
            "save it again with tokenizer.save_pretrained"
        ) from error
    return tokenizer


def _load_body(
    folder: Path, config: Mapping[str, Any], dtype: torch.dtype, *, safetensors: bool
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The body, and the names of the pooler's tensors where the weights lack them."""
    try:
        # A missing pooler is drawn at random: unused here, but it must not move the caller's generator.
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safetensors,
                weights_only=True,
                ignore_mismatched_sizes=True,  # refused below, with names
                dtype=dtype,
                output_loading_info=True,
            )
    except Exception as error:  # as above: the message is what a person needs, and the cause stays attached
        # torch's own advice on a pickle it refuses is to load it with code and all.
        reason = first_line(error) if safetensors else "the pickle holds more than tensors, or is damaged"
        raise CheckpointError(
            f"{folder}: transformers {transformers_version} cannot load this {config.get('model_type', 'model')}: "
            f"{reason}"
        ) from error
    drawn = frozenset(key for key in report["missing_keys"] if "pooler" in key.split("."))
    missing = sorted(set(report["missing_keys"]) - drawn)
    if missing:
        raise CheckpointError(
            f"{folder}: the weights lack {len(missing)} tensors of {type(model).__name__}, {missing[0]} for one, which "
            "would be drawn at random; the config and the weights are of different models, or the file is incomplete"
        )
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{folder}: {name} has shape {list(found)} in the weights and {list(wanted)} by the config; "
            "the two are of different models: save the model again with save_pretrained"
        )
    assert isinstance(model, PreTrainedModel)
    return model, drawn


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep its progress bars and its report on unused head weights off stderr, and put its settings back."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _known_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def present_device(name: str) -> torch.device:
    """The device of a name, `auto` being a GPU where there is one; raises `OptionError` for one that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise OptionError(f"device {name!r} is not available ({first_line(error)}); try 'cpu'") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device {name!r} is not one bertft computes on; expected cpu, cuda or cuda:N")
    return device
