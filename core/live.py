"""What a captured step does anew at each replay: calls that are more than ops on arrays.

Who updates parameters, draws at random or moves statistics is decorated with :func:`live`, one line each. While a thread
records (``core/capture``) such a call becomes one instruction and nothing inside of it is recorded; else it costs one look.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Listener(Protocol):
    """What :func:`live` and :func:`refuse` tell."""

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def refuse(self, reason: str) -> None: ...


class _Now(threading.local):
    recorder: Any = None
    """Of this thread alone: threads that work for a rank do not record for it."""


now = _Now()


class _Structure:
    stamp = object()
    """Another object after each attribute that a module got and each hook that came or went."""


structure = _Structure()


def live(function: F) -> F:
    """Decorator: a captured step calls ``function`` again at each replay.

    >>> live(len)("abc")
    3
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        recorder = now.recorder
        if recorder is None:
            return function(*args, **kwargs)
        return recorder.call(function, args, kwargs)

    return called  # type: ignore[return-value]


def feeds(function: F) -> F:
    """Decorator, below :func:`live`: on a device ``function`` only launches kernels, which take what changes from ``scalars.on_device``.

    A graph then keeps its kernels; before each launch it is called for these numbers alone.
    """
    function.feeds = True  # type: ignore[attr-defined]
    return function


def refuse(reason: str) -> None:
    """Said by what a replay cannot do: the step that is recorded now, if any, stays eager."""
    if now.recorder is not None:
        now.recorder.refuse(reason)
