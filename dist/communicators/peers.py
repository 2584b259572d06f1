"""Communicators whose ranks also hold control connections to each other (:mod:`..control`): how they hear of ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..control import LEFT, LOST, ControlMesh
from ..diagnosis.watch import STALL_S, lost_message
from ..errors import AbortedError, PeerLostError
from ..member import Member
from ..messages import consequence
from .base import Communicator

LOST_GRACE_S = 0.3
"""After a death, how long what was sent before it may still arrive."""
LEFT_GRACE_S = 1.0


class Peers:
    """What all groups of one job share in this process: the other ranks, and what they say beside the gradients."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        self.stall_s = stall_s
        self.mesh: ControlMesh | None = None
        self.members: list[Member] = []
        self.left: dict[tuple[str, int], float] = {}
        """(group, rank of the job) -> when we heard that it closed that group."""
        self.groups: list[PeeredCommunicator] = []

    def connect(self, mesh: ControlMesh, members: Sequence[Member], deadline: float) -> None:
        """Connect to all other ranks; ``deadline`` in ``time.monotonic`` seconds."""
        self.members, self.mesh = list(members), mesh
        mesh.listeners.append(self)
        mesh.join(deadline)

    def close(self) -> None:
        """Say goodbye to the other ranks."""
        if self.mesh is not None:
            self.mesh.close()

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None:
        if message["kind"] == "left":
            self.left[message["group"], source] = time.monotonic()
            self.control_changed()

    def control_changed(self) -> None:
        for group in list(self.groups):
            group.wake()

    def control_tick(self, now: float) -> None:
        for group in list(self.groups):
            group.look_at_links(now)


class PeeredCommunicator(Communicator):
    """One rank of a group; ``ranks``: the members' numbers in the job, ``group``: a name that no other group has."""

    def __init__(self, peers: Peers, ranks: Sequence[int], group: str, *, timeout_s: float) -> None:
        assert peers.mesh is not None
        super().__init__(ranks.index(peers.mesh.rank), len(ranks), timeout_s=timeout_s)
        self._peers, self._mesh, self._ranks, self._group = peers, peers.mesh, list(ranks), group
        self.job_ranks, self.stall_s = self._ranks, peers.stall_s
        peers.groups.append(self)

    def _hosts(self) -> list[str]:
        """The identity of each rank's host, in the order of ranks."""
        return [self._member(rank).identity for rank in range(self.size)]

    def _member(self, rank: int) -> Member:
        return self._peers.members[self._ranks[rank]]

    def _is_remote(self, rank: int) -> bool:
        return self._member(rank).identity != self._member(self.rank).identity

    def wake(self) -> None:
        """Let whoever waits here for data look at the control channel's news. Any thread."""

    def look_at_links(self, now: float) -> None:
        """Called every half second by the control thread."""

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _look(self, ranks: Sequence[int]) -> None:
        for rank in ranks:
            self._raise_if_ended(rank)

    def _raise_if_ended(self, source: int) -> None:
        self._raise_if_over()
        gone = self._gone(source)
        if gone is not None:
            left, since = gone
            if time.monotonic() - since > (LEFT_GRACE_S if left else LOST_GRACE_S):
                raise self._lost_error(self._ranks[source], left)

    def _raise_if_over(self) -> None:
        end = self._mesh.ended
        if end is not None:
            if end.lost and end.lost[0] != self._mesh.rank:
                raise self._lost_error(end.lost[0], False)
            raise AbortedError(end.reason) if end.told_by == self._mesh.rank else consequence(end.reason)

    def _gone(self, source: int) -> tuple[bool, float] | None:
        """(left in good order, since when) for a rank of this group that is not there any more."""
        peer = self._mesh.peers[self._ranks[source]]
        if peer.state == LOST:
            return False, peer.since
        left = self._peers.left.get((self._group, self._ranks[source]))
        if left is None and peer.state == LEFT:
            left = peer.since
        return None if left is None else (True, left)

    def _lost_error(self, job_rank: int, left: bool) -> PeerLostError:
        member, why = self._peers.members[job_rank], "" if left else self._mesh.peers[job_rank].why
        return PeerLostError(lost_message(self._mesh.rank, member, self.current, left, why))

    def _abort(self, reason: str) -> None:
        self._mesh.abort(reason)

    def _ended_by(self) -> dict[int, str]:
        return {self._ranks.index(rank): why for rank, why in list(self._mesh.ended_by.items()) if rank in self._ranks}

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        peers = self._peers
        if self is peers.groups[0]:  # the group of all ranks: the others cannot live without it
            for group in peers.groups[:0:-1]:
                group.close()
        for rank in range(self.size):
            if rank != self.rank:
                self._mesh.send(self._ranks[rank], {"kind": "left", "group": self._group})
        self._release()
        if self is peers.groups[0]:
            peers.close()
        else:
            peers.groups.remove(self)

    def _release(self) -> None:
        """Let go of what the wire holds for this group."""
