"""Adapters of LoRA and similar methods, as `peft` saves them, merged into a copy of their base model.

peft works on a copy with memory of its own, because the initialisation of some adapters (OLoRA, PiSSA) changes weights
in place. Afterwards the weights that are unchanged are those of the base again, so in the end the copy takes only the
memory of the adapted weights. A layer without an adapter, or with a LoRA of zeros, keeps weights equal to the base's,
bit for bit. An adapter that was trained on a model with a head, such as a sequence classifier, names the modules of
that model; only the part for the body is used.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertft.checkpoints.adapter_config import TYPES, Limits, SettingError, largest_size, peft_settings
from bertft.checkpoints.files import check_safetensors, first_line, hash_files, read_json
from bertft.checkpoints.tensor_files import readers_in
from bertft.errors import CheckpointError

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_ROOT = "base_model.model."  # peft writes this before the name of every module


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: its folder, the name of its base (a folder or a hub name), its weight file and its config."""

    folder: Path
    base: str
    weights: Path
    config: Mapping[str, Any]

    def content_hash(self, base: str) -> str:
        """Return the sha256 of the adapter's config and weights and of the content hash of its base."""
        return hashlib.sha256(f"{hash_files([self.folder / CONFIG, self.weights])}\0{base}".encode()).hexdigest()


def find_adapter(folder: Path, *, allow_pickle: bool) -> Adapter | None:
    """Return the adapter in a folder, or None where there is none; raise `CheckpointError` for an unusable one."""
    config = read_json(folder, CONFIG)
    if config is None:
        return None
    if any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{folder}: contains both an adapter and a full model, so it is unclear which to load; "
            "move one of them into a folder of its own"
        )
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{folder / CONFIG}: does not name the base model of the adapter; "
            "set base_model_name_or_path to its folder or hub name"
        )
    if "num_virtual_tokens" in config:
        raise CheckpointError(
            f"{folder}: a {config.get('peft_type')} adapter adds tokens and changes no weight, so it cannot be merged; "
            "use an adapter that changes weights, such as LoRA"
        )
    weights = folder / WEIGHTS
    if weights.exists():
        check_safetensors(weights)
    elif (folder / PICKLE).exists():
        weights = folder / PICKLE
        if not allow_pickle:
            raise CheckpointError(
                f"{weights}: a pickle, which can run code when it is loaded, and there is no {WEIGHTS}; "
                "save the adapter again with save_pretrained, or allow pickles for this run (allow_pickle=True)"
            )
    else:
        raise CheckpointError(
            f"{folder}: has an {CONFIG} but no weights ({WEIGHTS}); give the folder that save_pretrained wrote"
        )
    return Adapter(folder, base, weights, config)


def merged(adapter: Adapter, base: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a bare model with the adapter merged into its weights; the base is not changed.

    While peft works, the copy takes as much memory as the base; afterwards, only that of the adapted weights. Raises
    `CheckpointError` where the package peft is missing, where the adapter is of a type, or has a setting, that is not
    passed on to peft, and where its modules or shapes do not match the base.

    >>> merged(find_adapter(Path("runs/lora"), allow_pickle=False), base.model)  # doctest: +SKIP

    Source: Hu et al. 2022, section 4.1.
    """
    try:
        import peft
    except ImportError as error:
        raise CheckpointError(
            f'{adapter.folder}: an adapter, which needs the package peft; pip install "bertft[lora]"'
        ) from error
    tensors = {name: read() for name, read in readers_in([adapter.weights]).items()}
    place, inside = _inside_body(tensors, base)
    if not inside:
        raise CheckpointError(
            f"{adapter.folder}: none of its {len(tensors)} tensors (such as {next(iter(tensors))}) belongs to a module "
            f"of {type(base).__name__}; it was made for another model than {adapter.base}"
        )
    body = copy.deepcopy(base)
    try:
        # Random initial values are replaced at once, but drawing them must not advance the caller's generator.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _kept_environment():
            warnings.simplefilter("ignore")
            outer = _outer(place, body)
            config = _config(adapter, tensors, outer)
            # The task head is not loaded, nor are the modules that were saved with it.
            if getattr(config, "modules_to_save", None):
                named = [name for name in config.modules_to_save if any(f".{name}." in f".{key}" for key in inside)]
                config.modules_to_save = named or None
            model = peft.PeftModel(outer, config)
            found = peft.set_peft_model_state_dict(model, inside)
            mark = model.base_model.prefix
            lacking = [key for key in found.missing_keys if mark in key]
            if not (lacking or found.unexpected_keys):
                model.merge_and_unload(safe_merge=True)
    except Exception as error:  # peft raises many types of error for an adapter that does not fit
        reason = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), first_line(error))
        who = "" if isinstance(error, SettingError) else f"peft {peft.__version__} "
        raise CheckpointError(
            f"{adapter.folder}: {who}cannot apply this adapter to {adapter.base}: {reason}"
        ) from error
    if found.unexpected_keys:
        raise CheckpointError(
            f"{adapter.folder}: {len(found.unexpected_keys)} of its tensors (such as {found.unexpected_keys[0]}) match "
            f"no module of {adapter.base}; the adapter was made for another model"
        )
    if lacking:
        raise CheckpointError(
            f"{adapter.folder}: the weights lack {len(lacking)} tensors (such as {lacking[0]}) of modules that its "
            f"{CONFIG} names; the file is incomplete, or the adapter was made for another model than {adapter.base}"
        )
    if body.state_dict().keys() != base.state_dict().keys():
        raise CheckpointError(
            f"{adapter.folder}: merging this adapter leaves modules of peft in the model; merge it where it was "
            "trained (merge_and_unload), and save the full model"
        )
    _share_unchanged(body, base)
    body.train(False).requires_grad_(False)
    return body


def _config(adapter: Adapter, tensors: dict[str, Tensor], outer: nn.Module) -> Any:
    """Return the config of the adapter for peft, of checked settings only; raise `SettingError` for any other."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = adapter.config.get("peft_type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise SettingError(
            f"it is of the type {kind!r:.60}; the types that can be merged are {', '.join(sorted(TYPES))}; for "
            "another, merge it where it was trained (merge_and_unload), and save the full model"
        )
    made = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(made)
    }
    limits = Limits(
        size=largest_size(tuple(tensor.shape) for tensor in tensors.values()),
        modules=tuple(name for name, _ in outer.named_modules() if name),
    )
    return made(**peft_settings(adapter.config, known, limits))


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Restore the environment variables at the end; peft leaves CC and CXX set where compiling for BOFT fails."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _inside_body(tensors: dict[str, Tensor], body: PreTrainedModel) -> tuple[str, dict[str, Tensor]]:
    """Return the path of the body in the trained model ("bert" in a classifier, "" for a bare body) and its tensors.

    The path is the prefix after which the tensors' names match the body's modules to the greatest depth. Tensors that
    all modules share, such as the projections of VeRA, belong to every body.
    """
    modules = {name for name, _ in body.named_modules() if name}
    votes: Counter[str] = Counter()
    for key in tensors:
        parts = key.removeprefix(_ROOT).split(".")
        for start in range(len(parts)):
            end = next((end for end in range(len(parts), start, -1) if ".".join(parts[start:end]) in modules), start)
            votes[".".join(parts[:start])] += end - start
    # Among equally deep matches, the shortest path is right.
    place = max(votes, key=lambda name: (votes[name], -name.count(".") - bool(name)), default="")
    if not votes[place]:
        return "", {}
    lead = f"{_ROOT}{place}." if place else _ROOT
    return place, {key: tensor for key, tensor in tensors.items() if key.startswith(lead) or not key.startswith(_ROOT)}


def _outer(place: str, body: nn.Module) -> nn.Module:
    """Return a module with the body at the path it had in training, so that patterns in the config match as then."""
    for name in reversed(place.split(".") if place else []):
        outside = nn.Module()
        outside.add_module(name, body)
        body = outside
    return body


@torch.no_grad()
def _share_unchanged(body: PreTrainedModel, base: PreTrainedModel) -> None:
    """Let the parameters and buffers of a copy that equal those of the base share the base's memory."""
    theirs = {**dict(base.named_parameters()), **dict(base.named_buffers())}
    for name, ours in {**dict(body.named_parameters()), **dict(body.named_buffers())}.items():
        other = theirs.get(name)
        if other is not None and ours.dtype == other.dtype and torch.equal(ours, other):
            ours.data = other.data
