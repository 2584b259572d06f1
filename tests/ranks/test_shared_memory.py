"""The contract once more where ranks of one host share memory, over both wires; and what only shared memory can do wrong."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import run_job
from tests.ranks import contract
from tests.ranks.launching import mpirun
from tests.ranks.test_mpi import failed
from tests.ranks.test_mpi import pytestmark as needs_mpi
from tests.ranks.test_zeromq import DEADLINE_S, Job, jobs

__all__ = ["jobs"]
QUICK = (2, 3)
SIZES = [pytest.param(size, marks=() if size in QUICK else pytest.mark.whole) for size in (2, 3, 4, 7)]


@functools.cache
def reports(size: int) -> dict[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return Job(Path(folder), "checks", size, shared=True).reports()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", contract.CHECKS)
def test_contract_over_zeromq(name: str, size: int) -> None:
    found = reports(size)
    assert len(found) == size
    for report in found.values():
        assert report["result"][name] is None, report["result"][name]


@pytest.mark.skipif(*needs_mpi.args, **needs_mpi.kwargs)
@pytest.mark.parametrize("size", SIZES)
def test_contract_over_mpi(tmp_path: Path, size: int) -> None:
    seconds = mpirun(tmp_path, size, "tests.ranks.remote", "checks", shared=True).values()
    assert all(list(s) == list(contract.CHECKS) for s in seconds)


QUICK_FAULTS = ("different_order", "one_rank_receives_what_nobody_sends", "one_rank_leaves_early")
FAULTS = [pytest.param(name, marks=() if name in QUICK_FAULTS else pytest.mark.whole) for name in contract.FAULTS]


@pytest.mark.parametrize("name", FAULTS)
def test_fault_over_zeromq(jobs: Any, name: str) -> None:
    job = jobs("fault", 3, deadline_s=DEADLINE_S, name=name, shared=True)
    if name == "one_rank_never_arrives":
        job.processes[0].join(DEADLINE_S + 5)
        job.processes[2].join(DEADLINE_S + 5)
        job.processes[1].kill()
    found = job.reports(within_s=DEADLINE_S + 8)
    texts = [f"rank {r['rank']}: {r.get('error')}: {r.get('text')}" for r in found.values()]
    assert any(all(word in text for word in contract.FAULTS[name].words) for text in texts), texts
    assert all("error" in found[rank] for rank in (0, 2)), texts


@pytest.mark.skipif(*needs_mpi.args, **needs_mpi.kwargs)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_over_mpi(tmp_path: Path, name: str) -> None:
    failed(tmp_path, "fault", *contract.FAULTS[name].words, name=name, shared=True)


@pytest.mark.skipif(*needs_mpi.args, **needs_mpi.kwargs)
def test_the_next_start_over_mpi_sweeps_what_a_killed_job_left(tmp_path: Path) -> None:
    left = Path("/dev/shm", f"sm_segment.{socket.gethostname()}.{os.getuid()}.deadbeef.0")
    left.write_bytes(b"x" * 4096)
    os.utime(left, (time.time() - 60,) * 2)
    script = tmp_path / "start.py"
    script.write_text("import time\nimport phalanx\nphalanx.init()\ntime.sleep(1)\n")
    try:
        code, output = run_job("mpirun 2", script=str(script))
        assert code == 0, output
        assert not left.exists()
    finally:
        left.unlink(missing_ok=True)
