"""A group of one rank: every verb is done as soon as it is called, without a thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..messages import Header
from .base import DEFAULT_TIMEOUT_S, Communicator


class AloneCommunicator(Communicator):
    """The communicator of a single process.

    >>> AloneCommunicator().all_reduce(np.ones(2), name="x").wait()
    array([1., 1.])
    """

    backend = "alone"

    def __init__(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        super().__init__(0, 1, timeout_s=timeout_s)

    def split(self, color: int, key: int | None = None) -> AloneCommunicator:
        return AloneCommunicator(timeout_s=self.timeout_s)

    def _post(self, dest: int, header: Header, view: memoryview) -> None:
        raise AssertionError("a group of one has nobody to send to")

    def _take(self, source: int, expected: Header, out: np.ndarray | None, deadline: float) -> Any:
        raise AssertionError("a group of one has nobody to receive from")

    def _flush(self, deadline: float) -> None:
        """Nothing was posted."""

    def _abort(self, reason: str) -> None:
        """There is nobody to tell."""
