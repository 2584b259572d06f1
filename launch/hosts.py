"""Which hosts a job may use and how many ranks each takes: ``--hosts a:4,b:4`` and host files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..dist.errors import LaunchError


@dataclass(frozen=True, slots=True)
class Host:
    """A host and how many ranks it takes."""

    name: str
    slots: int
    cores: int | None = None
    """Cores that a job may use there; None: not known yet."""

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def parse_hosts(text: str) -> tuple[Host, ...]:
    """The hosts of ``--hosts``, one slot each where no number is given.

    >>> [str(host) for host in parse_hosts("a:4,root@b:2,c")]
    ['a:4', 'root@b:2', 'c:1']
    >>> [str(host) for host in parse_hosts("[fd00::1]:2,10.0.0.1")]
    ['fd00::1:2', '10.0.0.1:1']
    """
    return _joined((_host(word.strip(), f"--hosts {text}") for word in text.split(",")), f"--hosts {text}")


def parse_hostfile(text: str, path: str = "hostfile") -> tuple[Host, ...]:
    """The hosts of a file: Open MPI's form (``a slots=4``), MPICH's (``a:4``), or plain names, one line for each slot.

    >>> [str(host) for host in parse_hostfile("# ours\\na slots=4 max_slots=8\\nb:2\\nc 3\\nd\\nd\\n")]
    ['a:4', 'b:2', 'c:3', 'd:2']
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        first, *rest = line.partition("#")[0].split() or [""]
        if first:
            found.append(_with_slots(_host(first, f"{path}, line {number}"), rest, f"{path}, line {number}"))
    return _joined(found, path)


def read_hostfile(path: str) -> tuple[Host, ...]:
    """:func:`parse_hostfile` of what ``path`` holds. Raises LaunchError where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_hostfile(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"--hostfile {path}: {getattr(error, 'strerror', None) or error}") from None


_NAME = re.compile(r"([\w.-]+@)?[\w][\w.-]*|[\da-fA-F:]*:[\da-fA-F:.]*")


def _host(word: str, where: str) -> Host:
    found = re.fullmatch(r"(?:\[(?P<six>[^]]+)\]|(?P<name>[^:]*))(?::(?P<slots>[^:]*))?", word)
    name = (found["six"] or found["name"]) if found else ""
    if found is None or not _NAME.fullmatch(name):
        raise LaunchError(f"{where}: {word!r} is no host; expected name:slots with commas between, for example a:4,b:4")
    return Host(name, 1 if found["slots"] is None else _number(found["slots"], word, where))


def _with_slots(host: Host, words: list[str], where: str) -> Host:
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name == "slots":
            host = replace(host, slots=_number(value, word, where))
        elif not equals and word.isdigit():
            host = replace(host, slots=_number(word, word, where))
        elif not (equals and name in ("max_slots", "max-slots")):
            raise LaunchError(f"{where}: {word!r} is not understood; expected slots=N after the host's name")
    return host


def _number(text: str, word: str, where: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise LaunchError(f"{where}: {word!r}: expected a number of slots, at least 1")
    return int(text)


def _joined(hosts: Iterable[Host], where: str) -> tuple[Host, ...]:
    """Lines that name one host again add to its slots."""
    slots: dict[str, int] = {}
    for host in hosts:
        slots[host.name] = slots.get(host.name, 0) + host.slots
    if not slots:
        raise LaunchError(f"{where}: names no host")
    return tuple(Host(name, count) for name, count in slots.items())


_OWN_NAME = re.compile(r"([0-9a-f]{1,8})-[0-9a-f]{32}")


def mark_of(job: str) -> str:
    """Names a job without telling its secret: the launcher's process id, where its name begins with it, and a digest.

    >>> mark_of("1f-00112233445566778899aabbccddeeff"), mark_of("a secret")
    ('1f-151332fc49a5', 'job-984ca5162200')
    """
    found = _OWN_NAME.fullmatch(job)
    return f"{found[1] if found else 'job'}-{hashlib.sha256(job.encode()).hexdigest()[:12]}"
