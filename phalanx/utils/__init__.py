"""What does not belong to a layer or an optimizer, as ``torch.utils``: ``checkpoint`` (activation checkpointing)."""

from __future__ import annotations

from . import checkpoint as checkpoint

__all__ = ["checkpoint"]
