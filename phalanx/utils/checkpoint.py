"""Activation checkpointing, as ``torch.utils.checkpoint``."""

from __future__ import annotations

from ..core.recompute import checkpoint, checkpoint_sequential

__all__ = ["checkpoint", "checkpoint_sequential"]
