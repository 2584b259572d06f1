"""What the kernel table gets on a GPU: convolutions and attention by cuDNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KERNELS: dict[str, Callable[..., Any]] = {}


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that are served. Raises ImportError, saying what is missing and what it costs."""
    return KERNELS


def describe() -> str:
    """What decides the bits."""
    return "cudnn"
