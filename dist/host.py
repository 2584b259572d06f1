"""Which ranks are on one host: equal identities can share memory, signal each other and reach each other's loopback."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B  # linux/sockios.h


def host_identity() -> str:
    """This process's host: name, boot, network and process namespace, and user, in one string without spaces.

    Two containers of one machine, or two network namespaces, are two hosts; so are two users.

    >>> host_identity() == host_identity()
    True
    """
    words = [socket.gethostname(), _boot_id(), _namespace("net"), _namespace("pid"), str(os.getuid())]
    return "/".join(words)


def host_name(identity: str) -> str:
    """The name for people in a host identity.

    >>> host_name("node7/boot/4026531840/4026531836/0")
    'node7'
    """
    return identity.partition("/")[0]


def _boot_id() -> str:
    try:
        return Path(_BOOT_ID).read_text().strip()
    except OSError:  # not Linux
        return "-"


def _namespace(kind: str) -> str:
    try:
        return str(os.stat(f"/proc/self/ns/{kind}").st_ino)
    except OSError:
        return "-"


def networks() -> dict[str, str]:
    """The IPv4 networks that this host's interfaces are in, without the loopback: ``{"10.77.0.0/24": "10.77.0.1"}``."""
    found: dict[str, str] = {}
    if not sys.platform.startswith("linux"):
        return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # without an IPv4 address
                address, mask = (_interface(probe, name, request) for request in (_SIOCGIFADDR, _SIOCGIFNETMASK))
                network = ipaddress.ip_network(f"{address}/{mask}", strict=False)
                if not network.is_loopback:
                    found[str(network)] = address
    return found


def common_network(hosts: Sequence[Mapping[str, str]]) -> str | None:
    """The first network in which all ``hosts`` (what :func:`networks` gave on each) have an address of their own.

    >>> common_network([{"172.17.0.0/16": "172.17.0.1", "10.0.0.0/8": "10.0.0.1"},
    ...                 {"172.17.0.0/16": "172.17.0.1", "10.0.0.0/8": "10.0.0.2"}])
    '10.0.0.0/8'
    """
    for network in hosts[0]:
        addresses = [host.get(network) for host in hosts]
        if None not in addresses and len(set(addresses)) == len(hosts):
            return network
    return None


def _interface(probe: socket.socket, name: str, request: int) -> str:
    answer = fcntl.ioctl(probe.fileno(), request, struct.pack("256s", name.encode()[:15]))
    return socket.inet_ntoa(answer[20:24])
