"""The processes of an elastic job, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Of a slot."""

    STARTING = "starting"
    """A newcomer that builds its model."""
    READY = "ready"
    """A newcomer that waits to be taken in."""
    MEMBER = "member"
    FINISHED = "finished"
    GONE = "gone"


@dataclass(slots=True)
class Slot:
    """A process of the job."""

    number: int
    host: str
    node: int = 0
    state: State = State.MEMBER


@dataclass(frozen=True, slots=True)
class Limits:
    """How many ranks a job may have."""

    minimum: int
    maximum: int
    wait_s: float = 120.0
    """Below the minimum: how long the job waits for new ranks."""
    requeue: int = 75
    """The exit code that asks a scheduler to start the job again, where too few ranks are left."""
    stop_code: int = 0
    """The exit code of a job that was asked to stop."""
