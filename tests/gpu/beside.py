"""Kernels on the device beside their references on the host, which get the same numbers as float64."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from phalanx.core import bfloat16

DTYPES = ("float32", "bfloat16", "float16")
_EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}


def dtype_of(name: str) -> np.dtype:
    """NumPy's dtype of a name."""
    return bfloat16.load() if name == "bfloat16" else np.dtype(name)


def fast(name: str) -> Callable[..., Any]:
    """The kernel of our own under ``name``."""
    found = importlib.import_module("phalanx.core.kernels.cuda.provide_rows").load()[name]
    assert callable(found)
    return found


def reference(name: str) -> Callable[..., Any]:
    """The kernel in plain array code."""
    kernels = importlib.import_module("phalanx.core.kernels.table")
    for module in kernels._REFERENCE:
        found = importlib.import_module(module, kernels.__package__).KERNELS
        if name in found:
            return found[name]
    raise KeyError(name)


def on_device(value: Any) -> Any:
    """NumPy's arrays in ``value`` on the device, as they lie."""
    cupy = importlib.import_module("cupy")
    if isinstance(value, tuple):
        return tuple(on_device(each) for each in value)
    if not isinstance(value, np.ndarray):
        return value
    if not value.ndim:
        return cupy.asarray(value)
    order = sorted(range(value.ndim), key=lambda axis: (-value.strides[axis], axis))
    back = tuple(int(axis) for axis in np.argsort(order))
    return cupy.asarray(np.ascontiguousarray(value.transpose(order))).transpose(back)


def on_host(value: Any) -> Any:
    """The way back."""
    if isinstance(value, tuple | list):
        return tuple(on_host(each) for each in value)
    return value.get() if hasattr(value, "get") else value


def wide(value: Any) -> Any:
    """Floating arrays as float64."""
    if isinstance(value, tuple):
        return tuple(wide(each) for each in value)
    if isinstance(value, np.ndarray) and value.dtype.name in DTYPES:
        return value.astype(np.float64)
    return value


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def close(found: Any, expected: Any, ulps: float = 8, absolute: float = 1.0) -> None:
    """Within ``ulps`` of the found array's own precision, of a number and of ``absolute`` times the largest one; NaN and infinity alike."""
    pairs = list(zip(as_tuple(found), as_tuple(expected), strict=True))
    for a, b in pairs:
        if b is None:
            assert a is None
            continue
        assert np.shape(a) == np.shape(b), (np.shape(a), np.shape(b))
        eps = _EPS.get(a.dtype.name, 0.0) * ulps
        b = np.asarray(b, np.float64)
        largest = float(np.max(np.abs(b), initial=0, where=np.isfinite(b)))
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=eps, atol=eps * absolute * largest + 1e-30)


def beside(name: str, *arguments: Any, ulps: float = 8, absolute: float = 1.0) -> Any:
    """Run the kernel ``name`` on the device; its result on the host, after it was found close to the reference's."""
    found = on_host(fast(name)(*on_device(arguments)))
    with np.errstate(all="ignore"):
        expected = reference(name)(*wide(arguments))
    close(found, expected, ulps, absolute)
    return found


def bits(found: Any) -> list[Any]:
    """What equal results have in common."""
    return [None if a is None else (a.dtype.name, a.shape, np.ascontiguousarray(a).tobytes()) for a in as_tuple(found)]


__all__ = [
    "DTYPES",
    "as_tuple",
    "beside",
    "bits",
    "close",
    "dtype_of",
    "fast",
    "on_device",
    "on_host",
    "reference",
    "wide",
]
