"""Which ranks are on one host: equal identities can share memory, signal each other and reach each other's loopback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


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
