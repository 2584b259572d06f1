"""One save from the ranks' bytes to the commit, at once or while training goes on.

Two phases: every rank writes its bytes, then rank 0 commits. In the background each is done by a thread of its own that sends no
message; between them the ranks meet only where the Checkpointer is called, after a step. That every rank is through is asked there by a
message of one word on the control channel, and only while a save is under way.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core import spans
from ..core.checkpoint.format import Layout, Range, share
from ..core.checkpoint.parts import Part, Portion, portion
from ..core.checkpoint.store import Store
from ..core.owned import OwnPart
from ..core.rank_local import carried, take_over
from .checkpoint_agreement import Agreement
from .errors import CommunicatorError
from .exchanges import Regrouped


class Task:
    """An action that is done by a thread; ``result()`` waits for it and gives what it gave, or raises what it raised."""

    def __init__(self, action: Callable[[], Any], name: str) -> None:
        self._action, self._name, self._state = action, name, carried()
        self._value: Any = None
        self._error: BaseException | None = None
        # a daemon: a disk that answers no more must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        take_over(self._state)
        try:
            with spans.span("checkpoint", self._name):
                self._value = self._action()
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value


class Direct:
    """The same without a thread: done where the result is asked for."""

    done = True

    def __init__(self, action: Callable[[], Any], name: str) -> None:
        self.result = action


class Save:
    """A save for which rank 0 has made ``folder``.

    Args:
        write: writes this rank's bytes and tells their checksums.
        commit: on rank 0, makes the checkpoint of all ranks' parts; returns its folder.
        background: whether threads do that.
    """

    def __init__(
        self,
        agreement: Agreement,
        store: Store,
        step: int,
        folder: Path,
        *,
        write: Callable[[], list[Part]],
        commit: Callable[[list[Part]], Path],
        background: bool,
    ) -> None:
        self.step = step
        self.path: Path | None = None
        """The new checkpoint, when the save is over and went well."""
        self.problem = ""
        self.over = False
        self._agreement, self._store, self._folder, self._commit = agreement, store, folder, commit
        self._kind: type[Task] | type[Direct] = Task if background else Direct
        self._task: Task | Direct = self._kind(write, "phalanx-checkpoint")
        self._next = self._written
        self._left = weakref.finalize(self, _left_behind, agreement, store, folder, step)

    def advance(self, *, wait: bool) -> None:
        """Go on as far as all ranks can at once; with ``wait`` to the end. Collective."""
        while not self.over and (wait or self._agreement.all_true("progress", self._task.done)):
            self._next()

    def _written(self) -> None:
        rows, self.problem = self._agreement.on_all_ranks("write", self._task.result)
        if rows is None:
            self._end(None)
            return
        action: Callable[[], Any] = str
        if self._agreement.rank == 0:
            parts = [Part(*row) for own in rows for row in own]
            action = lambda: str(self._commit(parts))  # noqa: E731
        self._task = self._kind(action, "phalanx-checkpoint")
        self._next = self._committed

    def _committed(self) -> None:
        path, self.problem = self._agreement.on_rank_0("commit", self._task.result)
        self._end(path)

    @contextlib.contextmanager
    def dropped_with_ranks(self) -> Iterator[None]:
        """Within: when the ranks become others, what was written is removed, since nobody can complete it."""
        try:
            yield
        except (Regrouped, CommunicatorError):
            self._left.detach()
            if self._agreement.rank == 0:
                self._store.abandon(self._folder)
            raise

    def _end(self, path: str | None) -> None:
        if path is None:
            self._agreement.on_rank_0("abandon", lambda: self._store.abandon(self._folder))
        self.path, self.over = None if path is None else Path(path), True
        self._left.detach()


def portion_of(
    agreement: Agreement, layout: Layout, arrays: Mapping[str, np.ndarray | OwnPart], block_nbytes: int
) -> Portion:
    """What this rank writes: of what is spread over the ranks each its own; the rest they share."""
    rest = {entry.file for entry in layout.tensors if not isinstance(arrays[entry.name], OwnPart)}
    shared = [entry for entry in layout.files if entry.name in rest]
    ranges = share(shared, agreement.size, block_nbytes)[agreement.rank]
    if agreement.rank == 0:
        ranges += [Range(entry.name, 0, entry.header_nbytes) for entry in layout.files if entry not in shared]
    return portion(layout, ranges, arrays)


def _left_behind(agreement: Agreement, store: Store, folder: Path, step: int) -> None:
    """The process ends, or nobody remembers the save: nobody can commit it any more."""
    agreement.say(f"the save after step {step} was not finished, so it is dropped: call wait() after the last step")
    if agreement.rank == 0:
        with contextlib.suppress(OSError):
            store.abandon(folder)
