"""The guardian: a small process beside the launcher that ends the job when the launcher was killed with -9.

It waits for the end of its stdin, which the launcher holds open. Every process of a job carries
PHALANX_JOB in its environment, also the children of a rank, so that all can be found. Run as a file by
``python -I -S guardian.py``; imports nothing of phalanx, because it is started for every job.

    guardian.py GRACE_S [folder ...]

The first line of stdin: ``NAME=value`` that marks the job's processes; it is the job's secret, and command lines are for
all to read.  GRACE_S: how long they may take to leave by themselves (mpirun
cleans up after a SIGTERM).  folder: removed at the end.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator

PAUSE_S = 0.02
LONGEST_SWEEP_S = 5.0


def main(arguments: list[str]) -> None:
    grace_s, *folders = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    said = b""
    while data := os.read(0, 4096):
        said += data
    mark, newline, _ = said.decode(errors="surrogateescape").partition("\n")
    if newline:
        sweep(mark, float(grace_s))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(mark: str, grace_s: float = 0.0) -> None:
    """Wait ``grace_s`` for the job's processes to leave, then kill what is left, until nothing is."""
    patience = time.monotonic() + grace_s
    end = patience + LONGEST_SWEEP_S
    while time.monotonic() < end:
        pids = list(marked(mark))
        if not pids:
            return
        if time.monotonic() >= patience:
            for pid in pids:
                signal_process(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)


def marked(mark: str) -> Iterator[int]:
    """Processes of this user whose environment holds ``mark``; none where the system has no /proc."""
    needle = b"\0" + mark.encode() + b"\0"
    for pid, environment in environments():
        if needle in environment and pid != os.getpid():
            yield pid


def environments() -> Iterator[tuple[int, bytes]]:
    """Process id and environment, each entry between two zero bytes, of every process that may be read."""
    try:
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return
    for pid in pids:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                yield pid, b"\0" + file.read()
        except OSError:
            continue


def signal_process(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


if __name__ == "__main__":
    main(sys.argv[1:])
