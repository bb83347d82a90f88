"""The files of a checkpoint: found on disk or on the hub, and checked before a model is built from them.

The messages name the file, which the messages of the libraries often do not.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from bertft import untrusted
from bertft.errors import CheckpointError
from bertft.location import local_folder
from bertft.untrusted import reason

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json", "*.model", "*.tiktoken", "bpe.codes")


def resolved(source: str | Path, *, allow_pickle: bool) -> Path:
    """Return the local folder of a path or a hub name; raise `CheckpointError` where there is none."""
    if (folder := local_folder(source)) is not None:
        _check_regular(folder)
        return folder
    return _download(str(source), allow_pickle=allow_pickle)


def as_typed(source: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder whose last name is the one that was typed, even where it is a link.

    >>> as_typed("/some/./model/").name, as_typed("/usr/lib/..").name
    ('model', 'usr')
    """
    path = Path(source).expanduser()
    if path.name in ("", ".."):  # a dot alone has no name either
        return path.resolve()
    # What `..` leads to depends on links.
    parent = path.parent.resolve() if ".." in path.parent.parts else path.parent.absolute()
    return parent / path.name


def _check_regular(folder: Path) -> None:
    """Raise `CheckpointError` where a folder cannot be listed, or has a pipe or device, for which libraries wait."""
    try:
        for entry in sorted(folder.iterdir()):
            # A link to nothing is met by whoever opens it.
            mode = entry.stat().st_mode if entry.exists() else stat.S_IFREG
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CheckpointError(f"{entry}: a pipe or a device, not a file; give a folder of ordinary files")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed ({reason(error)}); check its permissions") from None


def _download(name: str, *, allow_pickle: bool) -> Path:
    """Return the snapshot of a hub model in the local cache, downloaded if needed, without code and other formats."""
    wanted = ["*.json", *TOKENIZER_FILES, "*.txt", "model.safetensors", "model-*.safetensors"]
    wanted.append("adapter_model.safetensors")
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*"]))
        if allow_pickle and not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin", "adapter_model.bin"], ignore_patterns=["*/*"])
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{name}: not found locally, neither as a folder nor in the hub cache, and the hub is not reachable; "
            "give a local folder, or connect to the network"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no such folder, and the hub has no such model ({first_line(error)}); "
            "check the name, log in if the model is private, or give a local folder"
        ) from None
    return folder


def checked_config(folder: Path) -> dict[str, Any]:
    """Return the config of a model that bertft can read; raise `CheckpointError` for any other."""
    config = read_json(folder, "config.json")
    if config is None:
        nested = sorted(path.parent.name for path in folder.glob("*/config.json"))
        advice = f"; did you mean {folder / nested[-1]}?" if nested else ""
        raise CheckpointError(f"{folder}: no config.json, so this is not a model saved by transformers{advice}")
    for name, settings in (
        ("config.json", config),
        ("tokenizer_config.json", read_json(folder, "tokenizer_config.json")),
    ):
        if settings and settings.get("auto_map"):
            raise CheckpointError(
                f"{folder / name}: needs remote code (auto_map), and bertft does not run code from checkpoints; "
                "use a model whose class is part of transformers"
            )
        if settings and (field := _kernel_of_hub(settings)):
            raise CheckpointError(
                f"{folder / name}: {field} names a kernel of the hub, and bertft does not run code from there; "
                "remove it"
            )
    if config.get("is_encoder_decoder") and encoder_class(config) is None:
        raise CheckpointError(encoder_decoder(folder, config))
    return config


def _kernel_of_hub(settings: Any, field: str = "", depth: int = 0) -> str | None:
    """Return the field of a config for which transformers would download code, such as an attention kernel, or None."""
    if isinstance(settings, dict) and depth < 8:
        for name, value in settings.items():
            if found := _kernel_of_hub(value, field if "implementation" in field else str(name), depth + 1):
                return found
    return field if "implementation" in field and isinstance(settings, str) and "/" in settings else None


def encoder_decoder(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the message for a model of two stacks of blocks."""
    return (
        f"{folder}: {config.get('model_type')} is an encoder-decoder type, which is not read; use an encoder or a "
        "decoder, or save the encoder alone, as T5EncoderModel does"
    )


def encoder_class(config: Mapping[str, Any]) -> type[PreTrainedModel] | None:
    """Return the class of transformers for the encoder of an encoder-decoder that was saved alone, if the config says
    so, as in T5EncoderModel; None for every other model.
    """
    kind, names = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or not isinstance(names, list):
        return None
    for name in names:
        found = getattr(transformers, name, None) if isinstance(name, str) and name.endswith("EncoderModel") else None
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found if found.config_class is CONFIG_MAPPING[kind] else None
    return None


def checked_weights(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """Return the weight files, after checking that each is complete; raise `CheckpointError` where they are not."""
    if files := _weight_files(folder, "model", ".safetensors"):
        for file in files:
            check_safetensors(file)
        return files
    files = _weight_files(folder, "pytorch_model", ".bin")
    if files and allow_pickle:
        return files
    if files:
        raise CheckpointError(
            f"{files[0]}: a pickle, which can run code when it is loaded, and there is no model.safetensors; "
            "save the model again with save_pretrained, or allow pickles for this run (allow_pickle=True)"
        )
    raise CheckpointError(
        f"{folder}: has a config.json but no weights (model.safetensors); give the folder that save_pretrained wrote "
        "(pickles are loaded, and downloaded from the hub, only with allow_pickle=True)"
    )


def _weight_files(folder: Path, stem: str, suffix: str) -> list[Path]:
    """Return the single weight file, or the shards of the index by name; an empty list where there is neither."""
    if (folder / f"{stem}{suffix}").exists():
        return [folder / f"{stem}{suffix}"]
    name = f"{stem}{suffix}.index.json"
    index = read_json(folder, name)
    if index is None:
        return []
    try:
        files = [folder / shard for shard in sorted(set(index["weight_map"].values()))]
    except (KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{folder / name}: has no valid weight_map; save the model again") from None
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file}: missing, though {name} lists it; copy or download the model again")
    return files


def check_safetensors(file: Path) -> None:
    """Raise `CheckpointError` unless the file is complete and contains tensors."""
    if file.exists() and not file.is_file():
        raise CheckpointError(f"{file}: a folder, a pipe or a device, not the weights; copy or download them again")
    try:
        with file.open("rb") as stream:
            pointer = stream.read(20).startswith(b"version https://git")
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({reason(error)}); check the file and its permissions") from None
    if pointer:
        raise CheckpointError(f"{file}: a Git LFS pointer, not the weights; run `git lfs pull` in the folder")
    try:
        with safe_open(file, framework="pt") as tensors:
            empty = not list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: truncated or corrupted ({error}); copy or download it again") from None
    if empty:
        raise CheckpointError(f"{file}: contains no tensors; save the model again")


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder contains a tokenizer: its vocabulary, or the name of a class that needs none."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES) or names_tokenizer_without_files(folder)


def names_tokenizer_without_files(folder: Path) -> bool:
    """Return whether the tokenizer of a folder splits text into bytes or characters, which takes no vocabulary."""
    name = (read_json(folder, "tokenizer_config.json") or {}).get("tokenizer_class")
    if not isinstance(name, str):
        return False
    try:
        found = tokenizer_class_from_name(name)
    except Exception:  # a module of transformers whose own requirements are not installed
        return False
    # The classes that others are derived from name no files either.
    own = isinstance(found, type) and found.__module__.startswith("transformers.models.")
    return own and getattr(found, "vocab_files_names", None) == {}


def check_tokenizer_files(folder: Path) -> None:
    """Raise `CheckpointError` for a folder without a tokenizer."""
    # Without these files transformers builds a tokenizer with special tokens only, to which every word is unknown.
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder}: no tokenizer (looked for {', '.join(TOKENIZER_FILES)}, and in tokenizer_config.json for a "
            "class that needs none of them); save it to the folder with tokenizer.save_pretrained"
        )


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None without the file; raise `CheckpointError` for anything else."""
    try:
        content = untrusted.read_json(folder / name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{folder / name}: cannot be read ({reason(error)}); check its permissions") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / name}: cannot be read as JSON ({error}); copy or download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name}: expected a JSON object, got {str(content)[:40]!r}")
    return content


def hash_files(files: list[Path]) -> str:
    """Return the sha256 of the names, sizes and bytes of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
