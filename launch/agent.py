"""The agent: one process on each host of a job, started there by ssh, which starts and watches that host's ranks.

Its life hangs on its stdin: when the launcher, the ssh connection or the network ends, so do the agent's ranks. What it is
to do comes through stdin as well, so that the job's secret is on no command line. Run as ``python -m phalanx.launch.agent``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..dist import env
from ..dist.errors import LaunchError
from ..dist.host import host_identity, networks
from ..dist.member import address_of, listen
from . import frames
from .channel import Channel
from .frames import BEAT_S, MAGIC, SILENCE_S, Frames, Kind
from .process import Guardian, Process, is_stopped, spawn

PROBE_S = 5.0
"""For another host to answer."""
DRAIN_S = 2.0
"""For the last output of ranks that have ended, which a child of theirs may keep open."""


def main() -> None:
    """Serve the launcher at the other end of stdin and stdout."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # the launcher's to pass on; ignored ones the ranks would ignore, too
    out = os.dup(1)
    os.dup2(2, 1)  # whatever prints does not disturb the frames
    frames.write_all(out, MAGIC + frames.words(Kind.HELLO, hello()))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Agent(0, out).run()


def hello() -> dict[str, Any]:
    """What the launcher must know of this host."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "version": version(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "identity": host_identity(),
        "networks": networks(),
        "cores": cores,
        "pid": os.getpid(),
    }


def version() -> str:
    """Of the package that runs; the face holds it, which the launcher's parts do not import."""
    return str(sys.modules[__package__.partition(".")[0]].__version__)


class Agent:
    """Reads frames from ``source``, writes frames to ``sink``; ``run`` ends with the last rank or with ``source``."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._frames = Frames()
        self._listening: socket.socket | None = None
        self._ranks: dict[int, Process] = {}
        self._pipes: dict[int, tuple[int, Kind]] = {}
        self._guardian: Guardian | None = None
        self._over = False
        self._channels: dict[int, Channel] = {}
        """Of an elastic job: the membership channel of each rank."""
        self._stays = False
        """Does the agent of an elastic job stay for more ranks?"""
        self._unheard = bytearray()
        self._heard_at = self._said_at = 0.0
        self._wake, self._wake_write = os.pipe()

    def run(self) -> None:
        for end in (self._wake, self._wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        started = False
        try:
            while not self._over and (self._stays or not (started and not self._ranks)):
                self._turn(1.0)
                started = started or bool(self._ranks)
                self._reap()
                if self._stays:
                    self._keep_in_touch(time.monotonic())
            self._drain()
        finally:
            self._kill()
        if started and not self._over:
            self._send(frames.frame(Kind.DONE))

    # --- one turn --------------------------------------------------------------------------------------------------

    def _turn(self, pause_s: float) -> bool:
        poll = select.poll()
        ranks = {channel.descriptor: rank for rank, channel in self._channels.items() if channel.open}
        for descriptor in (self._source, self._wake, *self._pipes, *ranks):
            poll.register(descriptor, select.POLLIN)
        ready = {
            descriptor for descriptor, _ in poll.poll(1000 * (min(pause_s, BEAT_S / 2) if self._stays else pause_s))
        }
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._source in ready:
            self._take()
        self._listen_to_launcher()
        for descriptor in ready & ranks.keys():
            self._hand_on(ranks[descriptor])
        read = [descriptor for descriptor in self._pipes if descriptor in ready]
        for descriptor in read:
            self._forward(descriptor)
        return bool(read)

    def _take(self) -> None:
        data = os.read(self._source, 1 << 16)
        self._over = self._over or not data
        self._unheard += data
        self._heard_at = time.monotonic()

    def _listen_to_launcher(self) -> None:
        data, self._unheard = bytes(self._unheard), bytearray()
        for kind, number, payload in self._frames.feed(data):
            if kind == Kind.SIGNAL and number in self._ranks:
                self._ranks[number].send(int(payload))
            elif kind == Kind.END:
                self._over = True
            elif kind == Kind.LEAVE:
                self._stays = False
                os.set_blocking(self._sink, True)
            elif kind == Kind.TELL and number in self._channels:
                self._channels[number].send(payload)
            elif kind in (Kind.LISTEN, Kind.PROBE, Kind.START):
                self._send(frames.words(Kind.ANSWER, self._do(kind, json.loads(payload))))

    def _do(self, kind: Kind, asked: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if kind == Kind.LISTEN:
                return self._bind(asked["address"])
            return self._probe(asked["address"]) if kind == Kind.PROBE else self._start(asked)
        except (LaunchError, OSError) as error:
            return {"error": str(error)}

    def _forward(self, descriptor: int) -> None:
        rank, kind = self._pipes[descriptor]
        data = os.read(descriptor, 1 << 16)
        if data:
            self._send(frames.frame(kind, rank, data))
        else:
            del self._pipes[descriptor]
            os.close(descriptor)

    def _reap(self) -> None:
        for rank, process in list(self._ranks.items()):
            code = process.poll()
            if code is not None:
                del self._ranks[rank]
                if rank in self._channels:
                    self._hand_on(rank)
                    self._channels.pop(rank).close()
                while self._pipes_of(rank) and self._turn(0.0):
                    pass  # what it wrote comes before the word that it has ended
                self._send(frames.frame(Kind.EXIT, rank, str(code).encode()))

    def _drain(self) -> None:
        end = time.monotonic() + DRAIN_S
        while self._pipes and not self._over and time.monotonic() < end:
            self._turn(0.1)

    def _pipes_of(self, rank: int) -> list[int]:
        return [descriptor for descriptor, (whose, _) in self._pipes.items() if whose == rank]

    def _hand_on(self, rank: int) -> None:
        """What a rank said to the launcher's membership."""
        for line in self._channels[rank].read():
            self._send(frames.frame(Kind.SAID, rank, line))

    def _keep_in_touch(self, now: float) -> None:
        """Say that this host is there; without a word from the launcher the others go on without this host, so its ranks end."""
        for channel in self._channels.values():
            if channel.waiting:
                channel.send()
        if now >= self._said_at + BEAT_S:
            self._said_at = now
            stopped = [rank for rank, process in self._ranks.items() if is_stopped(process.popen.pid)]
            self._send(frames.words(Kind.HERE, stopped))
        if now >= self._heard_at + SILENCE_S:
            self._over = True

    def _send(self, data: bytes) -> None:
        """Write a frame. In an elastic job not longer than the launcher gives signs of life."""
        if not self._stays:
            frames.write_all(self._sink, data)
            return
        view = memoryview(data)
        while view and not self._over:
            poll = select.poll()
            poll.register(self._sink, select.POLLOUT)
            poll.register(self._source, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(1000 * BEAT_S)}
            if self._sink in ready:
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self._sink, view) :]
            if self._source in ready:
                self._take()
            self._over = self._over or time.monotonic() >= self._heard_at + SILENCE_S

    # --- what the launcher asks -------------------------------------------------------------------------------------

    def _bind(self, host: str) -> dict[str, Any]:
        if self._listening is not None:
            self._listening.close()
        self._listening = listen((host, 0))
        return {"port": self._listening.getsockname()[1]}

    def _probe(self, address: str) -> dict[str, Any]:
        with socket.create_connection(address_of(address), timeout=PROBE_S):
            return {}

    def _start(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        mark = f"{env.AGENT}={asked['mark']}"
        self._guardian = self._guardian or Guardian(mark)
        if asked.get("elastic") and not self._stays:
            self._stays, self._heard_at = True, time.monotonic()
            os.set_blocking(self._sink, False)
        base = env.without_ranks(os.environ) | {env.AGENT: asked["mark"]}
        for row in asked["ranks"]:
            rank, environ = int(row["rank"]), {**base, **row["environment"]}
            streams: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
            }
            if rank == 0 and self._listening is not None:
                descriptor = self._listening.fileno()
                environ[env.NAMES["rendezvous_fd"]] = str(descriptor)
                streams["pass_fds"] = (descriptor,)
            if self._stays:
                channel = self._channels[rank] = Channel()
                environ[env.MEMBERSHIP_FD] = str(channel.give())
                streams["pass_fds"] = (*streams.get("pass_fds", ()), channel.give())
            process = spawn(f"rank {rank}", row["command"], environ, cores=row["cores"], **streams)
            if self._stays:
                channel.given()
            self._ranks[rank] = process
            for kind, pipe in ((Kind.OUT, process.popen.stdout), (Kind.ERR, process.popen.stderr)):
                assert pipe is not None
                self._pipes[os.dup(pipe.fileno())] = rank, kind
                pipe.close()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        return {}

    def _kill(self) -> None:
        for process in self._ranks.values():
            process.send(signal.SIGKILL)
        for process in self._ranks.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(5.0)
        if self._guardian is not None:
            self._guardian.close()


if __name__ == "__main__":
    main()
