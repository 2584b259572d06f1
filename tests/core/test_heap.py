"""What a process holds of memory: parameters once when a store takes them over, and no more with each step."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest

from tests.core.onednn_cases import needs_onednn

BLOCKS = """
    import ctypes

    from phalanx.core import heap

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
    kept = [libc.malloc(size) for size in range(24, 168, 16) for _ in range(50)]  # as what is made for long takes them
    heap.settle()
    places, place = set(), ctypes.c_void_p()
    for number in range(12):
        libc.posix_memalign(ctypes.byref(place), 128, 3 << 20)
        kept.append(libc.malloc(5000 + number))
        libc.free(place)
        places.add(place.value)
    print("places", len(places))
"""

STEP = """
    import phalanx
    from phalanx import nn, optim
    from phalanx.core import heap
    from phalanx.core.kernels.cpu import compiled, onednn, threads

    threads.set_threads(1)
    calls = {"compiled": 0, "onednn": 0}

    def counted(name):
        def settle(small=False):
            calls[name] += 1
            heap.settle(small)

        return settle

    compiled.settle, onednn.settle = counted("compiled"), counted("onednn")

    def held():  # anonymous memory of this process, MiB
        line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    optim.SGD(nn.Linear(600, 600).parameters(), lr=0.1)
    before = held()
    parameters = [nn.Parameter(phalanx.ones(1 << 20)) for _ in range(16)]
    optimizer = optim.SGD(parameters, lr=0.1)
    print("taken over", held() - before)

    layer = nn.Linear(1024, 1024)
    x = phalanx.ones(256, 1024, requires_grad=True)
    layer(x).sum().backward()
    print("compiled", calls["compiled"])
    print("onednn", calls["onednn"])
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="says how glibc keeps memory")


def numbers(script: str) -> dict[str, float]:
    """What a script printed in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {" ".join(words[:-1]): float(words[-1]) for words in map(str.split, done.stdout.splitlines())}


def test_aligned_blocks_come_back_to_where_they_lay() -> None:
    assert numbers(BLOCKS)["places"] < 8  # 4; 12 without settle


@needs_onednn
def test_a_store_takes_the_place_of_its_parameters_and_new_kernels_settle_the_heap() -> None:
    found = numbers(STEP)
    assert 63 < found["taken over"] < 100, (
        found
    )  # 64 MiB of values; of the gradients' 64 what lies in memory used before
    assert found["compiled"] > 0 < found["onednn"], found
