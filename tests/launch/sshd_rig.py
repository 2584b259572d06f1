"""A real sshd on each host of tests.hosts: Debian's package unpacked, throw-away keys, a home of its own for root.

What ``ssh h1`` needs stands where ssh looks by itself (``~/.ssh``), so that the launcher is used with no option of its own.
It is started on a host, since the network has no other members.

As a command, for trying out: ``python -m tests.launch.sshd_rig 3`` is a shell on the first of three hosts, h0, h1, h2; what
follows the number runs there instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hosts import Hosts
from tests.launch import debian
from tests.launch.rig import DEADLINE_S

PACKAGES = ("openssh-server", "libwrap0")
CONFIGURATION = """\
HostKey {home}/host_key
AuthorizedKeysFile {home}/.ssh/id_ed25519.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
MaxStartups 100
"""
START = """
hostname "$0"
mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/sshd    # sshd gives up its rights there; the mount is this host's own
export LD_LIBRARY_PATH="$1/usr/lib/x86_64-linux-gnu"
exec "$1/usr/sbin/sshd" -D -e -f "$2"
"""


class Sshd:
    """Use inside of ``with Hosts(n) as hosts``, as a context manager."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.home, self._root = hosts, folder / "home", folder / "packages"
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Sshd:
        root = debian.unpack(self._root, PACKAGES)
        keys = self.home / ".ssh"
        keys.mkdir(parents=True, mode=0o700)
        (self.home / ".cache").symlink_to(Path.home() / ".cache")  # compiled kernels
        for key in (keys / "id_ed25519", self.home / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=20)
        known = (self.home / "host_key.pub").read_text().split()[:2]
        (keys / "known_hosts").write_text(" ".join([",".join(self.hosts.names), *known]) + "\n")
        configuration = self.home / "sshd_config"
        configuration.write_text(CONFIGURATION.format(home=self.home))
        for host, name in enumerate(self.hosts.names):
            self._people(host)
            command = self.hosts.command(
                host, ["unshare", "--mount", "sh", "-c", START, name, str(root), str(configuration)]
            )
            with (self.home / f"{name}.log").open("wb") as log:
                self._running.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
                )
        for name in self.hosts.names:
            self._await(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def _people(self, host: int) -> None:
        """This host's users: root at home in the test's folder, and the one that sshd becomes."""
        lines = [
            line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(("root:", "sshd:"))
        ]
        own = [f"root:*:0:0:root:{self.home}:/bin/bash", "sshd:*:99:65534::/run/sshd:/usr/sbin/nologin"]
        Path("/etc/netns", self.hosts.namespace(host), "passwd").write_text("\n".join([*own, *lines, ""]))

    def _await(self, name: str) -> None:
        end = time.monotonic() + DEADLINE_S
        log = self.home / f"{name}.log"
        while "Server listening" not in log.read_text():
            assert time.monotonic() < end and all(process.poll() is None for process in self._running), log.read_text()
            time.sleep(0.02)


def main(count: str = "3", *command: str) -> int:
    """Hosts for as long as a command (else a shell) runs on the first of them; its exit code."""
    with tempfile.TemporaryDirectory(prefix="phalanx-hosts-") as folder, Hosts(int(count)) as hosts:
        with Sshd(hosts, Path(folder)) as daemons:
            environ = os.environ | {"HOME": str(daemons.home)}
            return subprocess.run(hosts.command(0, command or ("bash",)), env=environ).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
