"""Shared memory, limits of this process, and the network's interfaces."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ask import ask
from .finding import Finding, Surroundings, size_words

SHM = "/dev/shm"
OPEN_MPI_SEGMENT_BYTES = 16 << 20
"""Open MPI 5 makes one file of this size for each rank of a host (``sm_segment.*``)."""
LITTLE_MEMORY_BYTES = 512 << 20
FILES_ALONE, FILES_EACH = 64, 8
"""Open files of a rank: ``FILES_ALONE + FILES_EACH * (ranks - 1)``. Counted over ZeroMQ: 22 + 7 (ranks - 1)."""
UNLIMITED_BYTES = 1 << 60
"""Control groups of version 1 say "no limit" by a number near 2^63."""
_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFMTU = 0x8913, 0x8915, 0x8921  # linux/sockios.h
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


def check_memory(here: Surroundings) -> list[Finding]:
    return [_shm(here), _anonymous(here), *_cgroup()]


def check_limits(here: Surroundings) -> list[Finding]:
    return [open_files(here, *resource.getrlimit(resource.RLIMIT_NOFILE)), *_file_size()]


# --- shared memory ----------------------------------------------------------------------------------------------------


def _shm(here: Surroundings) -> Finding:
    topic = "shared memory"
    try:
        status = os.statvfs(SHM)
    except OSError as error:
        return Finding(
            topic,
            "shm",
            "warning",
            f"{SHM}: {error.strerror}",
            "MPI libraries exchange messages of one host there",
            f"mkdir -p {SHM} && mount -t tmpfs tmpfs {SHM}",
        )
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    ranks = max(here.local_ranks, 1 if here.ranks > 1 else here.cores)
    needed = ranks * OPEN_MPI_SEGMENT_BYTES
    data = {"bytes": total, "free_bytes": free, "needed_bytes": needed, "ranks": ranks}
    found = f"{SHM}: {size_words(total)}, {size_words(free)} free"
    writable = os.access(SHM, os.W_OK)
    if free < needed or not writable:
        why = f"Open MPI needs {size_words(needed)} there for {ranks} ranks of this host (16 MiB each); with less it warns and becomes slow"
        return Finding(
            topic,
            "shm-small" if writable else "shm-readonly",
            "warning",
            found if writable else f"{found}, not writable",
            why,
            f"mount -o remount,size=1G {SHM}; in a container: docker run --shm-size=1g, in Kubernetes a volume "
            f"emptyDir {{medium: Memory}} at {SHM}; or, without either: export OMPI_MCA_btl_sm_backing_directory=/tmp",
            data,
        )
    return Finding(topic, "shm", "ok", f"{found}; {ranks} ranks of Open MPI take {size_words(needed)}", data=data)


def _anonymous(here: Surroundings) -> Finding:
    """Ranks of one host open each other's memory by /proc/<pid>/fd: tried with a process of its own."""
    topic = "shared memory"
    scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    words = f"yama ptrace_scope {scope}" if scope is not None else "no yama"
    try:
        descriptor = os.memfd_create("phalanx-doctor")
    except (AttributeError, OSError) as error:
        return Finding(
            topic,
            "memfd",
            "warning",
            f"memfd_create fails: {error}",
            "ranks of one host exchange messages instead of sharing memory",
            "use Linux 3.17 or newer, and a container whose seccomp profile allows memfd_create",
        )
    try:
        os.posix_fallocate(descriptor, 0, 4096)
        answer = ask("memory", here.python, here.environ, str(os.getpid()), str(descriptor))
        seen = os.pread(descriptor, 4, 0) == b"seen"
    except OSError as error:
        answer, seen = {"error": str(error)}, False
    finally:
        os.close(descriptor)
    if not seen:
        return Finding(
            topic,
            "memfd",
            "warning",
            f"another process cannot open this one's memory ({answer.get('error')}; {words})",
            "ranks of one host exchange messages instead of sharing memory",
            "run all ranks as one user in one pid namespace with /proc mounted (docker run --pid; mount -t proc proc /proc)",
        )
    return Finding(topic, "memfd", "ok", f"anonymous memory (memfd_create) can be shared between processes; {words}")


def memory_left(folders: Sequence[Path]) -> tuple[int, str]:
    """What this process may still take, in bytes, and what limits it: the machine or one of its control groups."""
    left, where = _meminfo().get("MemAvailable", 0), "the machine"
    for folder in folders:
        most = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or "max"
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        if most.isdigit() and used and int(most) < UNLIMITED_BYTES:
            stat = dict(line.split() for line in (_read(folder / "memory.stat") or "").splitlines())
            cached = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)  # is given up when needed
            if int(most) - int(used) + cached < left:
                left, where = int(most) - int(used) + cached, f"the control group {folder} ({size_words(int(most))})"
    return left, where


def _cgroup() -> list[Finding]:
    topic = "shared memory"
    limit, where = memory_left(_groups())
    found = f"{size_words(max(0, limit))} of memory can still be taken, limited by {where}"
    data = {"bytes": limit, "by": where}
    if limit < LITTLE_MEMORY_BYTES:
        return [
            Finding(
                topic,
                "memory",
                "warning",
                found,
                "a process that takes more is killed by the kernel; shared memory counts too",
                "give the container more (docker run --memory=4g, Kubernetes resources.limits.memory), or run fewer ranks",
                data,
            )
        ]
    return [Finding(topic, "memory", "ok", found, data=data)]


def _groups() -> list[Path]:
    """The folders of this process's control group and of those above it."""
    found: list[Path] = []
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup", controllers)
            below = root / path.lstrip("/")
            found += [folder for folder in (below, *below.parents) if folder.is_relative_to(root) and folder.is_dir()]
            found += [root] if root not in found else []
    return found


def _meminfo() -> dict[str, int]:
    rows = (line.split() for line in (_read("/proc/meminfo") or "").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}


# --- limits -----------------------------------------------------------------------------------------------------------


def open_files(here: Surroundings, soft: int, hard: int) -> Finding:
    """Enough for this job's ranks? ``soft`` and ``hard``: RLIMIT_NOFILE."""
    topic, infinite = "limits", resource.RLIM_INFINITY
    most = "any number of" if soft == infinite else max(1, (soft - FILES_ALONE) // FILES_EACH + 1)
    ranks = max(here.ranks, here.cores)
    needed = FILES_ALONE + FILES_EACH * (ranks - 1)
    data = {"soft": soft, "hard": hard, "needed": needed, "ranks": ranks}
    if soft != infinite and soft < needed:
        raised = (
            ""
            if hard == infinite or hard >= needed
            else f" (the hard limit is {hard}: /etc/security/limits.conf, or docker run --ulimit nofile=65536)"
        )
        return Finding(
            topic,
            "open-files",
            "error" if here.ranks > 1 else "warning",
            f"{soft} open files at most",
            f"each of {ranks} ranks needs up to {needed}: {FILES_ALONE} + {FILES_EACH} x (ranks - 1)",
            f"ulimit -n {max(needed, 4096 if not raised else needed)}{raised}",
            data,
        )
    return Finding(
        topic,
        "open-files",
        "ok",
        f"{'unlimited' if soft == infinite else soft} open files: enough for {most} ranks",
        data=data,
    )


def _file_size() -> list[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY:
        return [Finding("limits", "file-size", "ok", "no limit on the size of a file")]
    return [
        Finding(
            "limits",
            "file-size",
            "warning",
            f"files may hold {size_words(soft)} at most (ulimit -f)",
            "larger shared gradients cannot be made (messages are used instead) and larger checkpoints fail",
            "ulimit -f unlimited",
            {"bytes": soft},
        )
    ]


# --- interfaces -------------------------------------------------------------------------------------------------------


def check_network(here: Surroundings) -> list[Finding]:
    found = [interface(name) for _, name in socket.if_nameindex()]
    up = [each for each in found if each["up"] and each["name"] != "lo" and each["addresses"]]
    findings = [
        Finding("network", f"interface-{each['name']}", "ok", _interface_words(each), data=each)
        for each in found
        if each["up"] or each["addresses"]
    ]
    down = [each["name"] for each in found if not each["up"] and not each["addresses"]]
    if down:
        findings.append(Finding("network", "interfaces-down", "ok", f"down: {', '.join(down)}", data={"names": down}))
    if not any(each["name"] == "lo" and each["up"] for each in found):
        findings.append(
            Finding(
                "network",
                "loopback",
                "error",
                "the loopback interface is down",
                "ranks of this host cannot meet (phalanx run)",
                "ip link set lo up",
            )
        )
    if not up:
        words = "no interface but the loopback is up and has an address"
        findings.append(Finding("network", "only-loopback", "note", words, "only jobs on this host are possible"))
    return findings


def interface(name: str) -> dict[str, Any]:
    """Name, addresses, Mbit/s where the driver tells, up or not."""
    flags, mtu = _ask_interface(name, _SIOCGIFFLAGS, "H"), _ask_interface(name, _SIOCGIFMTU, "i")
    folder = Path("/sys/class/net", name)  # of the network namespace in which /sys was mounted, perhaps not this one
    speed = _read(folder / "speed") if _read(folder / "ifindex") == str(socket.if_nametoindex(name)) else None
    return {
        "name": name,
        "up": flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0,
        "addresses": [*_ipv4(name), *_ipv6(name)],
        "mbit_s": int(speed) if speed and speed.isdigit() else None,
        "mtu": mtu,
    }


def _ask_interface(name: str, request: int, kind: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        row = fcntl.ioctl(probe.fileno(), request, struct.pack("40s", name.encode()[:15]))
        return int(struct.unpack_from(kind, row, 16)[0])
    return 0


def _interface_words(each: dict[str, Any]) -> str:
    speed = f"{each['mbit_s'] / 1000:g} Gbit/s" if each["mbit_s"] else "speed not told"
    state = "up" if each["up"] else "down"
    return f"{each['name']}: {state}, {', '.join(each['addresses']) or 'no address'}, {speed}, MTU {each['mtu']}"


def _ipv4(name: str) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        row = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        return [socket.inet_ntoa(row[20:24])]
    return []


def _ipv6(name: str) -> list[str]:
    rows = (line.split() for line in (_read("/proc/net/if_inet6") or "").splitlines())
    return [
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in rows if row[5] == name and row[3] != "20"
    ]


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
