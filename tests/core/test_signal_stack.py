"""Signals that come within a kernel change nothing: oneDNN's sgemm has numbers where a handler's frame would lie."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack as Linux has it")

PRODUCTS = """
import signal, time
import numpy as np
import phalanx
from phalanx.core.kernels.table import kernel

phalanx.kernels.choose("fast")
numbers = np.random.default_rng(0)
gradient = numbers.standard_normal((200, 1024)).astype(np.float32)
weight = numbers.standard_normal((1024, 64)).astype(np.float32)
multiply = kernel("linear_input_gradient", "cpu")
expected = multiply(gradient, weight).tobytes()
came = []
signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    assert multiply(gradient, weight).tobytes() == expected
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(came) > 20, len(came)
"""

STACK = """
import ctypes
import phalanx
import phalanx.core.backend
from phalanx.core.signal_stack import NBYTES, _Stack, use_own

def found():
    stack = _Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.place, stack.flags, stack.nbytes

first = found()
use_own()
assert found() == first
print(first[1:], NBYTES)
"""


def run(source, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *options, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)


def test_signals_within_products():
    done = run(PRODUCTS)
    assert done.returncode == 0, done.stderr


def test_the_main_thread_has_a_stack_for_signals():
    done = run(STACK)
    assert done.stdout == "(0, 65536) 65536\n", done.stderr


def test_that_of_faulthandler_stays():
    assert hasattr(faulthandler, "enable")
    done = run(STACK, "-X", "faulthandler")
    assert done.returncode == 0 and "(0, 65536)" not in done.stdout, done.stderr
