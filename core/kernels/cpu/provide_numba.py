"""What compiled loops provide to the kernel table."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

MODULES: tuple[str, ...] = (
    ".batch_norm",
    ".bound_products",
    ".pool_halves",
    ".loops_attention",
    ".loops_bce",
    ".loops_elementwise",
    ".loops_embedding",
    ".loops_layout",
    ".loops_meeting",
    ".loops_norm",
    ".loops_optim",
    ".loops_optim_adaptive",
    ".loops_optim_signs",
    ".loops_products",
    ".loops_random",
    ".loops_rows",
    ".loops_running",
    ".recurrent",
)
"""Modules of this package with compiled loops; each lists its kernels in ``KERNELS``."""


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that compiled loops serve. Raises ImportError, saying what is missing and what it costs."""
    importlib.import_module(".compiled", __package__)
    found: dict[str, Callable[..., Any]] = {}
    for module in MODULES:
        found.update(importlib.import_module(module, __package__).KERNELS)
    return found


def loops() -> list[Any]:
    """All compiled loops; each is a ``compiled.Loop``. Raises ImportError as :func:`load` does."""
    load()
    return list(importlib.import_module(".compiled", __package__).loops())


def describe() -> str:
    """Versions and processor, which decide the bits."""
    return str(importlib.import_module(".compiled", __package__).describe())
