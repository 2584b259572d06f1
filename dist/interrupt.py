"""Ctrl-C in a rank: KeyboardInterrupt reaches the script as ever, but none is lost and none ends in a traceback.

Python raises it wherever the main thread stands. In a destructor or a callback of C it could only be printed, and the rank
would go on; after the script's end it would break what says goodbye to the others. So here it is raised again where it can
be felt, and not at all once the script has ended. A rank of ``phalanx run`` takes this up with ``import phalanx``, others with
``phalanx.init()``. A process that is no rank is left to Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import CodeType, FrameType, TracebackType
from typing import Any

from . import env
from .errors import LaunchError

MARK = int(signal.SIGRTMAX) - 6 if hasattr(signal, "SIGRTMAX") else 0
"""A signal that nobody sends. That a rank catches it tells its launcher, by /proc, that SIGINT will be answered well.

Before, while the interpreter starts and imports, SIGINT would end the rank with a traceback; SIGTERM ends it in silence.
"""
AGAIN_S = 0.02
"""From an interrupt that could not be raised to the next try."""
DESTRUCTOR_S = 1.0
LATER_S = {"importlib": 1.0, "numba": 2.5, "llvmlite": 2.5}
"""Packages that an error between two of their lines may leave in a state that the interpreter's end cannot bear (LLVM crashed), and
how long an interrupt waits for them to return: somebody's whole training may lie in an import, and the launcher loses patience after 3 s.
"""
IMPATIENT_S = 0.5
"""A signal that comes so long after one that found the script ended is from somebody who waits for that end in vain."""


class _State:
    main: CodeType | None = None
    """What runs in the main thread's outermost frame until the script ends."""
    since_s: float | None = None
    """When the first signal came that has not been raised yet."""
    after_end_s: float | None = None
    """When the first signal came that found the script ended."""
    excepthook: Any = None
    unraisablehook: Any = None
    """Who was told of errors that nobody caught, and of those that cannot be raised."""


def answer() -> None:
    """From now on this process answers SIGINT, in the main thread alone; a handler of the user's own is left alone."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _State.main = _outermost(sys._getframe()).f_code
        _State.excepthook, sys.excepthook = sys.excepthook, _uncaught
        _State.unraisablehook, sys.unraisablehook = sys.unraisablehook, _unraisable
        signal.signal(signal.SIGINT, _on_signal)
    if MARK and signal.getsignal(MARK) is signal.SIG_DFL:
        signal.signal(MARK, _do_nothing)


def answers(status: str) -> bool:
    """Does a process answer SIGINT, by the text of its /proc/PID/status?

    >>> answers("SigCgt:\\t0000000000000002")
    False
    """
    words = status.partition("SigCgt:")[2].split()
    return not MARK or (bool(words) and bool(int(words[0], 16) >> (MARK - 1) & 1))


def ended(error: BaseException) -> bool:
    """Is it an interrupt that ended the script, or ``error`` while one waited for its moment?"""
    return isinstance(error, KeyboardInterrupt) or _State.since_s is not None


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if frame is not None and _in_script(frame):
        if _State.since_s is None:
            _State.since_s = now
        if now - _State.since_s < _patience_s(frame):
            _try_again()
            return
        _State.since_s = None
        raise KeyboardInterrupt
    if _State.after_end_s is None:
        _State.after_end_s = now
    elif now - _State.after_end_s > IMPATIENT_S:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _in_script(frame: FrameType) -> bool:
    """Not in a hook for an error that nobody caught, in threading's end, in a function of atexit."""
    code = _outermost(frame).f_code
    return code is _State.main or code.co_name == "<module>"


def _patience_s(frame: FrameType | None) -> float:
    """How long to wait for what is under way: a destructor, or one of ``LATER_S``."""
    patience_s = 0.0
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        own_s = DESTRUCTOR_S if frame.f_code.co_name == "__del__" else 0.0
        patience_s = max(patience_s, own_s, LATER_S.get(package, 0.0))
        frame = frame.f_back
    return patience_s


def _outermost(frame: FrameType) -> FrameType:
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of ``sys.excepthook``, until ``phalanx.init()`` in one of several ranks puts its own there."""
    if not ended(error):
        _State.excepthook(kind, error, trace)
        return
    with contextlib.suppress(LaunchError):
        found = env.read(os.environ)
        who = "" if found is None else f"rank {found.rank} of {found.size} "
        print(f"{who}stops: interrupted", file=sys.stderr, flush=True)


def _unraisable(unraisable: Any) -> None:
    """In place of ``sys.unraisablehook``."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _try_again()
    else:
        _State.unraisablehook(unraisable)


def _try_again() -> None:
    with contextlib.suppress(RuntimeError):  # the interpreter ends and starts no thread any more
        threading.Thread(target=_again, name="phalanx-interrupt", daemon=True).start()


def _again() -> None:
    time.sleep(AGAIN_S)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A handler; a signal without one would end the process."""
