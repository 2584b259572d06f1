"""Whole jobs in which one thing goes wrong, and what is checked of each: the machinery of test_fault_table.py.

A job runs with a /dev/shm and /tmp of its own where that is allowed, so that whatever it leaves there is seen.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from phalanx.dist import env
from phalanx.dist.env import RankEnvironment
from tests.hosts import PORT, Hosts
from tests.jobs import MARK, MPI_ENVIRONMENT, ROOT, Job, launch_command
from tests.ranks import blinds
from tests.ranks.launching import MPIRUN, OPEN_MPI, environment

SCRIPT = str(ROOT / "tests" / "ranks" / "fault_script.py")
STARTS_WITHIN_S = 40.0
ONE_NAME = f"{os.urandom(16).hex()}-for-two-jobs"
"""What jobs of one name are called. Another run of these tests on this machine has another: it would lose its ranks."""


@dataclass(frozen=True)
class Row:
    """One fault; rank 1 has it, in step 4, unless it says otherwise."""

    name: str
    launch: str
    fault: str
    words: str
    """What the user reads (a regular expression), in one line."""
    limit_s: float
    """From the fault until no process of the job is left."""
    code: int | None
    """Exit code; None: any but 0."""
    blind: str
    """The detection that the row is about; switched off in the control. Empty: it is mpirun's own, or there is nothing to detect."""
    complaint: str
    """The kind of what the checks then say: words, late, code, tracebacks, or other (of the job beside it)."""
    tracebacks: int = 1
    records: int | None = None
    """How many ranks leave a flight record; None: no matter. Only ``phalanx run`` asks for records."""
    options: tuple[str, ...] = ()
    """Of the script."""
    timeout_s: float = 30.0
    shm: str = "1g"
    """Size of /dev/shm."""
    quick: bool = False
    """Belongs to the subset that ``make test`` runs."""
    quick_control: bool = False


# -- one job -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and what it left."""

    codes: tuple[int | None, ...]
    """Of what the user started: one launcher, or each host's rank; None: it had to be ended."""
    output: str
    seconds: float
    """From the fault until nothing of it was left."""
    processes: tuple[int, ...] = ()
    files: frozenset[str] = frozenset()
    """What is in /dev/shm and in the folder for temporary files."""
    came_to_fault: bool = True
    beside: tuple[str, ...] = ()
    """What is wrong with the job that ran beside it."""


SHIELD = """
mount -t tmpfs -o size="$SIZE" tmpfs /dev/shm
if [ "$OWN_TMP" ]; then
    mount --bind "$FOLDER" /mnt && mount -t tmpfs tmpfs /tmp && mkdir -p "$FOLDER" && mount --bind /mnt "$FOLDER" && umount /mnt
fi
"$@"
code=$?
find /dev/shm "${TMPDIR:-/tmp}" -xdev -mindepth 1 > "$FOLDER/left"
exit $code
"""
"""A command with a /dev/shm and, if OWN_TMP is set, a /tmp of its own, and a list of what it leaves there."""


@functools.cache
def unshare() -> tuple[str, ...]:
    """The command for a mount namespace of one's own; empty where that is not allowed."""
    command = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    try:
        done = subprocess.run(
            [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=20, check=False
        )
    except OSError:
        return ()
    return command if done.returncode == 0 else ()


def shielded(command: list[str], folder: Path, size: str) -> tuple[list[str], dict[str, str]]:
    """``command`` behind SHIELD, and the variables for it."""
    own_tmp = not any(str(path).startswith("/tmp/") for path in (ROOT, sys.prefix, sys.base_prefix))
    variables = {"SIZE": size, "FOLDER": str(folder), "OWN_TMP": "yes" if own_tmp else "", "PHALANX_FLIGHT": ""}
    if own_tmp and unshare():
        return [*unshare(), "sh", "-c", SHIELD, "shield", *command], variables | {"TMPDIR": ""}
    (folder / "tmp").mkdir()
    variables |= {"TMPDIR": str(folder / "tmp"), "OWN_TMP": ""}
    plain = SHIELD.replace("mount -t tmpfs -o", ": -o").replace("/dev/shm ", "")
    return [*(unshare() or ()), "sh", "-c", SHIELD if unshare() else plain, "shield", *command], variables


def command_of(row: Row, folder: Path, blind: str, *more: str) -> list[str]:
    """What the user types."""
    kind, *rest = row.launch.removeprefix("two ").split(" ")
    command = launch_command(f"{kind} {rest[0]}")
    if blind in ("names", "space"):
        command[2:3] = ["tests.ranks.blinds", blind]
    at_end = command[-1:] if kind == "mpirun" else []
    launcher = rest[1:] if kind == "mpirun" else ["--timeout", f"{row.timeout_s:g}"]
    script = [SCRIPT, row.fault, str(folder), *row.options, *more]
    if blind not in ("", "names", "space"):
        script += ["--blind", blind]
    return [*(command[:-1] if at_end else command), *launcher, *at_end, *script]


def start(row: Row, folder: Path, blind: str, *more: str) -> Job:
    folder.mkdir(exist_ok=True)
    command, variables = shielded(command_of(row, folder, blind, *more), folder, row.shm)
    variables[blinds.ONE_NAME] = ONE_NAME
    if "mpirun" in row.launch:
        variables |= MPI_ENVIRONMENT | {"PHALANX_TIMEOUT_S": f"{row.timeout_s:g}"}
    return Job(command, extra=variables).start()


def fault_time(folder: Path, job: Job, row: Row) -> float:
    """When it happened; now, where nothing happens or it never came to that."""
    began = time.monotonic()
    while row.fault != "none" and time.monotonic() < began + STARTS_WITHIN_S and job.process is not None:
        if (folder / "fault").exists():
            return float((folder / "fault").read_text())
        if job.process.poll() is not None:
            break
        time.sleep(0.02)
    return began


def finished(row: Row, folder: Path, job: Job) -> Outcome:
    """Wait for its end, for as long as the row allows."""
    since = fault_time(folder, job, row)
    assert job.process is not None
    try:
        try:
            output, _ = job.process.communicate(timeout=max(0.1, since + row.limit_s - time.monotonic()))
            code = job.process.returncode
        except subprocess.TimeoutExpired:
            job.end()
            output, _ = job.process.communicate(timeout=20)
            code = None
        left = job.left_after(max(0.5, since + row.limit_s - time.monotonic()))
        ended = time.monotonic()
    finally:
        job.end()
    files = set() if code is None else set((folder / "left").read_text().splitlines())
    files = {path for path in files if not str(folder).startswith(path)}
    came = row.fault == "none" or (folder / "fault").exists()
    return Outcome((code,), output.replace("\0", ""), ended - since, tuple(left), frozenset(files), came)


def run_one(row: Row, folder: Path, blind: str) -> Outcome:
    return finished(row, folder, start(row, folder, blind))


# -- two jobs on this host ------------------------------------------------------------------------------------------------


def run_two(row: Row, folder: Path, blind: str) -> Outcome:
    """The row's job, and beside it a healthy one that goes on for longer."""
    slow = replace(row, fault="none", options=("--seed", "1", "--hold"), limit_s=40.0)
    beside = start(slow, folder / "beside", blind)
    try:
        wait_for(folder / "beside" / "reached.0", beside)
        outcome = finished(row, folder, start(row, folder, blind))
        (folder / "beside" / "go on").touch()
        other = finished(slow, folder / "beside", beside)
    finally:
        beside.end()
    wrong = complaints(replace(slow, words=r"bits \w+ on rank 0", code=0, tracebacks=0), other, seed=1)
    return replace(outcome, beside=tuple(wrong))


def wait_for(path: Path, job: Job | None = None) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not path.exists() and (job is None or (job.process is not None and job.process.poll() is None)):
        assert time.monotonic() < deadline, f"{path.name} has not come within {STARTS_WITHIN_S:.0f} s"
        time.sleep(0.02)


# -- two hosts ------------------------------------------------------------------------------------------------------------


def run_hosts(row: Row, folder: Path, blind: str) -> Outcome:
    """One rank on each of two simulated hosts, started as their users do."""
    job = Job([])
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    script = [sys.executable, SCRIPT, row.fault, str(folder), *row.options, "--steps", "1000000", "--pause", "0.02"]
    script += ["--blind", blind] if blind else []
    if row.fault.endswith("damaged"):
        script[script.index("1000000")] = "12"
    environ = environment(folder, TMPDIR=str(temporary), PHALANX_TIMEOUT_S=f"{row.timeout_s:g}") | {MARK: job.mark}
    with Hosts(2) as hosts:
        begin = start_mpirun_on_hosts if "mpirun" in row.launch else start_on_hosts
        processes, logs = begin(hosts, script, environ, folder)
        try:
            since = break_hosts(row, hosts, folder, processes)
            codes = tuple(code_of(process, since + row.limit_s) for process in processes)
            left = job.left_after(max(0.5, since + row.limit_s - time.monotonic())) if None not in codes else []
            ended = time.monotonic()
        finally:
            job.end()
    output = "\n".join(log.read_text(errors="replace") for log in logs)
    files = frozenset(str(path) for path in temporary.rglob("*"))
    return Outcome(codes, output.replace("\0", ""), ended - since, tuple(left), files, (folder / "fault").exists())


def start_on_hosts(hosts: Hosts, script: list[str], environ: dict[str, str], folder: Path) -> tuple[list, list[Path]]:
    """Each rank by itself, told by variables where the others are."""
    job, processes, logs = os.urandom(16).hex(), [], [folder / "0.log", folder / "1.log"]
    for rank, log in enumerate(logs):
        meet = f"{hosts.address(0)}:{PORT}"
        told = env.write(RankEnvironment(rank, 2, 0, 1, rank, rendezvous=meet, job=job))
        processes.append(hosts.start(rank, script, environ | told, log))
    return processes, logs


def start_mpirun_on_hosts(
    hosts: Hosts, script: list[str], environ: dict[str, str], folder: Path
) -> tuple[list, list[Path]]:
    """One mpirun, on the first host."""
    forwarded = [word for name in ("PYTHONPATH", "PHALANX_TIMEOUT_S", MARK) for word in ("-x", name)]
    spread = ["--host", "h0:1,h1:1", "--map-by", "ppr:1:node:oversubscribe", "--bind-to", "none"]
    environ = environ | OPEN_MPI | {"OMPI_MCA_btl": "^ofi", "PRTE_MCA_plm_ssh_agent": str(hosts._agent(folder))}
    command = [str(MPIRUN), *spread, "-n", "2", *forwarded, *script]
    return [hosts.start(0, command, environ, folder / "0.log")], [folder / "0.log"]


def break_hosts(row: Row, hosts: Hosts, folder: Path, processes: list) -> float:
    """Wait until all train, then break something; when that was."""
    if row.fault in ("cut", "gone"):
        for rank in range(2):
            wait_for(folder / f"reached.{rank}")
        (hosts.cut if row.fault == "cut" else hosts.kill)(1)
        (folder / "fault").write_text(str(time.monotonic()))
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not (folder / "fault").exists() and time.monotonic() < deadline and processes[0].poll() is None:
        time.sleep(0.02)
    return float((folder / "fault").read_text()) if (folder / "fault").exists() else time.monotonic()


def code_of(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    try:
        return process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


# -- checks ---------------------------------------------------------------------------------------------------------------


@functools.cache
def bits_alone(seed: int, width: str) -> str:
    """What a single process trains."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job([sys.executable, SCRIPT, "none", folder, "--seed", str(seed), "--width", width]).start()
        code, output = job.finish(60)
    assert code == 0, output
    return re.findall(r"bits (\w+) on rank 0", output)[0]


def option(row: Row, name: str, default: str) -> str:
    return row.options[row.options.index(name) + 1] if name in row.options else default


def complaints(row: Row, outcome: Outcome, seed: int = 0) -> list[str]:
    """What is not as the row says: words that begin with its kind."""
    found = []
    if None in outcome.codes or outcome.seconds > row.limit_s:
        found.append(f"late: not ended {row.limit_s:g} s after the fault")
    for number, code in enumerate(outcome.codes):
        ended_by_us = row.fault == "gone" and number == 1
        if not ended_by_us and (code == 0 if row.code is None else code != row.code):
            found.append(f"code: expected {'any but 0' if row.code is None else row.code}, got {outcome.codes}")
    if sentence(row, outcome) is None:
        found.append(f"words: no line has {row.words!r}")
    tracebacks = outcome.output.count("Traceback (most recent call last)")
    who = re.findall(r"^(?:\[\d\] )?(?:rank \d of \d failed:)$", outcome.output, re.MULTILINE)
    if not tracebacks == len(who) == row.tracebacks:
        found.append(f"tracebacks: expected {row.tracebacks}, found {tracebacks}, {len(who)} with a rank")
    if outcome.processes:
        found.append(f"left: processes {outcome.processes}")
    if row.code == 0:
        size = int(re.findall(r"\d+", row.launch)[0])
        bits = re.findall(r"bits (\w+) on rank", outcome.output)
        if bits != [bits_alone(seed, option(row, "--width", "512"))] * size:
            found.append(f"bits: {bits}")
        if row.fault != "none" and len(re.findall(row.words, outcome.output)) != 1:
            found.append("words: said more than once")
    return found + [f"other: {words}" for words in outcome.beside] + remains(row, outcome)


def remains(row: Row, outcome: Outcome) -> list[str]:
    """Files that should not be there. Flight records stay where the launcher says, of a job that failed."""
    told = re.search(r"phalanx run: flight records of (\d+) ranks? in (\S+) \(phalanx flight \2\)", outcome.output)
    records = {path for path in outcome.files if told and (path == told[2] or path.startswith(told[2] + "/rank-"))}
    found = [f"left: {path}" for path in sorted(outcome.files - records)]
    if told and (row.code == 0 or len(records) != 1 + int(told[1])):
        found.append(f"records: {told[0]!r}, but there are {sorted(records)}")
    if row.records is not None and (told is None or int(told[1]) != row.records):
        found.append(f"records: expected those of {row.records} ranks, {told and told[0]!r}")
    return found


def sentence(row: Row, outcome: Outcome) -> str | None:
    """The line that holds the row's words."""
    lines = (re.sub(r"^\[\d\] ", "", line) for line in outcome.output.splitlines())
    return next((line for line in lines if re.search(row.words, line)), None)


def run_row(row: Row, folder: Path, blind: str = "") -> Outcome:
    run = run_hosts if row.launch.startswith("hosts") else run_two if row.launch.startswith("two") else run_one
    return run(row, folder, blind)


def check(row: Row, outcome: Outcome) -> None:
    found = complaints(row, outcome)
    assert not found, "; ".join(found) + f"\n{outcome.output[-6000:]}"
