"""Results made ahead of time by background threads, handed out in order."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
END_DEADLINE_S = 5.0
"""How long the end of the interpreter waits for a thread that is inside of a data set."""


class _Shared(Generic[Task]):
    """What the threads see. They hold no reference to the Prefetcher, so that dropping it ends them."""

    def __init__(self, work: Callable[[Task], Any], tasks: Iterable[Task], ahead: int) -> None:
        self.work, self.ahead = work, ahead
        self.tasks: Iterator[Task] = iter(tasks)
        self.changed = threading.Condition()
        self.results: dict[int, tuple[Any, BaseException | None]] = {}
        self.begun = 0
        """How many tasks have been started."""
        self.taken = 0
        """How many results have been handed out."""
        self.closed = False

    def run(self) -> None:
        while (entry := self._next_task()) is not None:
            number, task = entry
            try:
                outcome: tuple[Any, BaseException | None] = (self.work(task), None)
            except BaseException as error:  # carried to the training loop
                outcome = (None, error)
            del task
            with self.changed:
                self.results[number] = outcome
                self.changed.notify_all()
            del outcome

    def _next_task(self) -> tuple[int, Task] | None:
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.begun - self.taken < self.ahead)
            if self.closed:
                return None
            for task in self.tasks:
                self.begun += 1
                return self.begun - 1, task
            self.closed = True
            self.changed.notify_all()
            return None


class Inline(Generic[Task]):
    """The same without threads: ``take()`` does the next task's work."""

    def __init__(self, work: Callable[[Task], Any], tasks: Iterable[Task]) -> None:
        self._work, self._tasks = work, iter(tasks)

    def take(self) -> Any:
        return self._work(next(self._tasks))

    def close(self) -> None:
        """No more tasks."""
        self._tasks = iter(())


class Prefetcher(Generic[Task]):
    """Does ``work(task)`` for the tasks on ``threads`` threads, at most ``ahead`` beyond the last result taken.

    >>> with Prefetcher(abs, [-1, -2, -3], ahead=2) as results: [results.take() for _ in range(3)]
    [1, 2, 3]
    """

    def __init__(self, work: Callable[[Task], Any], tasks: Iterable[Task], *, ahead: int, threads: int = 1) -> None:
        self._shared = shared = _Shared(work, tasks, max(ahead, threads))
        self._threads = [
            threading.Thread(target=shared.run, name=f"phalanx-prefetch-{number}", daemon=True)
            for number in range(threads)
        ]
        self._finalize = weakref.finalize(self, _end, shared, self._threads, END_DEADLINE_S)
        for thread in self._threads:
            thread.start()

    def take(self) -> Any:
        """The next result, in the order of the tasks; raises what its work raised."""
        shared = self._shared
        with shared.changed:
            shared.changed.wait_for(lambda: shared.taken in shared.results)
            result, error = shared.results.pop(shared.taken)
            shared.taken += 1
            shared.changed.notify_all()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Start no more work and wait until the threads have ended."""
        self._finalize.detach()
        _end(self._shared, self._threads, None)

    def __enter__(self) -> Prefetcher[Task]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _end(shared: _Shared[Any], threads: list[threading.Thread], deadline_s: float | None) -> None:
    with shared.changed:
        shared.closed = True
        shared.results.clear()
        shared.tasks = iter(())  # what makes tasks may know who uses their results: a circle that would keep both
        shared.changed.notify_all()
    for thread in threads:
        # the collector may run this on one of the threads themselves; one whose start was interrupted cannot be joined
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(deadline_s)
