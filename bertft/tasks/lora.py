"""Low-rank adapters (LoRA, Hu et al. 2021) in place of tuning all weights, through the `peft` library."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from bertft.checkpoints.anatomy import block_stack
from bertft.errors import OptionError


def with_lora(model: PreTrainedModel, rank: int, *, first_block: int = 0) -> Any:
    """The model with an adapter of a rank on every linear map of the blocks from `first_block` on; all else is fixed.

    The head, and a pooler, are trained whole and saved with the adapter. Saved, it names the base it belongs to. The
    scale is that of rank-stabilised LoRA's usual alpha, twice the rank. Raises `OptionError` without `peft`, and where
    no block is left to adapt.

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
        # peft asks transformers by a name that it is about to drop.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, settings)
