"""The run ledger as a callback."""

from __future__ import annotations

import os
from typing import Any

from ..ledger import Ledger
from .base import Callback, Logs


class LedgerWriter(Callback):
    """Write loss and hashes of weights, optimizer and buffers after each step, as :class:`phalanx.Ledger` does.

    ``path`` None: do nothing. ``detail``: with the hash of each tensor, for ``phalanx diverge``.

    >>> callback = phalanx.callbacks.LedgerWriter(None)
    """

    place = 50

    def __init__(self, path: str | os.PathLike[str] | None, *, detail: bool = False) -> None:
        self.path, self.detail = path, detail
        self._ledger: Any = None

    def on_fit_begin(self, logs: Logs) -> None:
        self._ledger = Ledger(self.path, self.trainer.model, self.trainer.optimizer, detail=self.detail)

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._ledger.record(self.trainer.step)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
