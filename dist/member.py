"""A rank as the others see it, and the sockets where it can be reached."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from .errors import LaunchError

LOOPBACK = "127.0.0.1"
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One rank of the job, as the others see it."""

    rank: int
    host: str
    pid: int
    data: str
    """Address of its data socket, in the words of its wire; may name two, the first for ranks of its own host."""
    control: str
    """Address where it takes control connections, ``host:port``."""
    identity: str = ""
    """Its :func:`.host.host_identity`: members with equal ones share a host."""
    seals: bool = False
    """Whether it can seal messages (:mod:`.communicators.sealing`)."""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def address_of(text: str) -> tuple[str, int]:
    """``"127.0.0.1:4000"`` as a pair."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def address_text(host: str, port: int) -> str:
    """The inverse of :func:`address_of`; an IPv6 address gets its brackets.

    >>> address_text("::1", 4000)
    '[::1]:4000'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this host reaches ``host``, an IP address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def listen(address: tuple[str, int] = (LOOPBACK, 0)) -> socket.socket:
    """A listening socket. Raises LaunchError that names who holds the port."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        holder = f" by {port_holder(address[1])}" if error.errno == errno.EADDRINUSE else ""
        raise LaunchError(
            f"cannot listen at {address[0]}:{address[1]}: {error.strerror}{holder}. {_advice(error)}"
        ) from None
    return listener


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "Rank 0 listens there: give an address of the host that rank 0 runs on."
    return "Choose another port, or end that process."


def port_holder(port: int) -> str:
    """Who listens at a TCP port of this machine, in words; what /proc does not tell is "another process"."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                    inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return "another process"
