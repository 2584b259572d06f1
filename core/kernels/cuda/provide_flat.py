"""What the kernel table gets on a GPU: optimizers, pooling, batch norm and casts: kernels of our own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .launch import describe

__all__ = ["MODULES", "describe", "load"]

MODULES: tuple[str, ...] = (".optim", ".muon", ".flat", ".batch_norm", ".pool", ".im2col", ".resample")
"""Modules of this package; each lists its kernels in ``KERNELS``."""


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that are served. Raises ImportError, saying what is missing and what it costs."""
    found: dict[str, Callable[..., Any]] = {}
    for module in MODULES:
        found.update(importlib.import_module(module, __package__).KERNELS)
    return found
