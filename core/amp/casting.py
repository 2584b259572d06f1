"""What stands in ``mode.autocast``: casts the inputs of an op before it runs.

A parameter is not cast alone: the first time that one of a flat store is needed low, the whole store is cast, in one pass, and
parameters are views of that copy until the block ends. So a step pays one pass over the parameters, an optimizer's update can never be
missed, and a recorded step holds nothing but ops. The gradient of such a view is made in float32 (``graph.own_precision``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..backend import device_kind
from ..bfloat16 import is_floating
from ..graph import apply
from ..mode import casts, mode
from ..node import Variable, wrap
from ..op import Op
from ..ops.arithmetic import CAST
from ..ops.lower import LOWER
from ..ops.shape import RESHAPE
from .lists import FIRST, FLOAT32, LOW, WIDEST

F = TypeVar("F", bound=Callable[..., Any])
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)


class Casting:
    """The casts of one autocast block, and of what runs a part of it again.

    ``device``: "cpu" or "cuda", other arrays are left alone; ``dtype``: what is low; ``keep``: the copies of parameters.
    """

    def __init__(self, device: str, dtype: np.dtype, keep: bool) -> None:
        self.device, self.dtype, self.keep = device, dtype, keep
        self._copies: dict[Any, tuple[int, Any]] = {}
        """Store, or parameter outside of stores -> (version, what it was cast to)."""

    @property
    def signature(self) -> tuple[str, str, bool]:
        """What a recorded step depends on."""
        return self.device, self.dtype.name, self.keep

    def __call__(self, op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        name = op.name
        if name in FIRST:
            first, rest = inputs[: FIRST[name]], inputs[FIRST[name] :]
            return (*(map(self._low, first) if name in LOW else self._widest(first)), *rest)
        if name in LOW:
            return tuple([self._low(x) for x in inputs])
        if name in FLOAT32:
            return tuple([self.cast(x, _FLOAT32) for x in inputs])
        if name in WIDEST:
            return self._widest(inputs)
        return inputs

    def takes(self, x: Any) -> bool:
        """Whether ``x`` may be cast: a floating array on this device, not of float64."""
        dtype = getattr(x, "dtype", None)
        return dtype is not None and is_floating(dtype) and dtype != _FLOAT64 and device_kind(x) == self.device

    def cast(self, x: Any, dtype: np.dtype) -> Any:
        """``x`` in ``dtype`` if it may be cast; itself otherwise, and what is no array."""
        if isinstance(x, Variable):
            array = x.array
            return apply(CAST, x, dtype=dtype) if self.takes(array) and array.dtype != dtype else x
        return x.astype(dtype) if hasattr(x, "shape") and self.takes(x) and x.dtype != dtype else x

    def _low(self, x: Any) -> Any:
        """``x`` in the low dtype; a parameter from the copy of all that lie beside it."""
        if not isinstance(x, Variable) or x._node is not None or not hasattr(x, "_store"):
            return self.cast(x, self.dtype)
        parameter: Any = x
        array = x.array
        if array.dtype != _FLOAT32 or device_kind(array) != self.device:
            return self.cast(x, self.dtype)
        store = parameter._store
        if store is not None and store.holds(parameter):
            return apply(LOWER, x, self._copy(store, store.version, store.whole()), lo=store.offsets[parameter._index])
        return apply(LOWER, x, self._copy(x, -1, apply(RESHAPE, wrap(array), shape=(-1,))), lo=0)

    def _copy(self, key: Any, version: int, values: Any) -> Any:
        """All ``values``, cast once; without gradient."""
        known = self._copies.get(key)
        if known is None or known[0] != version:
            known = version, apply(CAST, values, dtype=self.dtype)
            if self.keep:
                self._copies[key] = known
        return known[1]

    def _widest(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        dtypes = {x.array.dtype for x in inputs if isinstance(x, Variable) and is_floating(x.array.dtype)}
        if len(dtypes) < 2:
            return inputs
        widest = _FLOAT64 if _FLOAT64 in dtypes else _FLOAT32
        return tuple([self.cast(x, widest) for x in inputs])


def in_float32(function: F) -> F:
    """Decorator of a function that is composed of ops: inside of autocast its halves become float32, and stay so within."""

    @functools.wraps(function)
    def wide(*args: Any, **kwargs: Any) -> Any:
        casting = mode.autocast
        if casting is None:
            return function(*args, **kwargs)
        given = [casting.cast(x, _FLOAT32) for x in args]
        named = {key: casting.cast(x, _FLOAT32) for key, x in kwargs.items()}
        with casts(None):
            return function(*given, **named)

    return wide  # type: ignore[return-value]
