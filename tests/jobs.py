"""Start whole jobs as a user would, with a deadline, and account for every process of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = str(ROOT / "examples" / "fashion_mnist.py")
MARK = "PHALANX_TEST_MARK"
MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl": "^ofi",
    "OMPI_MCA_osc": "^ucx",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
FOREIGN = ("PHALANX_", "OMPI_COMM", "PMIX_", "PMI_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK")


def launch_command(how: str) -> list[str]:
    """``alone``, ``run N``, ``mpirun N``, ``run --mpi N`` or ``threads N`` -> what comes before the script."""
    kind, _, count = how.partition(" ")
    binary = Path(sys.executable).parent
    return {
        "alone": [sys.executable],
        "run": [sys.executable, "-m", "phalanx", "run", "--tee", "all", "-n", count],
        "mpi": [sys.executable, "-m", "phalanx", "run", "--tee", "all", "--mpi", "-n", count],
        "threads": [sys.executable, "-m", "phalanx", "run", "--tee", "all", "--threads", "-n", count],
        "mpirun": [str(binary / "mpirun"), "-n", count, sys.executable],
    }[kind]


@dataclass
class Job:
    """One running job. Every process of it carries a mark in its environment."""

    command: list[str]
    extra: dict[str, str] = field(default_factory=dict)
    limits: bool = True
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[str] | None = None

    def start(self) -> Job:
        env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN) and k not in THREAD_LIMITS}
        env |= {MARK: self.mark, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        env["PHALANX_FLIGHT"] = os.environ["PHALANX_TESTS_FLIGHT"]
        if self.limits:
            env |= dict.fromkeys(THREAD_LIMITS, "1")
        if "mpirun" in self.command[0]:
            env |= MPI_ENVIRONMENT
        env |= self.extra
        self.process = subprocess.Popen(
            self.command, env=env, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        return self

    def finish(self, timeout_s: float = 120.0) -> tuple[int, str]:
        """(exit code, output); a job that does not end is ended here and is an error."""
        assert self.process is not None
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            output, _ = self.process.communicate(timeout=10)
            raise AssertionError(f"{self.command} did not end within {timeout_s} s:\n{output[-4000:]}") from None
        return self.process.returncode, output

    def pids(self) -> list[int]:
        """Every living process that carries this job's mark."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if f"{MARK}={self.mark}".encode() in environment and state != "Z":
                    found.append(int(entry.name))
        return found

    def left_after(self, seconds: float) -> list[int]:
        """The processes that are still there after ``seconds`` (returns as soon as there are none)."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.pids():
                return []
            time.sleep(0.05)
        return self.pids()

    def end(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run_job(
    how: str, *arguments: str, script: str = EXAMPLE, timeout_s: float = 120.0, launcher: Iterable[str] = (), **options
) -> tuple[int, str]:
    """Run a script to its end in one of the ways of :func:`launch_command`; ``launcher``: more options for that."""
    return Job([*launch_command(how), *launcher, script, *arguments], **options).start().finish(timeout_s)


def train(how: str, folder: Path, *arguments: str, **options) -> str:
    """Run the example with a ledger and checkpoints in ``folder``; it must succeed. Returns its output."""
    code, output = run_job(
        how, "--ledger", str(folder / "ledger"), "--checkpoint-dir", str(folder / "checkpoints"), *arguments, **options
    )
    assert code == 0, f"{how} ended with {code}:\n{output[-4000:]}"
    return output


def ledger(folder: Path) -> list[str]:
    """The ledger's lines."""
    return (folder / "ledger").read_text().splitlines()


def tensor_bytes(folder: Path) -> dict[str, bytes]:
    """Every tensor file of every checkpoint in ``folder``, and the manifests' tables of tensors."""
    found = {}
    for path in sorted((folder / "checkpoints").rglob("*.safetensors")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted((folder / "checkpoints").rglob("manifest.json")):
        table = json.loads(path.read_text())["tensors"]
        found[str(path.relative_to(folder))] = json.dumps(table, sort_keys=True).encode()
    assert found, f"no checkpoint in {folder}"
    return found


def last_checkpoint(folder: Path, step: int) -> dict[str, bytes]:
    """What :func:`tensor_bytes` gives of the checkpoint of ``step``, which must be there."""
    head = f"checkpoints/step-{step:08d}/"
    found = {name.removeprefix(head): data for name, data in tensor_bytes(folder).items() if name.startswith(head)}
    assert found, f"no checkpoint of step {step} in {folder}"
    return found
