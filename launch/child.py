"""Stands between the launcher (or mpirun) and a rank for a moment, then becomes the rank's own Python.

Run as a file by ``python -I -S child.py``; imports nothing of phalanx, because it costs each rank its start-up time.
It asks the kernel to end this process with its parent, and connects stdout and stderr under mpirun straight to the
launcher's pipes, so that the launcher sees whole lines and knows whose they are.

    child.py PARENT SIGNAL PIPES RANK_NAMES command...

PARENT: process id that must be the parent, 0: whoever it is.  SIGNAL: what the parent's death sends.
PIPES: ``pid:out0,err0,out1,err1,...``, descriptors of the launcher, or ``-``.  RANK_NAMES: variables that may hold the
rank, with commas.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; survives exec."""


def main(arguments: list[str]) -> None:
    parent, number, pipes, names, *command = arguments
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if int(parent) not in (0, os.getppid()):
        sys.exit(1)  # the launcher died before this process asked for the signal
    if pipes != "-":
        _connect(pipes, names.split(","))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"phalanx run: cannot start {command[0]}: {error.strerror}")


def _connect(pipes: str, names: list[str]) -> None:
    """Open this rank's pipes through /proc; where that cannot be done (another host) mpirun forwards the output."""
    launcher, _, numbers = pipes.partition(":")
    rank = next((int(os.environ[name]) for name in names if os.environ.get(name)), None)
    if rank is None:
        return
    descriptors = numbers.split(",")
    try:
        opened = [os.open(f"/proc/{launcher}/fd/{descriptors[2 * rank + stream]}", os.O_WRONLY) for stream in (0, 1)]
    except OSError:
        return
    for stream, descriptor in enumerate(opened):
        os.dup2(descriptor, stream + 1)
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
