"""Checks that the layers' ops share: what was expected, what came, what to do."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..bfloat16 import is_floating, is_half
from ..errors import DTypeError, RangeError, ShapeError
from ..kernels.table import kernel
from ..op import Array


def one_float_dtype(op: str, **arrays: Array | None) -> None:
    """All given arrays are of one floating-point dtype."""
    first = None
    for array in arrays.values():  # the way of nearly all calls
        if array is not None:
            dtype = array.dtype
            if first is None and dtype.kind in "fV":
                first = dtype
            elif dtype is not first:
                break
    else:
        return
    present = {name: array for name, array in arrays.items() if array is not None}
    for name, array in present.items():
        if not is_floating(array.dtype):
            raise DTypeError(f"{op}: {name} must be of floating point, got {array.dtype}; convert it with .float()")
    if len({array.dtype for array in present.values()}) > 1:
        found = ", ".join(f"{name} {array.dtype}" for name, array in present.items())
        raise DTypeError(f"{op}: all arrays must be of one dtype, got {found}; convert with .to(dtype) or .float()")


def parameters_fit(op: str, input: Array, **parameters: Array | None) -> None:
    """All of one floating dtype, or float32 ``parameters`` beside an input in half precision."""
    if is_half(input.dtype) and all(p is None or p.dtype.char == "f" for p in parameters.values()):
        return
    one_float_dtype(op, input=input, **parameters)


def dimensions(op: str, name: str, array: Array, count: int, meaning: str) -> None:
    """``array`` has ``count`` dimensions, whose ``meaning`` the message tells."""
    if array.ndim != count:
        raise ShapeError(f"{op}: {name} must have {count} dimensions {meaning}, got shape {array.shape}")


def integers(op: str, name: str, array: Array) -> None:
    """``array`` holds integers."""
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{op}: {name} must be integers, got {array.dtype}; convert with .long()")


def within(op: str, name: str, values: Array, count: int, hint: str = "", skip: int | None = None) -> None:
    """Every value is in [0, count) or equals ``skip``; the message names the first that is not and its place.

    On a GPU the error may come later, when the host next waits for it: nobody waits for a check.
    """
    kernel("check_within", device_kind(values))(op, name, values, count, hint, skip)


def sizes(op: str, option: str, value: Any, count: int, minimum: int) -> tuple[int, ...]:
    """``value``, an integer or ``count`` of them (one in a sequence counts for all), as a tuple that is at least ``minimum``."""
    try:
        result = tuple(v.__index__() for v in value) if hasattr(value, "__len__") else (value.__index__(),) * count
    except (TypeError, AttributeError):
        raise DTypeError(f"{op}: {option} must be an integer or {count} of them, got {value!r}") from None
    result = result * count if len(result) == 1 else result
    if len(result) != count:
        raise RangeError(f"{op}: {option} must be an integer or {count} of them, got {value!r}")
    if min(result) < minimum:
        raise RangeError(f"{op}: {option} must be at least {minimum}, got {value!r}")
    return result
