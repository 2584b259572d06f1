"""An uncaught error on one rank ends the job: its traceback is printed once, the others are told, nobody waits for ever.

``phalanx.init()`` calls :func:`install` in a process that is one of several ranks, and :func:`attach` once it is
connected. Errors that another rank caused are printed as one line. ``sys.exit(n)`` with n other than 0 ends the job with
that code; a rank that leaves early in another way says goodbye (``Communicator.close``), so that those who wait for it
get an error.
"""

from __future__ import annotations

import atexit
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from . import interrupt
from .communicators.base import Communicator, reason_of
from .communicators.mpi_world import end_unmet
from .diagnosis import flight_file
from .errors import CommunicatorError, DeadlineError, MismatchError, PeerLostError

_INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells count
_CROSSING_S = 0.3
"""Longer than the news of an end is on its way: ranks that failed before they heard of each other then know it."""


class Ending:
    """How this process ends, as one rank of several. There is one per process."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.communicator: Communicator | None = None
        self.last_words: Callable[[BaseException], str] | None = None
        """Called before this rank ends with an error of the wire; what it says is printed behind the error."""
        self.exit_code = 0
        self._failed = threading.Lock()
        self._before = (sys.excepthook, threading.excepthook, sys.exit)

    def install(self) -> None:
        sys.excepthook, threading.excepthook = self.uncaught, self.uncaught_in_thread
        sys.exit = self.exit  # type: ignore[assignment]
        atexit.register(self.at_exit)

    def uninstall(self) -> None:
        sys.excepthook, threading.excepthook, sys.exit = self._before  # type: ignore[assignment]
        atexit.unregister(self.at_exit)

    def uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """In place of ``sys.excepthook``."""
        if not self._failed.acquire(blocking=False):
            return  # this rank has said why it ends
        interrupted = interrupt.ended(error)
        code = _INTERRUPTED_EXIT_CODE if interrupted else 1
        if self.communicator is not None:
            flight_file.failed(self.communicator, error.with_traceback(trace))
        if self.communicator is not None and not interrupted:
            self.communicator.abort(reason_of(error, self.rank))
        is_consequence = self._is_consequence(error)
        words = self._words(error, trace, is_consequence)
        if self.last_words is not None and isinstance(error, CommunicatorError):
            words += self.last_words(error) + "\n"
        print(words, file=sys.stderr, end="", flush=True)
        if self.communicator is not None:
            waits = is_consequence and not isinstance(error, PeerLostError)  # a lost rank will not say more
            self.communicator.end_job(reason_of(error, self.rank), code, is_consequence=waits)
        elif interrupted:
            end_unmet(code)

    def uncaught_in_thread(self, args: Any) -> None:
        """In place of ``threading.excepthook``: a job with a dead helper thread would compute something else."""
        if args.exc_type is not SystemExit:
            self.uncaught(args.exc_type, args.exc_value, args.exc_traceback)
            self.exit_code = 1

    def exit(self, status: Any = None) -> None:
        """In place of ``sys.exit``: keeps the code, which functions of ``atexit`` are not told."""
        self.exit_code = status if isinstance(status, int) else int(status is not None)
        atexit.unregister(self.at_exit)
        atexit.register(self.at_exit)  # before all others: they may say goodbye to ranks that must learn the code first
        self._before[2](status)

    def at_exit(self) -> None:
        """The end of a process that no exception ended."""
        if self.communicator is None:
            return
        if self.exit_code and self._failed.acquire(blocking=False):
            reason = f"rank {self.rank}: sys.exit({self.exit_code})"
            flight_file.failed(self.communicator, None, reason)
            print(
                f"rank {self.rank} of {self.size} ends the job: sys.exit({self.exit_code})", file=sys.stderr, flush=True
            )
            self.communicator.end_job(reason, self.exit_code)
        self.communicator.close()

    def _is_consequence(self, error: BaseException) -> bool:
        """Did another rank cause it, or does it say the same? Of those that fail alike together the lowest speaks for all.

        A rank that heard of another's end before its own error is one of the others; those that did not have told each
        other, and their messages have crossed.
        """
        if interrupt.ended(error):
            return False
        if isinstance(error, CommunicatorError) and (error.from_peer or isinstance(error, PeerLostError)):
            return True
        if self.communicator is None:
            return False
        together = isinstance(error, (DeadlineError, MismatchError))
        mine, crossed = _without_ranks(reason_of(error, self.rank)), time.monotonic() + _CROSSING_S
        while True:
            ended_by = self.communicator._ended_by()
            first = ended_by.pop(self.rank, None) is not None
            for other, reason in ended_by.items():
                alike = together or mine.startswith(_without_ranks(reason))  # MPI cuts long reasons
                if alike and (other < self.rank or not first):
                    return True
            if self.rank == 0 or not first or time.monotonic() >= crossed:
                return False
            time.sleep(0.01)

    def _words(self, error: BaseException, trace: TracebackType | None, is_consequence: bool) -> str:
        """A traceback where the error arose, one line where it was only felt."""
        who = f"rank {self.rank} of {self.size}"
        if interrupt.ended(error):
            return f"{who} stops: interrupted\n"
        if is_consequence and not isinstance(error, CommunicatorError):
            return f"{who} stops: the same {type(error).__name__}\n"
        if is_consequence:
            return f"{who} stops: {error}\n"
        return f"{who} failed:\n" + "".join(traceback.format_exception(type(error), error, trace))


def _without_ranks(reason: str) -> str:
    """A reason as it would read on any rank."""
    return re.sub(r"\brank \d+", "rank", reason)


_ending: Ending | None = None


def install(rank: int, size: int) -> Ending:
    """From now on an uncaught error is printed once, with the rank; a later call takes the place of an earlier one."""
    global _ending
    if _ending is not None:
        _ending.uninstall()
    _ending = Ending(rank, size)
    _ending.install()
    return _ending


def attach(communicator: Communicator, last_words: Callable[[BaseException], str] | None = None) -> None:
    """From now on the end of this process ends the job of ``communicator``, too. After :func:`install`."""
    if _ending is None:
        install(communicator.rank, communicator.size)
    assert _ending is not None
    _ending.communicator, _ending.last_words = communicator, last_words
