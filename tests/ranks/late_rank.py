"""A script whose last rank is late, stopped or fails: ``late_rank.py HOW [SECONDS]``, started by tests of diagnosis."""

import os
import signal
import sys
import time

import numpy as np

import phalanx
from phalanx.dist.diagnosis.written import write_flight
from phalanx.dist.group import current


def load_batch(how, seconds):
    if how == "late":
        time.sleep(seconds)  # where the late rank stands
    elif how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "killed":
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "raises":
        time.sleep(0.5)  # the others complete what came before
        raise ValueError("bad batch")  # where it fails


def main():
    how, seconds, timeout_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    phalanx.init(stall_s=0.6, timeout_s=timeout_s)
    communicator = current().communicator
    for step in range(3):
        communicator.all_reduce(np.ones(1000, np.float32), name=f"gradient {step}").wait()
    if communicator.rank == communicator.size - 1:
        load_batch(how, seconds)
    name = "other" if how == "other" and communicator.rank == communicator.size - 1 else "late gradient"
    communicator.all_reduce(np.ones(1000, np.float32), name=name).wait()
    if how == "healthy":
        write_flight(sys.argv[4])


if __name__ == "__main__":
    main()
