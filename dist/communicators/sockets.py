"""The sockets of a ZeroMQ group: plain ones within a host, guarded ones between hosts.

Within a host messages go through a socket in Linux's abstract namespace, which is faster than TCP, is reached by this user
alone, and leaves no file behind. Nothing listens beyond the loopback unless ranks are on several hosts; then one TCP socket
does, on the interface that reaches the rendezvous. If all ranks can, messages are sealed before they are sent
(:mod:`.sealing`) and a password that follows from the job's secret keeps others from connecting. Otherwise ZeroMQ encrypts
(CURVE): all ranks share one key pair made from the job's secret, without which nobody finishes the handshake, and a byte that was
changed on the way breaks the connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from ..errors import LaunchError
from ..member import LOOPBACK, address_text
from .sealing import KeyPair, Seal

_MAX_FRAME_BYTES = 1 << 26
IO_THREADS = 2
_ENCRYPTS, _DECRYPTS = 1, 2
"""ZeroMQ's threads (bits of a set) that work for each direction: with one for both, CURVE would hold back a 3 Gbit/s link."""


def load_zmq() -> Any:
    """pyzmq, loaded by the first communicator and not by ``import phalanx``."""
    try:
        import zmq  # noqa: PLC0415
    except ImportError as error:
        raise LaunchError(
            f"the zmq backend needs pyzmq, which cannot be imported ({error}): pip install pyzmq"
        ) from None
    return zmq


@dataclass(frozen=True, slots=True)
class Outside:
    """How this job's ranks reach each other between hosts."""

    interface: str
    """The address of this host that the others reach."""
    job_secret: str
    public: bytes
    secret: bytes
    keys: KeyPair | None
    """With it messages are sealed, without it ZeroMQ encrypts."""

    @classmethod
    def of(cls, job_secret: str, interface: str, seals: bool) -> Outside:
        """The keys that follow from the job's secret, or (``seals``) those of this run."""
        zmq = load_zmq()
        if seals:
            return cls(interface, job_secret, b"", b"", KeyPair(job_secret))
        from zmq.utils import z85  # noqa: PLC0415

        if not zmq.has("curve"):
            raise LaunchError(
                "ranks are on several hosts, but this pyzmq was built without CURVE and cannot encrypt: pip install --force-reinstall pyzmq"
            )
        secret = z85.encode(hashlib.sha256(f"phalanx curve {job_secret}".encode()).digest())
        return cls(interface, job_secret, zmq.curve_public(secret), secret, None)

    def guard_inlet(self, pull: Any, name: str) -> str:
        """Let only this job's ranks connect to ``pull``; what its address says of the keys."""
        pull.ipv6 = ":" in self.interface
        if self.keys is None:
            pull.curve_server, pull.curve_publickey, pull.curve_secretkey = True, self.public, self.secret
            return ""
        pull.plain_server, pull.zap_domain = True, b"phalanx"
        return f" {name} {self.keys.public}"

    def guard_outlet(self, push: Any) -> None:
        push.ipv6 = ":" in self.interface
        if self.keys is None:
            push.curve_serverkey, push.curve_publickey, push.curve_secretkey = self.public, self.public, self.secret
        else:
            push.plain_username, push.plain_password = b"phalanx", self.password().encode()

    def password(self) -> str:
        """What a rank says when it connects, in clear: it opens no message."""
        return hmac.new(self.job_secret.encode(), b"phalanx password", hashlib.sha256).hexdigest()

    def seal(self, source: str, target: str, other: str) -> Seal | None:
        """The seal from the inlet address ``source`` to that of ``target``; ``other`` is the one that is not this rank's."""
        if self.keys is None:
            return None
        from_name, to_name = (address.split()[2] for address in (source, target))
        return self.keys.seal(other.split()[3], f"{from_name} {to_name}")


def doorkeeper(context: Any, outside: Outside) -> Any:
    """A thread that asks who connects for the password; others are refused, and logged."""
    from zmq.auth.thread import ThreadAuthenticator  # noqa: PLC0415

    keeper = ThreadAuthenticator(context)
    keeper.start()
    keeper.configure_plain(domain="phalanx", passwords={"phalanx": outside.password()})
    return keeper


class Inlet:
    """Where one rank of a group receives: a socket for its own host, and with ``outside`` one for all others.

    ``address`` tells both. One thread at a time may receive; any thread may :meth:`wake` it.
    """

    def __init__(self, context: Any, outside: Outside | None) -> None:
        zmq = load_zmq()
        self._context, self._zmq, name = context, zmq, os.urandom(16).hex()
        self._pulls: dict[bool, Any] = {}
        self._wakers: list[Any] = []
        self._waits_ms: dict[bool, int] = {}
        try:
            near = self._open(False, name)
            if sys.platform == "linux":
                near.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
                self.address = f"ipc://@phalanx-{name}"
                near.bind(self.address)
            else:
                self.address = f"tcp://{LOOPBACK}:{near.bind_to_random_port(f'tcp://{LOOPBACK}')}"
            if outside is not None:
                far = self._open(True, name)
                far.affinity = _DECRYPTS
                keys = outside.guard_inlet(far, name)
                host = address_text(outside.interface, 0).rpartition(":")[0]
                self.address += f" tcp://{host}:{far.bind_to_random_port(f'tcp://{host}')}{keys}"
        except BaseException:
            self.close()
            raise

    def _open(self, far: bool, name: str) -> Any:
        zmq = self._zmq
        pull = self._pulls[far] = self._context.socket(zmq.PULL)
        pull.set_hwm(0)
        pull.linger = 0
        pull.maxmsgsize = _MAX_FRAME_BYTES
        pull.bind(f"inproc://{name}-{far}")
        waker = self._context.socket(zmq.PUSH)
        waker.linger = 0
        waker.connect(f"inproc://{name}-{far}")
        self._wakers.append(waker)
        return pull

    def receive(self, far: bool, timeout_s: float) -> list[Any]:
        """The frames of the next message of this host or (``far``) another one; empty when none comes in time."""
        pull, wait_ms = self._pulls[far], max(0, int(timeout_s * 1000))
        if wait_ms != self._waits_ms.get(far):
            pull.rcvtimeo = self._waits_ms[far] = wait_ms
        try:
            frames = [pull.recv(copy=False)]
        except self._zmq.Again:
            return []
        while frames[-1].more:
            frames.append(pull.recv(copy=False))
        return frames

    def wake(self) -> None:
        """An empty message, so that whoever receives looks around. Not for two threads at once."""
        for waker in self._wakers:
            waker.send(b"")

    def close_wakers(self) -> None:
        for waker in self._wakers:
            waker.close()
        self._wakers.clear()

    def close(self) -> None:
        self.close_wakers()
        for pull in self._pulls.values():
            pull.close(linger=0)


class Outlet:
    """Where one rank sends to another one, whose :class:`Inlet` said ``address``; ``far``: it is on another host."""

    def __init__(self, context: Any, address: str, outside: Outside | None, far: bool) -> None:
        zmq = load_zmq()
        self._zmq = zmq
        near, *beyond = address.split()
        self.push = push = context.socket(zmq.PUSH)
        push.set_hwm(0)  # every rank posts to all before it takes: a limit would be a deadlock
        push.linger = 0
        push.copy_threshold = 0
        self.broken_since: float | None = None
        """When the connection was seen to break (``time.monotonic``)."""
        self._monitor: Any = None
        self._looking = threading.Lock()
        if far:
            assert outside is not None
            push.affinity = _ENCRYPTS
            outside.guard_outlet(push)
            self._monitor = push.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        push.connect(beyond[0] if far else near)

    def look(self) -> float | None:
        """:attr:`broken_since`, after the news. Any thread."""
        with self._looking, contextlib.suppress(self._zmq.Again):  # nothing new
            if self._monitor is not None and self.broken_since is None:
                self._monitor.recv_multipart(self._zmq.NOBLOCK)
                self.broken_since = time.monotonic()
        return self.broken_since

    def close(self, linger_ms: int) -> None:
        with self._looking:
            if self._monitor is not None:
                self.push.disable_monitor()  # first: an event for a reader that is gone would block ZeroMQ's own thread
                self._monitor.close(linger=0)
                self._monitor = None
        self.push.close(linger=linger_ms)
