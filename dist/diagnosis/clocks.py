"""How far the clocks of the ranks are apart, so that their records can be laid side by side."""

from __future__ import annotations

import time

import numpy as np

from ..communicators.base import Communicator

ROUNDS = 16
"""Exchanges with each rank; the quickest one counts."""


def clock_offset(communicator: Communicator, rounds: int = ROUNDS) -> float:
    """This process's ``time.monotonic`` minus rank 0's, in seconds; rank 0's is 0. All ranks must call.

    Rank 0 asks each rank for its time and halves the way there and back, as NTP does (Mills 1991, "Internet time
    synchronization: the network time protocol"); of all rounds the one with the shortest way is taken, so that the error is
    at most half of that.

    >>> from phalanx.dist.communicators.alone import AloneCommunicator
    >>> clock_offset(AloneCommunicator())
    0.0
    """
    rank = communicator.rank
    if rank:
        for _ in range(rounds):
            communicator.recv(np.empty(1), 0, name="clock").wait()
            communicator.send(np.array([time.monotonic()]), 0, name="clock").wait()
    offsets = np.array(
        [0.0] + [0.0 if rank else _offset_of(communicator, r, rounds) for r in range(1, communicator.size)]
    )
    communicator.broadcast(offsets, root=0, name="clocks").wait()
    return float(offsets[rank])


def _offset_of(communicator: Communicator, rank: int, rounds: int) -> float:
    """Measured by rank 0."""
    measured, theirs = [], np.empty(1)
    for _ in range(rounds):
        began = time.monotonic()
        communicator.send(np.zeros(1), rank, name="clock").wait()
        communicator.recv(theirs, rank, name="clock").wait()
        ended = time.monotonic()
        measured.append((ended - began, theirs[0] - (began + ended) / 2))
    return min(measured)[1]
