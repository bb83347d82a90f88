"""Low-rank adapters (LoRA, Hu et al. 2021), which are trained instead of all weights, from the library `peft`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from bertft.checkpoints.anatomy import block_stack
from bertft.errors import OptionError


def with_lora(model: PreTrainedModel, rank: int, *, first_block: int = 0) -> Any:
    """Return the model with adapters on all linear layers of the blocks from `first_block` on; it is frozen otherwise.

    The head and the pooler, if there is one, are trained in full and saved with the adapters. A saved adapter names the
    base that it belongs to. Alpha is twice the rank. Raises `OptionError` if `peft` is not installed, or if there is no
    block to adapt.

    >>> adapted = with_lora(task.build(checkpoint, records), rank=8)  # doctest: +SKIP
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise OptionError('adapters need the library peft; pip install "bertft[lora]"') from error
    body = model.base_model
    assert isinstance(body, PreTrainedModel)
    inside = {id(module) for block in block_stack(body)[first_block:] for module in block.modules()}
    targets = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside]
    if not targets:
        raise OptionError(f"no block is left for adapters from block {first_block} on; freeze fewer")
    heads = [name for name, child in model.named_children() if child is not body and list(child.parameters())]
    if isinstance(getattr(body, "pooler", None), nn.Module):
        heads.append("pooler")
    base = str(model.name_or_path)
    model.name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=heads)
    with warnings.catch_warnings():
        # peft uses a deprecated name of transformers.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, settings)
