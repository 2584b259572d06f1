"""Two hosts on one machine: network namespaces with names of their own, and one link between them held to a rate.

Needs root, ``ip``, ``tc`` and ``unshare``. Everything is named after this process and removed by ``close()``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMMAND_S = 20.0
BURST_BYTES = 256 * 1024
"""What the token bucket lets pass at once: above the largest packet that a virtual link hands over (64 KiB)."""


class TwoHosts:
    """Hosts 0 and 1; a context manager.

    Raises PermissionError or OSError where namespaces cannot be made.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.names = [f"phx{os.getpid()}h{number}" for number in range(2)]
        self.devices = [f"phx{os.getpid() % 10**8}v{number}" for number in range(2)]
        self.addresses = ["10.91.77.1", "10.91.77.2"]
        if os.geteuid() != 0:
            raise PermissionError("two hosts on one machine are network namespaces: run as root")
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for name in self.names:
            _do("ip", "netns", "add", name)
        first, second = self.names
        _do("ip", "-n", first, "link", "add", self.devices[0], "type", "veth", "peer", self.devices[1], "netns", second)
        table = "".join(f"{a} {n}\n" for a, n in zip(self.addresses, self.names, strict=True))
        for name, device, address in zip(self.names, self.devices, self.addresses, strict=True):
            _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", device)
            _do("ip", "-n", name, "link", "set", device, "up")
            _do("ip", "-n", name, "link", "set", "lo", "up")
            known = Path("/etc/netns") / name
            known.mkdir(parents=True)
            (known / "hosts").write_text(f"127.0.0.1 localhost\n{table}")
            (self.folder / name).mkdir()

    def hold(self, gigabits_per_s: float) -> None:
        """From now on the link carries so much in each direction."""
        for name, device in zip(self.names, self.devices, strict=True):
            rate = f"{round(gigabits_per_s * 1000)}mbit"
            bucket = ["tbf", "rate", rate, "burst", str(BURST_BYTES), "latency", "50ms"]
            _do("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", device, "root", *bucket)

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """``command`` as it runs on that host: its network, its name, its folder for temporary files."""
        name = self.names[host]
        inside = f'hostname {name}; export TMPDIR={self.folder / name}; exec "$@"'
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", inside, "sh", *command]

    def agent(self) -> str:
        """A program that mpirun may call like ssh: ``agent [options] HOST COMMAND...``."""
        path = self.folder / "agent"
        path.write_text(
            "#!/bin/sh\n"
            'while [ "${1#-}" != "$1" ]; do shift; done\n'
            f"host=$1; shift; export TMPDIR={self.folder}/$host\n"
            'exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"\n'
        )
        path.chmod(0o755)
        return str(path)

    def close(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=COMMAND_S, check=False)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)

    def __enter__(self) -> TwoHosts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
