"""What options of ``phalanx run`` mean, where that takes more than a number."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from ..dist.env import NAMES
from ..dist.errors import LaunchError
from ..dist.secret import SHORTEST
from .hosts import Host, parse_hosts, read_hostfile


def given_hosts(hosts: str | None, hostfile: str | None) -> tuple[Host, ...]:
    """Of ``--hosts`` or ``--hostfile``; none when neither is given."""
    if hosts is not None and hostfile is not None:
        raise LaunchError("--hosts and --hostfile: give one of them")
    if hosts is not None:
        return parse_hosts(hosts)
    return read_hostfile(hostfile) if hostfile is not None else ()


def default_ranks(hosts: Sequence[Host], nodes: int) -> int:
    """Without ``-n``: every slot; one on each node; one."""
    return sum(host.slots for host in hosts) or max(1, nodes)


def read_key(path: str | None, environ: Mapping[str, str]) -> str:
    """The secret that the launchers of all nodes share. Raises LaunchError when it is missing, short, or open to others."""
    name = NAMES["job"]
    recipe = "python -c 'import secrets; print(secrets.token_hex(16))'"
    if path is None:
        key = environ.get(name, "")
        if len(key) < SHORTEST:
            raise LaunchError(
                f"--nodes: the hosts need a secret of at least {SHORTEST} characters that only they know. On one of them: "
                f"(umask 077; {recipe} > key), copy the file to the others, and give each --key key. Or set {name} on each"
            )
        return key
    try:
        with open(path, encoding="utf-8") as file:
            mode, key = os.fstat(file.fileno()).st_mode, file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"--key {path}: {getattr(error, 'strerror', None) or error}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LaunchError(f"--key {path}: others can read it (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")
    if len(key) < SHORTEST:
        raise LaunchError(
            f"--key {path}: {len(key)} characters can be guessed; make one: (umask 077; {recipe} > {path})"
        )
    return key
