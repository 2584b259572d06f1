"""Flight records on disk: one file for each rank, written when the job fails or when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .communicators.base import Communicator


def failed(communicator: Communicator, error: BaseException) -> None:
    """``communicator`` cannot go on because of ``error``."""
