"""A Slurm cluster on this machine: Debian's packages, unpacked into a folder of the test's own, on hosts of tests.hosts.

Nothing is installed and the root namespace is not touched: slurmctld and one slurmd for each host run in network namespaces,
without munge (``auth/none``: nobody else is on that network).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.hosts import Hosts
from tests.launch import debian
from tests.launch.rig import ROOT, environment

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libmunge2", "libpmix2", "libhwloc15",
            "libevent-core-2.1-7", "libevent-pthreads-2.1-7", "liblua5.1-0", "libjson-c5", "libyaml-0-2")  # fmt: skip
LIBRARIES = "usr/lib/x86_64-linux-gnu"
INSTALLED = f'mount -t overlay overlay -o lowerdir="$0/{LIBRARIES}:/{LIBRARIES}" "/{LIBRARIES}" && exec "$@"'
"""Slurm looks for PMIx in one place. Each command on a host has mounts of its own: there, and only there, it is installed."""
CONFIGURATION = """\
ClusterName=lab
SlurmctldHost=h0(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
PluginDir=/usr/lib/x86_64-linux-gnu/slurm-wlm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
KillWait=10
SwitchType=switch/none
TmpFS={folder}/tmp/%n
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=10 State=UP OverSubscribe=FORCE:4
"""


def unpack(folder: Path) -> None:
    """Fetch and unpack Slurm."""
    root = debian.unpack(folder, PACKAGES)
    (root / LIBRARIES / "pmix2/lib/libpmix.so").symlink_to("libpmix.so.2")  # in Debian part of libpmix-dev


class Slurm:
    """Two nodes, h0 and h1, of two cores each; use inside of ``with Hosts(2) as hosts``, as a context manager."""

    def __init__(self, hosts: Hosts, packages: Path, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.root = packages / "root"
        self.configuration = folder / "slurm.conf"
        self.environ = environment(
            SLURM_CONF=str(self.configuration),
            PATH=f"{self.root / 'usr/bin'}:{os.environ['PATH']}",
        )
        for name in ("state", *(f"{part}/{host}" for part in ("spool", "tmp") for host in hosts.names)):
            (folder / name).mkdir(parents=True)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # autodetection wants cgroups to be mounted
        nodes = [
            f"NodeName={name} NodeHostname={name} NodeAddr={hosts.address(number)} CPUs=2 RealMemory=2000 State=UNKNOWN"
            for number, name in enumerate(hosts.names)
        ]
        self.configuration.write_text(CONFIGURATION.format(folder=folder, nodes="\n".join(nodes)))
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        programs = self.root / "usr/sbin"
        self._daemon(0, "slurmctld", str(programs / "slurmctld-wlm"), "-c", "-D")
        for number, name in enumerate(self.hosts.names):
            stepd = ["-d", str(programs / "slurmstepd-wlm")]
            self._daemon(number, f"slurmd-{name}", str(programs / "slurmd-wlm"), "-D", "-N", name, *stepd)
        self.until(lambda: self("sinfo", "-h", "-o", "%D %T") == "2 idle", 20.0, "both nodes are idle")
        return self

    def _daemon(self, host: int, name: str, *command: str) -> None:
        self.daemons.append(self.hosts.start(host, self._installed(command), self.environ, self.folder / f"{name}.log"))

    def _installed(self, command: Sequence[str]) -> list[str]:
        return ["sh", "-c", INSTALLED, str(self.root), *command]

    def __exit__(self, *_: object) -> None:
        self("scancel", "--state=RUNNING", check=False)
        for process in reversed(self.daemons):
            process.send_signal(signal.SIGTERM)
        for process in self.daemons:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __call__(self, *command: str, check: bool = True, cwd: Path = ROOT) -> str:
        """Run a command on the first host; its output."""
        done = subprocess.run(
            self.hosts.command(0, self._installed(command)),
            env=self.environ,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout.strip()

    def submit(self, *arguments: str, cwd: Path = ROOT) -> str:
        """``phalanx slurm submit``; the job's number."""
        said = self(sys.executable, "-m", "phalanx", "slurm", "submit", *arguments, cwd=cwd)
        return said.removeprefix("job ").partition(":")[0]

    def state(self, job: str) -> str:
        """``RUNNING``, ``PENDING``, ``COMPLETED``, ...; then exit code and restarts."""
        words = dict(word.partition("=")[::2] for word in self("scontrol", "show", "job", job).split() if "=" in word)
        return f"{words['JobState']} {words['ExitCode']} {words['Restarts']}"

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:g} s until {what}{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        return "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))
