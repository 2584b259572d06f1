"""What survivors of a lost rank agree on: is the step committed or not?

A commit message may have reached some of them and not others when its sender died. Every survivor says what it holds; all
learn of all. One exchange is not enough, since another rank may die in the middle of it, having told only some: the exchange
is repeated until the set of ranks that answered does not shrink any more, which with deaths as the only failure makes all
survivors end with the same set (the early-stopping rule of Dolev, Reischuk and Strong, "Early stopping in Byzantine
agreement", 1990, for crash failures).
"""

from __future__ import annotations

import time
from typing import Any

from .control import ALIVE, ControlMesh

MIN_ROUNDS = 2


class Agreement:
    """This rank's side; a listener of the control channel from the beginning, since others may ask first."""

    def __init__(self, mesh: ControlMesh) -> None:
        self._mesh = mesh
        self._number = 0
        self._heard: dict[tuple[int, int], dict[int, dict[int, bytes]]] = {}  # (call, round) -> source -> what it knew
        self._decided: dict[int, dict[int, bytes]] = {}  # call -> what a rank decided
        mesh.listeners.append(self)

    def control_message(self, source: int, message: dict[str, Any], payload: bytes) -> None:
        if message["kind"] != "resolve":
            return
        known, at = {}, 0
        for step, nbytes in message["steps"]:
            known[step] = payload[at : at + nbytes]
            at += nbytes
        with self._mesh.changed:
            if message["decided"]:
                self._decided[message["call"]] = known
            else:
                self._heard.setdefault((message["call"], message["round"]), {})[source] = known
            self._mesh.changed.notify_all()

    def control_changed(self) -> None:
        """Deaths are read from the mesh's peers."""

    def control_tick(self, now: float) -> None:
        """Nothing to do."""

    def resolve(self, step: int, payload: bytes | None, timeout_s: float) -> bytes | None:
        """``payload`` of ``step`` if any survivor has it, else None. Survivors that stay silent count as dead."""
        deadline = time.monotonic() + timeout_s
        with self._mesh.changed:
            self._number += 1
        call, known = self._number, {} if payload is None else {step: payload}
        answered_before: set[int] | None = None
        round_ = 0
        while True:
            round_ += 1
            self._send(call, round_, known, decided=False)
            heard, decision = self._wait(call, round_, deadline)
            for other in (*heard.values(), decision or {}):
                known |= other
            if time.monotonic() >= deadline:
                return known.get(step)
            if decision is not None or (round_ >= MIN_ROUNDS and set(heard) == answered_before):
                self._send(call, round_, known, decided=True)
                return known.get(step)
            answered_before = set(heard)

    def _send(self, call: int, round_: int, known: dict[int, bytes], *, decided: bool) -> None:
        steps = [[step, len(data)] for step, data in known.items()]
        message = {"kind": "resolve", "call": call, "round": round_, "decided": decided, "steps": steps}
        self._mesh.send_all(message, b"".join(known.values()))

    def _wait(
        self, call: int, round_: int, deadline: float
    ) -> tuple[dict[int, dict[int, bytes]], dict[int, bytes] | None]:
        mesh = self._mesh
        with mesh.changed:
            while True:
                heard = self._heard.setdefault((call, round_), {})
                silent = [r for r, peer in mesh.peers.items() if peer.state == ALIVE and r not in heard]
                left_s = deadline - time.monotonic()
                if not silent or call in self._decided or left_s <= 0:
                    return dict(heard), self._decided.get(call)
                mesh.changed.wait(left_s)
