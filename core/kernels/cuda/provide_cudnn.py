"""What cuDNN provides to the kernel table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import attention, conv, cudnn
from .cudnn import describe

__all__ = ["describe", "load"]


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that cuDNN serves. Raises Unavailable (an ImportError), saying what is missing and what it costs."""
    cudnn.library()
    return conv.KERNELS | attention.KERNELS
