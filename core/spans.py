"""Who wants to know how long things take: nobody, as a rule, and then a look at :data:`on` is all that it costs.

What takes time tells it when it is over::

    if spans.on:
        spans.tell("data", "wait for data", began, time.monotonic())

A listener belongs to a rank, and ranks can be threads. While there is one the ops in the op table are exchanged for ones that tell,
so that the hot path of ``graph.apply`` pays nothing when there is none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from .gpu_clock import GpuClock
from .op import TABLE
from .rank_local import of_rank

on = False
"""Whether anybody listens."""


class Listener(Protocol):
    """Hears of each span when it is over. Several threads of its rank may tell."""

    def span(self, kind: str, name: str, began: float, ended: float, about: Any) -> None:
        """``kind``: "forward", "backward", "optimizer", "communication", "wait", "data", "checkpoint", "gpu" (what its stream did) or "user"; times are those of
        ``time.monotonic``. ``about``: for ops the shapes of their arrays, otherwise a mapping or None.
        """


class _OfRank(threading.local):
    listener: Listener | None = None
    clock: GpuClock | None = None
    """Of the GPU that the rank's ops run on."""


_rank = of_rank(_OfRank())
_listeners: dict[int, Listener] = {}
"""By the thread that began to listen, the one of the training loop."""
_changing = threading.Lock()
_untimed: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
"""Op -> its own forward and vjp while they are exchanged."""
_timed: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def listen(listener: Listener) -> bool:
    """From now on ``listener`` hears of this rank's spans; False, and nothing changes, where somebody listens already."""
    global on
    with _changing:
        if threading.get_ident() in _listeners:
            return False
        if not _listeners:
            _exchange()
        _listeners[threading.get_ident()] = _rank.listener = listener
        _rank.clock = GpuClock()
        on = True
    return True


def stop(listener: Listener) -> None:
    """``listener`` hears of nothing more. Any thread may call it."""
    global on
    with _changing:
        for thread, known in list(_listeners.items()):
            if known is listener:
                del _listeners[thread]
        if _rank.listener is listener:
            _rank.listener = None
            if _rank.clock is not None:
                _rank.clock.finish()
                for name, began, ended, about in _rank.clock.spans:
                    listener.span("gpu", name, began, ended, about)
            _rank.clock = None
        on = bool(_listeners)
        if not on:
            _restore()


def tell(kind: str, name: str, began: float, ended: float, about: Any = None, owner: int = 0) -> None:
    """A span is over. ``owner``: the thread of the training loop that it belongs to, where this one is nobody's."""
    listener = _rank.listener or _listeners.get(owner)
    if listener is None and len(_listeners) == 1:
        listener = next(iter(_listeners.values()), None)
    if listener is not None:
        listener.span(kind, name, began, ended, about)


def mark() -> Any:
    """Where the GPU's stream stands, for :func:`tell_gpu`; None where nobody listens or there is none."""
    clock = _rank.clock
    return None if clock is None else clock.mark()


def tell_gpu(name: str, first: Any, about: Any = None) -> None:
    """What the GPU was given since ``first``, a :func:`mark`, is ``name``; how long it takes is told when nobody listens any more."""
    if first is not None and _rank.clock is not None:
        _rank.clock.keep(name, first, about)


@contextmanager
def span(kind: str, name: str, about: Mapping[str, Any] | None = None) -> Iterator[None]:
    """What happens within takes time; for what does not happen in every step."""
    began = time.monotonic()
    try:
        yield
    finally:
        if on:
            tell(kind, name, began, time.monotonic(), about)


# ---- ops -------------------------------------------------------------------------------------------------------------


def _exchange() -> None:
    for name, op in TABLE.items():
        # one of ours that somebody put back after we had gone must not be counted twice
        _untimed[name] = own = getattr(op.forward, "untimed", op.forward), getattr(op.vjp, "untimed", op.vjp)
        _timed[name] = forward, vjp = _timed_forward(name, own[0]), _timed_vjp(f"{name} backward", own[1])
        object.__setattr__(op, "forward", forward)
        object.__setattr__(op, "vjp", vjp)


def _restore() -> None:
    for name, (forward, vjp) in _untimed.items():
        op = TABLE[name]
        # what somebody else has put around ours meanwhile stays: ours pass on when nobody listens
        if op.forward is _timed[name][0]:
            object.__setattr__(op, "forward", forward)
        if op.vjp is _timed[name][1]:
            object.__setattr__(op, "vjp", vjp)
    _untimed.clear()
    _timed.clear()


def _timed_forward(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*inputs: Any, **attributes: Any) -> Any:
        if not on:
            return forward(*inputs, **attributes)
        first, began = mark(), time.monotonic()
        result = forward(*inputs, **attributes)
        shapes = _shapes(inputs)
        tell("forward", name, began, time.monotonic(), shapes)
        tell_gpu(name, first, shapes)
        return result

    timed.untimed = forward  # type: ignore[attr-defined]
    return timed


def _timed_vjp(name: str, vjp: Callable[..., Any]) -> Callable[..., Any]:
    def timed(saved: Any, gradient: Any, needs: Any, slots: Any) -> Any:
        if not on:
            return vjp(saved, gradient, needs, slots)
        first, began = mark(), time.monotonic()
        result = vjp(saved, gradient, needs, slots)
        shapes = _shapes(gradient if type(gradient) is tuple else (gradient,))
        tell("backward", name, began, time.monotonic(), shapes)
        tell_gpu(name, first, shapes)
        return result

    timed.untimed = vjp  # type: ignore[attr-defined]
    return timed


def _shapes(arrays: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple([x.shape for x in arrays if hasattr(x, "shape")])
