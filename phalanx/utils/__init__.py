"""What does not belong to a layer or an optimizer, as ``torch.utils``: ``checkpoint`` (activation checkpointing) and ``data``."""

from __future__ import annotations

from . import checkpoint as checkpoint
from . import data as data

__all__ = ["checkpoint", "data"]
