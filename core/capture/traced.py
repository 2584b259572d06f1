"""Stand-ins that tell when somebody looks at values: while a step is recorded, code outside of the engine gets these.

Shape, dtype and layout may be read, since they are the same at every replay; a value, or anything computed from values
past the ops, may not.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module
from ..graph import _PACKAGE
from ..live import now

_WITHOUT_VALUES = frozenset(
    [
        "__class__",
        "__new__",
        "__init__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__dir__",
        "__len__",
        "__array_finalize__",
        "__array_ufunc__",
        "__array_function__",
        "__array_priority__",
        "__init_subclass__",
        "__subclasshook__",
        "__hash__",
        "__sizeof__",
        "__class_getitem__",
        "__dlpack_device__",
    ]
)
_VIEWS = ("T", "mT", "flat", "real", "imag", "data", "ctypes", "base", "cstruct", "mdspan", "__cuda_array_interface__")
"""Attributes that give values away."""
_SHAPE_ONLY = frozenset([np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.shape, np.ndim, np.size])


def site() -> str:
    """``file:line`` of the innermost frame outside of the package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def looked(what: str) -> None:
    """Somebody looked at a value."""
    recorder = now.recorder
    if recorder is not None and not recorder.quiet:
        recorder.refuse(f"{what} at {site()} depends on values, which a replay does not see")


def plain(value: Any) -> Any:
    """The same nest of tuples, lists and dicts with the arrays and numbers that stand-ins stand for."""
    if isinstance(value, StandIn):
        return value.origin
    if isinstance(value, Slotted):
        return float.__float__(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(plain, value))
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    if type(value) is slice:
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    return value


class StandIn:
    """A view of ``origin`` that tells when its values are used; the other base is an array of NumPy's or CuPy's."""

    origin: Any
    dtype: Any

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        looked(f"numpy.{ufunc.__name__} of a tensor's array")
        return getattr(ufunc, method)(*plain(inputs), **plain(options))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in _SHAPE_ONLY:
            looked(f"numpy.{function.__name__} of a tensor's array")
        return function(*plain(args), **plain(kwargs))


class Traced(StandIn, np.ndarray):
    """In host memory."""


class Slotted(float):
    """A number that a replay computes anew: slot ``slot`` of the program."""

    slot: int


def traced(array: Any) -> Any:
    """A stand-in for ``array``."""
    library: Any = array_module(array)
    if library is np:
        found: Any = np.ndarray.view(array, Traced)
    else:
        found = _on_device(library)(array.shape, array.dtype, array.data, array.strides)
    found.origin = array
    return found


@functools.cache
def _on_device(library: Any) -> type:
    """The class of stand-ins for arrays of ``library``, which is CuPy."""
    kind = type("Traced", (StandIn, library.ndarray), {"__module__": library.__name__})
    _watch(kind, library.ndarray, "a tensor's array", _WITHOUT_VALUES | {"base"})  # which CuPy sets when one is made
    return kind


def slotted(value: float, slot: int) -> Slotted:
    """A stand-in for the number ``value``."""
    found = Slotted(value)
    found.slot = slot
    return found


def _method(name: str, what: str) -> Callable[..., Any]:
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        looked(f"{name.strip('_')} of {what}")
        return getattr(plain(self), name)(*plain(args), **plain(kwargs))

    called.__name__ = name
    return called


def _watch(kind: type, base: type, what: str, allowed: frozenset[str]) -> None:
    """Every method of ``base`` that sees values, and every attribute that gives them away, tells."""
    for name in dir(base):
        if name in allowed or (name[0] == "_" and name[1] != "_"):
            continue
        if callable(getattr(base, name)):
            setattr(kind, name, _method(name, what))
        elif base is not float and name in _VIEWS:
            setattr(kind, name, property(functools.partial(_attribute, name)))


def _attribute(name: str, array: Any) -> Any:
    looked(f"{name} of a tensor's array")
    return getattr(array.origin, name)


_watch(Traced, np.ndarray, "a tensor's array", _WITHOUT_VALUES)
_watch(Slotted, float, "a loss's weight", _WITHOUT_VALUES | {"__repr__", "__str__", "__format__"})
