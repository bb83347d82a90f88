"""Checkpoints on disk and in memory: load, inspect, compare, freeze, truncate and randomly initialise models."""

from __future__ import annotations

from bertft.checkpoints.anatomy import block_stack as block_stack
from bertft.checkpoints.anatomy import find_body as find_body
from bertft.checkpoints.anatomy import hidden_size as hidden_size
from bertft.checkpoints.anatomy import n_layers as n_layers
from bertft.checkpoints.anatomy import parse_layers as parse_layers
from bertft.checkpoints.checkpoint import Checkpoint as Checkpoint
from bertft.checkpoints.checkpoint import length_limit as length_limit
from bertft.checkpoints.checkpoint import pad_id as pad_id
from bertft.checkpoints.compare import check_same_tokenizer as check_same_tokenizer
from bertft.checkpoints.compare import shared_depth as shared_depth
from bertft.checkpoints.edit import freeze as freeze
from bertft.checkpoints.edit import randomised as randomised
from bertft.checkpoints.edit import truncate as truncate
from bertft.checkpoints.edit import with_head as with_head
from bertft.checkpoints.load import load_checkpoint as load_checkpoint
from bertft.checkpoints.load import present_device as present_device
