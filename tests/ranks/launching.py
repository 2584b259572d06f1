"""Start ranks as processes from a plain pytest process, with a deadline, and leave none behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phalanx.dist import env

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.prefix, "bin", "mpirun")
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
_TERM_GRACE_S = 3.0


@dataclass
class Outcome:
    """How a launched job ended."""

    code: int | None
    """Exit code of the launcher; None when it had to be killed."""
    output: str
    seconds: float
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What each rank wrote: ``{"value": ...}`` or ``{"error": [class, message]}``."""
    left_behind: list[int] = field(default_factory=list)
    """Processes of the job that were alive after the launcher had ended."""

    def values(self) -> list[Any]:
        """What the ranks returned, in order; fails with the job's output if one did not."""
        assert self.code == 0, f"exit code {self.code}\n{self.output}"
        assert not self.left_behind
        return [self.ranks[rank]["value"] for rank in sorted(self.ranks)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """For a new job: no launcher's rank variables, one thread per library, temporary files in ``folder``."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**env.without_ranks(os.environ), **threads, "PYTHONPATH": path, "TMPDIR": str(folder), **more}


def rank_command(
    folder: Path, module: str, function: str, deadline_s: float, arguments: Mapping[str, Any]
) -> list[str]:
    """The command of every rank: see rank_main.py."""
    call = [module, function, str(folder), str(deadline_s), json.dumps(dict(arguments))]
    return [sys.executable, "-m", "tests.ranks.rank_main", *call]


def mpirun(
    folder: Path,
    size: int,
    module: str,
    function: str,
    *,
    deadline_s: float = 20.0,
    limit_s: float = 60.0,
    **arguments: Any,
) -> Outcome:
    """Call ``module.function(communicator, **arguments)`` on ``size`` ranks under mpirun."""
    command = [str(MPIRUN), "-n", str(size), *rank_command(folder, module, function, deadline_s, arguments)]
    return launch(folder, command, environment(folder, **OPEN_MPI), limit_s)


def launch(folder: Path, command: list[str], environ: dict[str, str], limit_s: float) -> Outcome:
    """Run ``command`` to its end, at most ``limit_s`` seconds; then kill what it left and say so."""
    log = folder / "output"
    began = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=environ,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = wait(process, limit_s)
    seconds = time.monotonic() - began
    left = [pid for pid in (int(file.suffix[1:]) for file in folder.glob("pid.*")) if kill(pid)]
    ranks = {int(file.stem): json.loads(file.read_text()) for file in folder.glob("*.json")}
    return Outcome(code, log.read_text(errors="replace"), seconds, ranks, left)


def wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Its exit code, or None after it had to be stopped: TERM first, so that a launcher can end its ranks."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_TERM_GRACE_S)
        return None
    process.kill()
    process.wait()
    return None


def kill(pid: int) -> bool:
    """Kill a rank that outlived its job; whether there was one."""
    for _ in range(20):  # the kernel may still be taking it down
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True
