"""``phalanx.cuda``: devices, streams, events, memory; what a full GPU says."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx import cuda, nn, optim
from phalanx.core import own_gpu, rank_local
from phalanx.core.errors import RangeError
from phalanx.dist.communicators.threads import run_threads
from tests.gpu.conftest import REAL


def test_devices(device: str) -> None:
    assert cuda.is_available()
    assert cuda.device_count() >= 1
    index = cuda.current_device()
    found = cuda.get_device_properties()
    assert found.name == cuda.get_device_name(index) == cuda.get_device_name(f"cuda:{index}")
    assert (found.major, found.minor) == cuda.get_device_capability()
    assert found.total_memory > 1 << 30
    assert cuda.is_bf16_supported() == ((found.major, found.minor) >= (8, 0))
    assert phalanx.local_device() == phalanx.device("cuda", index)
    with pytest.raises(RangeError, match=r"there (is|are)"):
        cuda.get_device_name(cuda.device_count())
    with pytest.raises(RangeError, match="expected a GPU"):
        cuda.memory_allocated("cpu")


def test_all_work_runs_on_one_stream_that_can_be_captured(device: str) -> None:
    x = phalanx.ones(3).to(device)
    import cupy

    stream = cupy.cuda.get_current_stream()
    assert stream.ptr == own_gpu.stream(cupy).ptr != 0
    assert cuda.current_stream().stream.ptr == stream.ptr
    seen: list[int] = []
    state = rank_local.carried()

    def helper() -> None:
        rank_local.take_over(state)
        seen.append(cupy.cuda.get_current_stream().ptr)

    thread = threading.Thread(target=helper)
    thread.start()
    thread.join()
    assert seen == [stream.ptr]
    assert (x * 2).tolist() == [2.0] * 3


def test_ranks_have_a_gpu_and_a_stream_each(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_DEVICES", "2")

    def rank_main() -> tuple[int, int, str]:
        phalanx.init()
        import cupy

        x = phalanx.zeros(2, device="cuda")
        found = cuda.current_device(), cupy.cuda.get_current_stream().ptr, str(x.device)
        phalanx.shutdown()
        return found

    found = run_threads(rank_main, 3)
    count = cuda.device_count()
    assert [index for index, _, _ in found] == [rank % count for rank in range(3)]
    assert len({stream for _, stream, _ in found}) == 3
    assert [place for _, _, place in found] == [f"cuda:{rank % count}" for rank in range(3)]


def test_set_device(device: str) -> None:
    if cuda.device_count() < 2:
        pytest.skip("needs two GPUs")

    def elsewhere() -> str:
        cuda.set_device(1)
        return str(phalanx.ones(1, device="cuda").device)

    assert run_threads(elsewhere, 1) == ["cuda:1"]


def test_streams_and_events(device: str) -> None:
    x = phalanx.ones(1000, device=device)
    side = cuda.Stream(priority=-1)
    began, ended = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    began.record()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        assert cuda.current_stream().stream.ptr == side.stream.ptr
        y = x * 3
        done = side.record_event()
    assert cuda.current_stream().stream.ptr != side.stream.ptr
    done.wait()
    ended.record()
    ended.synchronize()
    assert began.query() and ended.query() and side.query()
    assert began.elapsed_time(ended) >= 0
    assert y.sum().item() == 3000
    cuda.synchronize()
    with cuda.stream(None):
        pass


def test_memory_is_counted(device: str) -> None:
    cuda.empty_cache()
    before = cuda.memory_allocated()
    cuda.reset_peak_memory_stats()
    x = phalanx.zeros(1 << 20, device=device)
    assert cuda.memory_allocated() - before == 4 << 20
    assert cuda.max_memory_allocated() - before >= 4 << 20
    del x
    assert cuda.memory_allocated() == before
    assert cuda.max_memory_allocated() - before >= 4 << 20
    assert cuda.memory_reserved() >= cuda.memory_allocated()
    assert cuda.max_memory_reserved() == cuda.memory_reserved()
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    assert cuda.max_memory_allocated() == before
    free, total = cuda.mem_get_info()
    assert 0 < free <= total


def trained(device: str) -> Any:
    model = nn.Linear(256, 256).to(device)
    optimizer = optim.Adam(model.parameters())
    model(phalanx.ones(2, 256, device=device)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_what_holds_the_memory(device: str) -> None:
    gc.collect()  # what other tests have left in circles
    kept = trained(device)
    text = cuda.memory_summary()
    rows = {line[2:34].strip(): line[34:].strip() for line in text.splitlines()[1:]}
    assert rows["parameters"] == rows["gradients"] == "257.00 KiB"
    assert rows["optimizer state"] == "514.00 KiB"
    assert "activations and other tensors" in rows
    assert kept


def test_a_full_gpu_says_who_holds_it(device: str) -> None:
    kept = trained(device)
    total = cuda.mem_get_info()[1]
    cuda.set_per_process_memory_fraction(min(0.9, (cuda.memory_reserved() + (64 << 20)) / total))
    try:
        with pytest.raises(cuda.OutOfMemoryError) as caught:
            phalanx.zeros(1 << 26, device=device)
        assert isinstance(caught.value, MemoryError)
        assert isinstance(caught.value, phalanx.PhalanxError)
        text = str(caught.value)
        for word in (
            "has no memory for 256.00 MiB more", "the pool may take", "parameters", "optimizer state", "batch_size",
            "utils.checkpoint", "nvidia-smi",
        ):  # fmt: skip
            assert word in text, text
    finally:
        cuda.set_per_process_memory_fraction(1.0)
    assert phalanx.zeros(1 << 20, device=device).sum().item() == 0
    assert kept
    with pytest.raises(RangeError, match="a fraction above 0"):
        cuda.set_per_process_memory_fraction(0)


def test_one_seed_serves_all_devices(device: str) -> None:
    cuda.manual_seed_all(5)
    first = nn.functional.dropout(phalanx.ones(64, device=device), 0.5).tolist()
    cuda.manual_seed(5)
    assert nn.functional.dropout(phalanx.ones(64, device=device), 0.5).tolist() == first


@pytest.mark.skipif(REAL, reason="about machines without a GPU")
@pytest.mark.parametrize("devices", ["none", "no CuPy"])
def test_without_a_gpu_it_says_so(device: str, devices: str) -> None:
    environ = {**os.environ, "STANDIN_DEVICES": "0"}
    if devices == "no CuPy":
        environ["PYTHONPATH"] = os.pathsep.join(
            p for p in environ["PYTHONPATH"].split(os.pathsep) if "standin" not in p
        )
    code = (
        "import phalanx, sys\n"
        "print(phalanx.cuda.is_available(), phalanx.local_device(), phalanx.cuda.memory_allocated())\n"
        "phalanx.cuda.synchronize(); phalanx.cuda.empty_cache()\n"
        "try: phalanx.ones(2).cuda()\n"
        "except phalanx.core.errors.RangeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("False cpu 0\n"), done
    words = "sees no device" if devices == "none" else "needs CuPy, which cannot be imported here"
    assert words in done.stdout


def test_importing_starts_nothing() -> None:
    code = "import sys, phalanx; phalanx.init(); print('cupy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_arrays_are_numbers_again_on_the_host(device: str) -> None:
    assert np.array_equal(phalanx.arange(5).to(device).cpu().numpy(), np.arange(5))
