"""The launcher's side of one host: the ssh that holds the agent there, and the words for what can be wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..dist import env
from . import frames
from .frames import MAGIC, Frames, Kind
from .hosts import Host
from .plan import RankPlan
from .process import Process, spawn

KILL_S = 2.0
"""From the word that all must end to the end of the connection itself."""
TELLING_NBYTES = 1 << 14
"""Of what ssh and the other host's shell say, the last that is kept for an explanation."""


@dataclass(frozen=True, slots=True)
class Remote:
    """How an agent is started on another host."""

    ssh: tuple[str, ...]
    python: str
    folder: str
    path: str
    """PYTHONPATH."""
    mark: str
    """What the agent's processes carry, without the host's number."""

    def agent(self, host: Host, node: int) -> list[str]:
        """What runs here to start the agent there."""
        return self._words(host, [f"{env.AGENT}={self.mark}.{node}.agent"], ["-m", "phalanx.launch.agent"])

    def call(self, host: Host, module: str, *arguments: str) -> list[str]:
        """What runs here to call a module there."""
        return self._words(host, [], ["-m", module, *arguments])

    def _words(self, host: Host, variables: Sequence[str], arguments: Sequence[str]) -> list[str]:
        path = [f"PYTHONPATH={self.path}"] if self.path else []
        words = ["exec", "env", *variables, *path, self.python, *arguments]
        return [*self.ssh, host.name, f"cd {shlex.quote(self.folder)} && {shlex.join(words)}"]


class RemoteRank:
    """A rank on another host, as the supervisor sees it."""

    def __init__(self, link: Link, rank: int) -> None:
        self.name, self.rank, self._link = f"rank {rank}", rank, link
        self.code: int | None = None

    def send(self, number: int) -> None:
        if self.code is None:
            self._link.tell(frames.frame(Kind.SIGNAL, self.rank, str(int(number)).encode()))

    def tell(self, line: bytes) -> None:
        """A line for its membership channel."""
        self._link.tell(frames.frame(Kind.TELL, self.rank, line))

    @property
    def is_stopped(self) -> bool:
        return self.rank in self._link.stopped

    def poll(self) -> int | None:
        """Its exit code; 0 as well for one that went down with its host, which is the failure then."""
        return 0 if self.code is None and not self._link.open else self.code


class Link:
    """A connection to the agent of ``host``; ends with it."""

    def __init__(self, host: Host, node: int, remote: Remote, environ: Mapping[str, str]) -> None:
        self.name, self.host, self.node, self.remote = f"host {host.name}", host, node, remote
        self.hello: dict[str, Any] | None = None
        self.answers: list[dict[str, Any]] = []
        self.remote_ranks: dict[int, RemoteRank] = {}
        self.open, self.lost = True, ""
        self.said: list[tuple[int, bytes]] = []
        """Lines of the ranks' membership channels: rank, line."""
        self.stopped: frozenset[int] = frozenset()
        """Ranks that a signal has stopped."""
        self.heard_at = time.monotonic()
        self.told = bytearray()
        """What ssh and the shell said on stderr before the agent did."""
        self._before = bytearray()
        self._frames = Frames()
        self._done, self._kill_at = False, 0.0
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._ssh: Process = spawn(self.name, remote.agent(host, node), environ, **pipes)
        popen = self._ssh.popen
        assert popen.stdin is not None and popen.stdout is not None and popen.stderr is not None
        self._stdin, self.descriptor, self.stderr = popen.stdin.fileno(), popen.stdout.fileno(), popen.stderr.fileno()
        self.stderr_open = True

    @property
    def ranks(self) -> Sequence[int]:
        return tuple(self.remote_ranks)

    def tell(self, data: bytes) -> None:
        """Send a frame; a host that is gone says so by itself."""
        with contextlib.suppress(OSError, ValueError):
            frames.write_all(self._stdin, data)

    def ask(self, kind: Kind, value: Any) -> None:
        """Send a frame whose answer comes into ``answers``."""
        self.tell(frames.words(kind, value))

    def start(self, ranks: Sequence[RankPlan], elastic: bool = False) -> None:
        """Have the agent start these; its answer comes into ``answers``. ``elastic``: more may follow."""
        rows = [
            {"rank": rank.rank, "environment": dict(rank.environment), "command": rank.command, "cores": rank.cores}
            for rank in ranks
        ]
        self.ask(Kind.START, {"mark": f"{self.remote.mark}.{self.node}", "ranks": rows, "elastic": elastic})

    def read(self) -> list[tuple[int, int, bytes]]:
        """What came: rank, stream, bytes of the ranks' output; the rest changes this object."""
        data = os.read(self.descriptor, 1 << 16)
        if not data:
            self._ended()
            return []
        self.heard_at = time.monotonic()
        if self.hello is None:
            self._before += data
            _, magic, data = bytes(self._before).partition(MAGIC)
            if not magic:
                del self._before[:-TELLING_NBYTES]
                return []
            self.hello = {}
        output: list[tuple[int, int, bytes]] = []
        for kind, number, payload in self._frames.feed(data):
            if kind == Kind.HELLO:
                self.hello = json.loads(payload)
            elif kind == Kind.ANSWER:
                self.answers.append(json.loads(payload))
            elif kind == Kind.SAID:
                self.said.append((number, payload))
            elif kind == Kind.HERE:
                self.stopped = frozenset(json.loads(payload))
            elif kind == Kind.EXIT:
                self.remote_ranks[number].code = int(payload)
            elif kind == Kind.DONE:
                self._done = True
            elif kind in (Kind.OUT, Kind.ERR):
                output.append((number, int(kind == Kind.ERR), payload))
        return output

    def read_stderr(self) -> None:
        """Keep what ssh says for an explanation."""
        data = os.read(self.stderr, 1 << 14)
        self.stderr_open = bool(data)
        self.told += data
        del self.told[:-TELLING_NBYTES]

    # --- as the supervisor sees it ----------------------------------------------------------------------------------

    def send(self, number: int) -> None:
        """Its ranks get their signals by themselves; a kill ends the agent as well."""
        if number == signal.SIGKILL and not self._kill_at:
            self.tell(frames.frame(Kind.END))
            self._kill_at = time.monotonic() + KILL_S

    def poll(self) -> int | None:
        """0 once the agent has ended as it should, 255 when it was lost."""
        if self.open and self._kill_at and time.monotonic() >= self._kill_at:
            self._ssh.send(signal.SIGKILL)
            self.lost = self.lost or "it does not answer"
            self.open = False
        return None if self.open else 255 if self.lost else 0

    def give_up(self, why: str) -> None:
        """The host does not answer: it is lost, whatever may come."""
        self._ssh.send(signal.SIGKILL)
        self.open, self.lost = False, why

    def _ended(self) -> None:
        self.open = False
        if not self._done and not self._kill_at:
            last = self.told.decode(errors="replace").strip().splitlines()
            self.lost = f"its connection ended{f' ({last[-1]})' if last else ''}"

    def close(self) -> None:
        """End the connection, and with it whatever runs on the host."""
        self._ssh.send(signal.SIGTERM)
        popen = self._ssh.popen
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            popen.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._ssh.send(signal.SIGKILL)
            popen.wait()

    # --- words ------------------------------------------------------------------------------------------------------

    def diagnosis(self, version: str) -> str:
        """What is wrong and how it is mended, for a host whose agent did not come or is another version's."""
        if self.hello:
            return (
                f"phalanx {self.hello['version']} is there ({self.remote.python}), and {version} here: install the same "
                "version on all hosts"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.popen.wait(1.0)
        while self.stderr_open and select.select([self.stderr], [], [], 0.1)[0]:
            self.read_stderr()
        return explain(self.host.name, self.remote, self.told.decode(errors="replace"), self._ssh.popen.returncode)


def explain(host: str, remote: Remote, told: str, code: int | None) -> str:
    """Words for an agent that did not start, from what ssh and the other side said."""
    lines = [line for line in told.strip().splitlines() if not line.startswith("Warning: Permanently added")]
    last = lines[-1] if lines else f"exit code {code}"
    python, folder = remote.python, remote.folder
    for pattern, words in (
        (r"Could not resolve hostname|Name or service not known|Temporary failure in name",
         "there is no host of this name ({last}): mend the name, or give an address"),
        (r"Permission denied \(|Host key verification failed|Too many authentication failures",
         "ssh was refused ({last}): ssh {host} must work without a password or question (ssh-copy-id {host})"),
        (r"Connection refused", "nobody takes ssh there ({last}): start sshd on {host}, or name another port with --ssh"),
        (r"Connection timed out|No route to host|Network is unreachable",
         "it cannot be reached ({last}): is it up, and is this its network's name for it?"),
        (r"can't cd to|cd: .*(No such file|Permission denied|can't cd)|cd: The directory",
         "it has no folder {folder}: run in a folder that all hosts have, for example a shared one"),
        (r"No module named '?phalanx",
         "{python} there has no phalanx: install the same version there, or name the Python that has it with --python"),
        (r"No module named", "{python} there lacks what phalanx needs ({last}): install phalanx there with pip"),
        (r"command not found|not found|No such file or directory",
         "there is no {python}: install the same environment at the same path, or name another Python with --python"),
    ):  # fmt: skip
        if re.search(pattern, told):
            return f"{words.format(last=last, host=host, python=python, folder=folder)}"
    if code is None:
        return f"no answer in time ({last if lines else 'ssh is silent'}): does ssh {host} true work?"
    return f"the connection ended before phalanx answered there ({last}): does ssh {host} true work?"
