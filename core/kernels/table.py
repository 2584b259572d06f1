"""The kernel table: ``kernel(name, device)`` gives the function that does the heavy work on that device.

Each name has a reference in plain array code (``reference*.py``), which is the oracle for every faster provider. Providers
are modules that load at the first look-up, so that nobody pays for a library that he does not use. Which provider
serves a name is a function of name and device alone, never of a clock.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (
        ".reference",
        ".reference_conv",
        ".reference_ctc",
        ".reference_norm",
        ".reference_recurrent",
        ".reference_random",
        ".reference_resample",
        ".reference_optim",
        ".reference_optim_adaptive",
        ".reference_optim_signs",
        ".reference_special",
    ),
}
"""Device kind -> modules of this package, later ones override earlier ones."""

_kernels: dict[str, dict[str, Callable[..., Any]]] = {}


def kernels(device: str = "cpu") -> dict[str, Callable[..., Any]]:
    """All kernels of a device by name; loads its providers once. A provider lists its kernels in ``KERNELS``."""
    table = _kernels.get(device)
    if table is None:
        table = {}
        for module in PROVIDERS[device]:
            table.update(importlib.import_module(module, __package__).KERNELS)
        _kernels[device] = table
    return table


def kernel(name: str, device: str = "cpu") -> Callable[..., Any]:
    """The function behind ``name`` on ``device``."""
    return kernels(device)[name]
