"""Checkpoints on disk and in memory: loaded, looked into, compared, frozen, truncated, randomised."""

from __future__ import annotations

from bertft.checkpoints.checkpoint import Checkpoint as Checkpoint
from bertft.checkpoints.edit import freeze as freeze
from bertft.checkpoints.edit import randomised as randomised
from bertft.checkpoints.edit import truncate as truncate
from bertft.checkpoints.load import load_checkpoint as load_checkpoint
