"""Weights whose tensors carry longer names than the body of the model gives them.

DistributedDataParallel, FSDP and torch.compile put names of their own into those of the tensors they wrap, and some
classes of transformers keep their body under another name than others do: LlamaForQuestionAnswering says `transformer`
where LlamaModel looks for `model`. transformers would draw such weights at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that torch puts before the names of tensors where a model is wrapped: for several GPUs, or compiled."""


def bare(name: str) -> str:
    """Return the name of a tensor without the names of wrappers.

    >>> bare("_orig_mod.module.encoder._orig_mod.layer.0.weight")
    'encoder.layer.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def path_of_body(names: Iterable[str], missing: Sequence[str]) -> str | None:
    """Return what stands before the names of all missing tensors, once wrappers are taken out of the names.

    Of several paths the shortest is returned, and None where some tensor is absent under each.

    >>> path_of_body(["module.transformer.a.weight", "module.transformer.b.weight"], ["a.weight", "b.weight"])
    'transformer.'
    >>> path_of_body(["transformer.a.weight"], ["a.weight", "b.weight"]) is None
    True
    """
    found = {bare(name) for name in names}
    first = missing[0]
    paths = {name[: len(name) - len(first)] for name in found if name == first or name.endswith(f".{first}")}
    fitting = [path for path in paths if all(path + name in found for name in missing)]
    return min(fitting, key=len, default=None)


def renamed_tensors(weights: Iterable[Path], path: str) -> dict[str, Tensor]:
    """Return the tensors of all files, without the names of wrappers and without the path of the body."""
    tensors: dict[str, Tensor] = {}
    for file in weights:
        if file.suffix == ".safetensors":
            read = load_file(file)
        else:
            read = torch.load(file, map_location="cpu", weights_only=True)
        tensors |= {bare(name).removeprefix(path): tensor for name, tensor in read.items()}
    return tensors
