"""What the kernel table gets on a GPU: softmax, norms, dropout, embeddings, recurrent cells: kernels of our own that go row by row."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

MODULES: tuple[str, ...] = (
    ".draws",
    ".elementwise",
    ".embedding",
    ".linear_loss",
    ".norm",
    ".places",
    ".recurrent",
    ".reduce",
    ".reports",
    ".rows",
)
"""Modules of this package; each lists its kernels in ``KERNELS``."""


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that are served. Raises ImportError, saying what is missing and what it costs."""
    found: dict[str, Callable[..., Any]] = {}
    for module in MODULES:
        found.update(importlib.import_module(module, __package__).KERNELS)
    return found


def describe() -> str:
    """What decides the bits."""
    return "rows"
