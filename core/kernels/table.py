"""The kernel table: ``kernel(name, device)`` gives the function that does the heavy work on that device.

Each name has a reference in plain array code (``reference*.py``), which is the oracle for every faster provider. Providers
are modules that load at the first look-up, so that nobody pays for a library that he does not use. Which provider
serves a call is a function of what was chosen, name, device, shape and dtype, never of a clock. All kernels of one name take and
give the same things, so that what one has saved for backward another can use.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..errors import RangeError
from .cpu import threads

_REFERENCE = (
    ".reference",
    ".reference_activation",
    ".reference_add_norm",
    ".reference_attention",
    ".reference_bce",
    ".reference_checks",
    ".reference_conv",
    ".reference_ctc",
    ".reference_fused",
    ".reference_linear",
    ".reference_linear_loss",
    ".reference_meeting",
    ".reference_mean_loss",
    ".reference_norm",
    ".reference_recurrent",
    ".reference_random",
    ".reference_resample",
    ".reference_optim",
    ".reference_optim_adaptive",
    ".reference_optim_norms",
    ".reference_optim_signs",
    ".reference_special",
)
"""Plain array code serves every device: NumPy's functions hand CuPy's arrays on to CuPy."""

PROVIDERS: dict[str, tuple[str, ...]] = {"cpu": _REFERENCE, "cuda": _REFERENCE}
"""Device kind -> modules of this package, later ones override earlier ones. Each lists its kernels in ``KERNELS``."""

FAST: dict[str, tuple[str, ...]] = {
    "cpu": (".cpu.provide_onednn", ".cpu.provide_numba"),
    "cuda": (".cuda.provide_rows", ".cuda.provide_flat", ".cuda.provide_gemm", ".cuda.provide_cudnn"),
}
"""The same for what comes on top with "fast". ``load()`` of each gives its kernels, or raises ImportError saying what is missing
and what that costs; ``describe()`` names what decides the bits."""

VARIABLE = "PHALANX_KERNELS"
"""The environment's choice, for programs that make none."""

CHOICES = ("reference", "fast")

_kernels: dict[str, dict[str, Callable[..., Any]]] = {}
_chosen: str | None = None


def choose(kernels: str) -> None:
    """Use these kernels from now on: "reference" (plain NumPy), or "fast" (oneDNN where it is installed and serves).

    For the whole process, whatever the environment says; call it before training, not within. Bits differ between the two.
    Raises RangeError for another name.

    >>> phalanx.kernels.choose("reference")
    >>> phalanx.kernels.chosen()
    'reference'
    """
    global _chosen
    _chosen = _known(kernels, "kernels")
    _kernels.clear()
    if kernels == "fast":
        table()  # what is missing is said here, once
    else:
        threads.hold_blas(False)


def _known(kernels: str, name: str) -> str:
    if kernels not in CHOICES:
        raise RangeError(f"{name} must be one of {', '.join(CHOICES)}, got {kernels!r}")
    return kernels


def chosen(device: str = "cpu") -> str:
    """Which kernels are used on a kind of device: "reference" or "fast".

    Without :func:`choose` the variable ``PHALANX_KERNELS`` says it; without that it is "fast" on "cuda", and on "cpu" where the
    libraries of the extra ``cpu`` are installed.

    >>> phalanx.kernels.chosen() in ("reference", "fast")
    True
    """
    global _chosen
    if _chosen is None and os.environ.get(VARIABLE):
        _chosen = _known(os.environ[VARIABLE], VARIABLE)
    return _chosen or ("fast" if device != "cpu" or _installed() else "reference")


@lru_cache(maxsize=1)
def _installed() -> bool:
    return all(importlib.util.find_spec(library) is not None for library in ("cffi", "numba")) and (
        platform.machine() == "x86_64"
    )


def describe(device: str = "cpu") -> str:
    """What computes: the choice, and the libraries that decide the bits with their versions.

    >>> phalanx.kernels.choose("reference")
    >>> phalanx.kernels.describe()
    'reference'
    """
    names = []
    for module in FAST.get(device, ()) if chosen(device) == "fast" else ():
        try:
            names.append(importlib.import_module(module, __package__).describe())
        except ImportError:
            names.append(f"no {module.rpartition('_')[2]}")
    return ": ".join([chosen(device), *([", ".join(names)] if names else [])])


def table(device: str = "cpu") -> dict[str, Callable[..., Any]]:
    """All kernels of a device by name; loads its providers once."""
    found = _kernels.get(device)
    if found is None:
        found = {}
        for module in PROVIDERS[device]:
            found.update(importlib.import_module(module, __package__).KERNELS)
        if chosen() == "fast" and device == "cpu":
            threads.settle()
        serve = set()
        for module in FAST.get(device, ()) if chosen(device) == "fast" else ():
            try:
                found.update(importlib.import_module(module, __package__).load())
                serve.add(module)
            except ImportError as error:
                warnings.warn(f"fast kernels: {error}", stacklevel=3)
        if ".cpu.provide_onednn" in serve:
            threads.hold_blas(True)
        _kernels[device] = found
    return found


def kernel(name: str, device: str = "cpu") -> Callable[..., Any]:
    """The function behind ``name`` on ``device``."""
    found = _kernels.get(device)
    return (table(device) if found is None else found)[name]
