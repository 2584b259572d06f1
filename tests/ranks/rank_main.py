"""A rank of a test: ``python -m tests.ranks.rank_main MODULE FUNCTION FOLDER DEADLINE_S ARGUMENTS``, under mpirun.

Connects over MPI, calls FUNCTION(communicator, **ARGUMENTS) and writes FOLDER/RANK.json:
``{"value": ...}`` or ``{"error": [class, message]}``. An error then takes its usual way, as in a user's script.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from phalanx.dist import env, excepthook
from phalanx.dist.communicators.base import Communicator
from phalanx.dist.communicators.mpi import MpiCommunicator

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def connect(timeout_s: float) -> Communicator:
    """The communicator of this process, with its excepthook, without the rest of ``phalanx.init()``."""
    found = env.read(os.environ)
    assert found is not None, "no launcher's variables in the environment"
    excepthook.install(found.rank, found.size)
    communicator = MpiCommunicator.from_world(timeout_s=timeout_s)
    excepthook.attach(communicator)
    return communicator


def write(folder: Path, rank: int, result: dict[str, Any]) -> None:
    """One file per rank, whole or not at all."""
    draft = folder / f"{rank}.draft"
    draft.write_text(json.dumps(result))
    draft.rename(folder / f"{rank}.json")


def main(module: str, function: str, folder: str, deadline_s: str, arguments: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    Path(folder, f"pid.{os.getpid()}").touch()
    communicator = connect(float(deadline_s))
    try:
        value = getattr(importlib.import_module(module), function)(communicator, **json.loads(arguments))
    except BaseException as error:
        write(Path(folder), communicator.rank, {"error": [type(error).__name__, str(error)]})
        raise
    write(Path(folder), communicator.rank, {"value": value})


if __name__ == "__main__":
    main(*sys.argv[1:])
