"""``autocast``: inside of it products run in half precision, and what would suffer runs in float32."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..backend import as_dtype
from ..errors import DTypeError, RangeError
from ..mode import mode
from .casting import Casting

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = {"cuda": "float16", "cpu": "bfloat16"}
"""The low dtype of a device, as in PyTorch."""


class autocast:
    """Inside of it products and convolutions run in half precision, losses and exponentials in float32. A context and a decorator.

    Parameters stay float32, and so do their gradients: what an op needs low is cast before it runs. Use it around forward and loss, not
    around ``backward()``, whose ops run in the precision that their forward had. With float16 small gradients vanish: see
    :class:`GradScaler`; bfloat16 needs none. A parameter that is changed by hand inside of the block is seen from the next block on
    (an optimizer's update at once).

    Args:
        device_type: "cuda" or "cpu": ops on the other device are left alone.
        dtype: ``phalanx.bfloat16`` or ``phalanx.float16``; None: float16 on "cuda" and bfloat16 on "cpu", as PyTorch has it.
        enabled: False: everything inside runs as without autocast.
        cache_enabled: keep the low copy of the parameters until the outermost block ends.

    Raises RangeError for another device, DTypeError for another dtype. Micikevicius et al., "Mixed precision training", 2018.

    >>> layer = nn.Linear(2, 2)
    >>> with phalanx.autocast("cpu", dtype=phalanx.float16):
    ...     y = layer(phalanx.ones(1, 2))
    ...     loss = y.sum()
    >>> y.dtype, loss.dtype, layer.weight.dtype
    (dtype('float16'), dtype('float32'), dtype('float32'))
    """

    def __init__(
        self, device_type: str = "cuda", dtype: Any = None, enabled: bool = True, cache_enabled: bool = True
    ) -> None:
        kind = str(device_type).partition(":")[0]
        if kind not in DEFAULT:
            raise RangeError(f'autocast expects device_type "cuda" or "cpu", got {device_type!r}')
        self.device, self.enabled, self._keep = kind, bool(enabled), bool(cache_enabled)
        self._dtype: np.dtype | None = None
        if self.enabled:
            self._dtype = as_dtype(DEFAULT[kind] if dtype is None else dtype)
            if self._dtype.name not in ("float16", "bfloat16"):
                raise DTypeError(f"autocast expects dtype float16 or bfloat16, got {self._dtype}")
        self._before: dict[int, list[Any]] = {}
        """Thread -> what was around each block that it is in: shards that are under way together share this object."""

    def __enter__(self) -> autocast:
        outer = mode.autocast
        self._before.setdefault(threading.get_ident(), []).append(outer)
        if not self.enabled or self._dtype is None:
            mode.autocast = None
            return self
        casting = Casting(self.device, self._dtype, self._keep)
        if outer is not None and outer.signature == casting.signature:
            casting = outer
        mode.autocast = casting
        return self

    def __exit__(self, *exception: object) -> None:
        mine = self._before[threading.get_ident()]
        mode.autocast = mine.pop()
        if not mine:
            del self._before[threading.get_ident()]

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.__class__._like(self):
                return function(*args, **kwargs)

        return inside  # type: ignore[return-value]

    @classmethod
    def _like(cls, other: autocast) -> autocast:
        """A fresh one with the same options: a decorated function may run in several threads at once."""
        return autocast(other.device, other._dtype, other.enabled, other._keep)


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether this thread is inside of an :class:`autocast` for a kind of device.

    >>> phalanx.is_autocast_enabled("cpu")
    False
    """
    return mode.autocast is not None and mode.autocast.device == str(device_type).partition(":")[0]


def get_autocast_dtype(device_type: str) -> np.dtype:
    """What products on a kind of device run in inside of :class:`autocast`; outside, what they would run in.

    >>> phalanx.get_autocast_dtype("cuda")
    dtype('float16')
    """
    kind = str(device_type).partition(":")[0]
    if kind not in DEFAULT:
        raise RangeError(f'get_autocast_dtype expects device_type "cuda" or "cpu", got {device_type!r}')
    return mode.autocast.dtype if is_autocast_enabled(kind) else as_dtype(DEFAULT[kind])


def custom_fwd(function: Any = None, *, device_type: str = "cuda", cast_inputs: Any = None) -> Any:
    """Decorator of an ``autograd.Function``'s ``forward``: it runs outside of autocast, its tensors cast to ``cast_inputs`` if given.

    >>> phalanx.amp.custom_fwd(lambda ctx, x: x.dtype, cast_inputs=phalanx.float32)(None, phalanx.ones(1))
    dtype('float32')
    """
    if function is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(function)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if cast_inputs is None or mode.autocast is None:
            return function(*args, **kwargs)
        wanted = as_dtype(cast_inputs)
        given = [mode.autocast.cast(x, wanted) for x in args]
        with autocast(device_type, enabled=False):
            return function(*given, **{key: mode.autocast.cast(x, wanted) for key, x in kwargs.items()})

    return forward


def custom_bwd(function: Any = None, *, device_type: str = "cuda") -> Any:
    """Decorator of an ``autograd.Function``'s ``backward``, which runs outside of autocast here anyway.

    >>> phalanx.amp.custom_bwd(len)("ab")
    2
    """
    return functools.partial(custom_bwd, device_type=device_type) if function is None else function
