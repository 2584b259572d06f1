"""Whether the graph records: a thread-local switch, because ranks can be threads of one process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from .rank_local import of_rank

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    enabled = True
    anomaly = False
    """Whether backward looks for NaN."""
    autocast: Any = None
    """Inside of ``amp.autocast``: what says in which precision an op runs (``amp/casting.py``)."""


mode = of_rank(_Mode())


@contextmanager
def casts(autocast: Any) -> Iterator[None]:
    """Within the block ops are cast as ``autocast`` says; None: not at all."""
    before, mode.autocast = mode.autocast, autocast
    try:
        yield
    finally:
        mode.autocast = before


class set_grad_enabled:
    """Switch recording on or off: as a statement from now on, as a context or decorator for what is inside.

    >>> with phalanx.set_grad_enabled(False):
    ...     phalanx.is_grad_enabled()
    False
    """

    def __init__(self, mode_: bool) -> None:
        self._before = mode.enabled
        self._mode = bool(mode_)
        mode.enabled = self._mode

    def __enter__(self) -> None:
        mode.enabled = self._mode

    def __exit__(self, *exception: object) -> None:
        mode.enabled = self._before

    def __call__(self, function: F) -> F:
        mode.enabled = self._before  # as a decorator it says nothing about what stands outside
        return _decorated(function, self._mode)


def _decorated(function: F, enabled: bool) -> F:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        before, mode.enabled = mode.enabled, enabled
        try:
            return function(*args, **kwargs)
        finally:
            mode.enabled = before

    return inner  # type: ignore[return-value]


class _Switch:
    """A context manager and decorator that sets recording to ``enabled`` inside."""

    enabled: bool

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        """``@no_grad`` without parentheses decorates too."""
        return super().__new__(cls) if function is None else _decorated(function, cls.enabled)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        mode.enabled = self.enabled

    def __exit__(self, *exception: object) -> None:
        mode.enabled = self._before.pop()

    def __call__(self, function: F) -> F:
        return _decorated(function, self.enabled)


class no_grad(_Switch):
    """Nothing inside is recorded: results want no gradient. A context manager and a decorator.

    >>> with phalanx.no_grad():
    ...     phalanx.is_grad_enabled()
    False
    """

    enabled = False


class enable_grad(_Switch):
    """Record inside, also where a ``no_grad`` stands around it. A context manager and a decorator.

    >>> with phalanx.no_grad(), phalanx.enable_grad():
    ...     phalanx.is_grad_enabled()
    True
    """

    enabled = True


inference_mode = no_grad


def is_grad_enabled() -> bool:
    """Whether this thread records.

    >>> phalanx.is_grad_enabled()
    True
    """
    return mode.enabled
