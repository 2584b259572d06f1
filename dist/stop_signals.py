"""SIGTERM and SIGUSR1 as a wish: the ranks of this process that listen vote for a stop instead of ending at once."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, Protocol


class Listener(Protocol):
    """A rank that can stop when asked to."""

    stop_heard: str | None


_listening: list[Listener] = []


def listen(rank: Listener) -> None:
    """From now on the signals ask ``rank`` to stop."""
    if rank not in _listening:
        _listening.append(rank)
    pass_on()


def forget(rank: Listener) -> None:
    """``rank`` has left."""
    if rank in _listening:
        _listening.remove(rank)


def pass_on() -> None:
    """From now on the signals ask those ranks of this process that listen; in the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: Any) -> None:
    ranks = list(_listening)
    if not ranks or any(rank.stop_heard for rank in ranks):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    for rank in ranks:
        rank.stop_heard = signal.Signals(number).name
