"""Stands between the launcher (or mpirun) and a rank for a moment, then becomes the rank's own Python.

Run as a file by ``python -I -S child.py``; imports nothing of phalanx, because it costs each rank its start-up time.
It asks the kernel to end this process with its parent, and connects stdout and stderr under mpirun straight to the
launcher's pipes, so that the launcher sees whole lines and knows whose they are.

    child.py PARENT SIGNAL PIPES RANK_NAMES command...

PARENT: process id that must be the parent, 0: whoever it is.  SIGNAL: what the parent's death sends.
PIPES: ``pid:out0,err0,out1,err1,...``, descriptors of the launcher; or ``end=WORD``: stay, and say ``WORD RANK CODE`` on
stdout at the rank's end, since mpirun's exit code can be 0 after a lost host; or ``-``.  RANK_NAMES: variables that may hold the
rank, with commas.
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; survives exec."""


def main(arguments: list[str]) -> None:
    parent, number, pipes, names, *command = arguments
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if int(parent) not in (0, os.getppid()):
        sys.exit(1)  # the launcher died before this process asked for the signal
    if pipes.startswith("end="):
        sys.exit(_outlive(command, pipes[4:], names.split(",")))
    if pipes != "-":
        _connect(pipes, names.split(","))
    _become(command)


def _become(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"phalanx run: cannot start {command[0]}: {error.strerror}")


def _outlive(command: list[str], word: str, names: list[str]) -> int:
    """Run the rank as a child, hand signals on to it, and tell its end."""
    waiting = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting)
        _become(command)
    for number in waiting:
        signal.signal(number, lambda number, _: _pass_on(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    rank = next((os.environ[name] for name in names if os.environ.get(name)), "?")
    os.write(1, f"{word} {rank} {code}\n".encode())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


def _pass_on(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


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
