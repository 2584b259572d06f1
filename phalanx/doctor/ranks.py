"""``phalanx doctor`` on several ranks: who they are, the links between them, their clocks, the checkpoint folder."""

from __future__ import annotations

import os
import secrets
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import PhalanxError
from ..dist import excepthook
from ..dist.group import Group, shutdown
from . import folder, links
from .finding import Finding, joined, size_words
from .report import table

TOPIC = "ranks"
LATE_CLOCK_S = 1.0
LATE_FILE_S = 5.0
SLOW = 0.4
"""A link below this part of the median of its kind is named."""
SHOWN_PAIRS = 28
CHECKS_S = 120.0
"""What the checks of the slowest host may take."""


@dataclass(slots=True)
class RankReport:
    """What rank 0 knows at the end."""

    findings: list[Finding] = field(default_factory=list)
    measurement: links.Measurement | None = None
    clocks: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Rank -> (what its clock shows more than rank 0's, how sure that is), in seconds."""
    visible: dict[int, float] = field(default_factory=dict)
    """Rank -> seconds until it saw a file that rank 0 had renamed into the checkpoint folder."""

    def data(self) -> dict[str, Any]:
        return {
            "links": asdict(self.measurement) if self.measurement else None,
            "clock_offset_s": {rank: offset for rank, (offset, _) in self.clocks.items()},
            "visible_after_s": self.visible,
        }


def examine(
    group: Group, local: Callable[[], list[Finding]], checkpoint_dir: str | None, pair_s: float
) -> RankReport | None:
    """All ranks call it; the report on rank 0, None on the others. It never raises for what the wire does."""
    report = RankReport()
    group.control.timeout_s = CHECKS_S + pair_s
    try:
        hosts = _findings_of_hosts(group, local, report)
        _measure_links(group, hosts, pair_s, report)
        if checkpoint_dir is not None:
            _measure_folder(group, Path(checkpoint_dir).absolute(), hosts, report)
        shutdown()
    except PhalanxError as error:
        report.findings.append(broken(str(error)))
    # whatever the report says, the exit code of this process is no end of a job that has ended in good order
    excepthook.install(0, 1)
    return report if group.rank == 0 else None


def broken(words: str) -> Finding:
    """The wire's own error, which names rank and operation."""
    return Finding(
        TOPIC,
        "ranks",
        "error",
        words,
        "a job on these ranks would end with the same error",
        "see that every pair of hosts can reach each other (firewall, routes, ping), and that all ranks run the same versions",
    )


def _findings_of_hosts(group: Group, local: Callable[[], list[Finding]], report: RankReport) -> list[str]:
    """The findings of one rank of each host, joined; every rank's host name."""
    mine = [finding.as_json() for finding in local()] if group.local_rank == 0 else []
    rows = group.control.all_gather_object([socket.gethostname(), mine, os.getpid()], name="doctor").wait()
    hosts = [str(row[0]) for row in rows]
    report.findings += joined((row[0], Finding.from_json(f)) for row in rows for f in row[1])
    count = len(set(hosts))
    words = f"{group.size} ranks on {count} host{'s' * (count > 1)} from {group.source}, over {group.backend}"
    report.findings.append(Finding(TOPIC, "ranks", "ok", words, data={"hosts": hosts}))
    return hosts


# --- links and clocks -------------------------------------------------------------------------------------------------


def _measure_links(group: Group, hosts: list[str], pair_s: float, report: RankReport) -> None:
    comm = group.communicator
    comm.timeout_s = pair_s
    found: list[links.Link] = []
    for step in links.rounds(group.size):
        mine = [links.measure(comm, *pair) for pair in step if group.rank in pair]
        rows = group.control.all_gather_object(mine[0] if mine else None, name="links").wait()
        for a, b in step:
            row = rows[a]
            figures = {name: row[name] for name in ("latency_s", "there_bytes_s", "back_bytes_s")}
            found.append(links.Link((a, b), (hosts[a], hosts[b]), **figures))
            if a == 0:
                report.clocks[b] = (row["offset_s"], row["offset_error_s"])
    report.measurement = links.Measurement(
        time.time(), group.backend, tuple(hosts), tuple(sorted(found, key=lambda x: x.ranks))
    )
    report.findings += [*_slow_links(found), *_clocks(report.clocks, hosts)]
    if group.rank == 0:
        report.findings.append(_keep(report.measurement))


def _slow_links(found: Sequence[links.Link]) -> list[Finding]:
    between = [link for link in found if link.hosts[0] != link.hosts[1]]
    if len(between) < 3:
        return []
    usual = statistics.median(min(link.there_bytes_s, link.back_bytes_s) for link in between)
    slow = [link for link in between if min(link.there_bytes_s, link.back_bytes_s) < SLOW * usual]
    return [
        Finding(
            "links",
            "link-slow",
            "warning",
            f"rank {link.ranks[0]} ({link.hosts[0]}) - rank {link.ranks[1]} ({link.hosts[1]}): "
            f"{_rate(min(link.there_bytes_s, link.back_bytes_s))}, the median between hosts is {_rate(usual)}",
            "every all-reduce waits for the slowest link",
            f"look at both hosts' interfaces (ethtool, ip -s link) or leave {link.hosts[1]} out",
            asdict(link),
        )
        for link in slow
    ]


def _clocks(clocks: dict[int, tuple[float, float]], hosts: list[str]) -> list[Finding]:
    if not clocks:
        return []
    rank, (offset, error) = max(clocks.items(), key=lambda item: abs(item[1][0]))
    words = f"the clock of rank {rank} ({hosts[rank]}) is {abs(offset):.6f} s {'ahead of' if offset > 0 else 'behind'} rank 0's"
    data = {"rank": rank, "offset_s": offset, "error_s": error}
    if abs(offset) - error > LATE_CLOCK_S:
        return [
            Finding(
                "clocks",
                "clock-offset",
                "warning",
                words,
                "after a restart checkpoints are told from older ones by their time: with wrong clocks the wrong one may be taken",
                f"on {hosts[rank]}: timedatectl set-ntp true (or start chronyd)",
                data,
            )
        ]
    return [Finding("clocks", "clock-offset", "ok", f"at most: {words} (+- {error * 1e6:.0f} us)", data=data)]


def _keep(measurement: links.Measurement) -> Finding:
    try:
        return Finding("links", "links-kept", "ok", f"the measured links are kept in {links.keep(measurement)}")
    except OSError as error:
        words = f"the measured links cannot be kept in {links.file()}: {error.strerror}"
        return Finding("links", "links-kept", "note", words, fix="export XDG_CACHE_HOME=/a/folder/that/can/be/written")


# --- the checkpoint folder --------------------------------------------------------------------------------------------


def _measure_folder(group: Group, path: Path, hosts: list[str], report: RankReport) -> None:
    name = group.control.broadcast_object(f"phalanx-doctor-{secrets.token_hex(6)}", name="folder").wait()
    made = group.rank == 0 and not path.exists()
    problem = folder.prepare(path) if group.rank == 0 else ""
    problem = group.control.broadcast_object(problem, name="folder prepared").wait()
    if problem:
        report.findings.append(folder.not_writable(path, problem))
        return
    group.control.barrier(name="all look").wait()
    at = folder.write(path, name) if group.rank == 0 else folder.look(path, name)
    rows = group.control.all_gather_object(at, name="folder seen").wait()
    if group.rank == 0:
        folder.remove(path, name, made)
        report.findings.append(_visible(path, rows, hosts, report))


def _visible(path: Path, rows: list[float | None], hosts: list[str], report: RankReport) -> Finding:
    """``rows``: when rank 0 renamed the file, then when each other rank saw it, each by its own clock."""
    assert rows[0] is not None
    blind = [rank for rank, seen in enumerate(rows) if seen is None]
    for rank, seen in enumerate(rows[1:], 1):
        if seen is not None:
            report.visible[rank] = max(0.0, seen - report.clocks[rank][0] - rows[0])
    if blind:
        who = ", ".join(f"rank {rank} ({hosts[rank]})" for rank in blind)
        return Finding(
            folder.TOPIC,
            "folder-blind",
            "error",
            f"{who} did not see within {folder.DEADLINE_S:g} s what rank 0 wrote into {path}",
            "each host has a folder of its own there: parts of a checkpoint would be missing",
            "give a --checkpoint-dir on a file system that all hosts share (NFS, Lustre, ...)",
        )
    latest, seconds = max(report.visible.items(), key=lambda item: item[1])
    words = f"{path}: a file renamed by rank 0 is seen after {seconds:.4f} s at most (rank {latest}, {hosts[latest]})"
    data = {"seconds": report.visible}
    if seconds > LATE_FILE_S:
        return Finding(
            folder.TOPIC,
            "folder-late",
            "warning",
            words,
            "each checkpoint and each resume waits so long",
            "mount the folder with a shorter attribute cache (NFS: -o actimeo=1,lookupcache=positive)",
            data,
        )
    return Finding(folder.TOPIC, "folder", "ok", words, data=data)


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(report: RankReport) -> list[str]:
    """The links and the clocks, aligned."""
    if report.measurement is None:
        return []
    out = ["links between ranks (send and recv: 8 bytes, and as much as takes about 60 ms)"]
    pairs = report.measurement.links
    rows = [
        [
            f"{link.ranks[0]} - {link.ranks[1]}  {link.hosts[0]} - {link.hosts[1]}",
            f"{link.latency_s * 1e6:.0f} us",
            _rate(link.there_bytes_s),
            _rate(link.back_bytes_s),
        ]
        for link in sorted(pairs, key=lambda link: min(link.there_bytes_s, link.back_bytes_s))[:SHOWN_PAIRS]
    ]
    if len(pairs) <= SHOWN_PAIRS:
        rows.sort(key=lambda row: [int(word) for word in row[0].split("  ")[0].split(" - ")])
    else:
        out[0] += f": the slowest {SHOWN_PAIRS} of {len(pairs)} pairs"
    out += table(rows, ("ranks", "latency", "there", "back"))
    out += ["", "clocks and files"]
    rows = [["0", report.measurement.hosts[0], "0", "-"]]
    for rank, (offset, error) in sorted(report.clocks.items()):
        seen = f"{report.visible[rank] * 1e3:.1f} ms" if rank in report.visible else "-"
        rows.append([str(rank), report.measurement.hosts[rank], f"{offset * 1e3:+.3f} +- {error * 1e3:.3f} ms", seen])
    return [*out, *table(rows, ("rank", "host", "clock against rank 0", "sees a new file after")), ""]


def _rate(bytes_s: float) -> str:
    return f"{size_words(bytes_s)}/s"
